"""How kernels are compiled, said once: eagerly, cached, vectorised, and never a reason not to start."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
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
NAME: Final = "load_additional_registries"  # a method of Numba's contexts
VARIABLE: Final = "PDM_COMPILE_KERNELS"  # set in the process that compiles for others


def kernel(signature: Any) -> Callable[[F], F]:
    """Compile for this signature now, at import, so that the first window is not late.

    Division by zero gives inf or nan as in NumPy instead of an exception.
    """

    def compiled(function: F) -> F:
        jit = numba.njit(cache=CACHED, fastmath=FASTMATH, error_model="numpy", nogil=True)
        dispatcher = jit(function)
        if _thin.usable and not _thin.load(dispatcher, signature):
            _compile_elsewhere(function.__module__)
            if not _thin.load(dispatcher, signature):
                _thin.end()
        dispatcher.compile(signature)
        dispatcher.disable_compile()
        return cast(F, dispatcher)

    return compiled


class _Thin:
    """Loads compiled kernels from the cache without the part of Numba that only compiling needs: its libraries of typed
    functions, and LLVM's code generation. That is 40 MB of a gateway's memory and half a second of each start.

    Numba has no public way for this. Where its insides are not as expected, everything is loaded as ever. The price: in
    a process that loads kernels, everything that Numba compiles must be one.
    """

    def __init__(self) -> None:
        self._usual: list[tuple[Any, Any]] = []
        self.usable = CACHED and VARIABLE not in os.environ
        if not self.usable:
            return
        try:
            from llvmlite import binding
            from numba.core.cpu import CPUContext
            from numba.core.runtime import _nrt_python  # type: ignore[attr-defined]
            from numba.core.typing.context import Context

            for name, address in _nrt_python.c_helpers.items():  # as rtsys.initialize does before it compiles
                binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)
            for kind in (CPUContext, Context):
                self._usual.append((kind, getattr(kind, NAME)))
                setattr(kind, NAME, lambda _self: None)
        except (ImportError, AttributeError):
            self.end()

    def load(self, dispatcher: Any, signature: Any) -> bool:
        """True: it is in the cache, so that compiling it is loading it."""
        try:
            cache, target = dispatcher._cache, dispatcher.targetctx
            return cache._cache_file.load(cache._index_key(signature, target.codegen())) is not None
        except (AttributeError, OSError):
            return False

    def end(self) -> None:
        """From here on Numba is whole, and may compile."""
        self.usable = False
        for kind, usual in self._usual:
            setattr(kind, NAME, usual)
        if self._usual:
            from numba.core.registry import cpu_target

            for context in (cpu_target.typing_context, cpu_target.target_context):
                context.load_additional_registries()
                context.refresh()


_thin: Final = _Thin()


def _compile_elsewhere(module: str) -> None:
    """Fill the cache from a process of its own, whose memory is free again afterwards."""
    subprocess.run([sys.executable, "-c", f"import {module}"], env={**os.environ, VARIABLE: "1"}, check=False)
