"""How kernels are compiled, said once: eagerly, cached, vectorised, and never a reason not to start."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
import numba.types

F = TypeVar("F", bound=Callable[..., Any])

types: Any = numba.types  # Numba is typed here and there, and elsewhere not
_config: Any = numba.config

# What lets LLVM turn a sum into several and use fused multiply-add. Not nnan and ninf: under them a dead sensor's
# nan could be assumed away.
FASTMATH: Final = {"reassoc", "contract", "nsz"}

# Read-only array types also take writable arrays, so a window may be a view of a received buffer.
WINDOW: Final = types.Array(types.float32, 2, "C", readonly=True)
SAMPLES: Final = types.Array(types.float32, 1, "C", readonly=True)
BITS: Final = types.Array(types.int32, 1, "C", readonly=True)
FEATURES: Final = types.Array(types.float64, 2, "C")


def _may_write(folder: Path) -> bool:
    """Try it: os.access knows nothing of a read-only mount inside a container, or of quotas."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _private_temp_dir() -> Path | None:
    """A folder below the temp dir that only this user can write to: a cached kernel is code that will be run."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    try:
        folder = Path(tempfile.gettempdir()) / f"pdm-kernels-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:  # also: no temp dir at all
        return None
    ours = not hasattr(os, "getuid") or (found.st_uid == user and not found.st_mode & 0o077)
    return folder if stat.S_ISDIR(found.st_mode) and ours and _may_write(folder) else None


def _choose_cache() -> bool:
    """Point Numba at a usable cache, if there is one. False: compile at each start, which takes seconds."""
    if chosen := _config.CACHE_DIR:  # NUMBA_CACHE_DIR
        return _may_write(Path(chosen))
    if _may_write(Path(__file__).parent / "__pycache__"):
        return True
    if folder := _private_temp_dir():
        _config.CACHE_DIR = str(folder)
        return True
    return False


CACHED: Final = _choose_cache()


def kernel(signature: Any) -> Callable[[F], F]:
    """Compile for this signature now, at import, so that the first window is not late.

    Division by zero gives inf or nan as in NumPy instead of an exception.
    """

    def compiled(function: F) -> F:
        return cast(
            F, numba.njit(signature, cache=CACHED, fastmath=FASTMATH, error_model="numpy", nogil=True)(function)
        )

    return compiled
