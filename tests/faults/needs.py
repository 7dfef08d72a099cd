"""What a fault needs of the machine; where it is missing the test is skipped, and says so."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

import pytest


def root(*programs: str) -> None:
    """Skip unless this is Linux's root with these programs."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not os.path.isdir("/proc/self"):
        pytest.skip("needs root on Linux")
    if missing := [name for name in programs if not shutil.which(name, path=PATH)]:
        pytest.skip(f"not installed: {', '.join(missing)}")


def run(*argv: str, check: bool = True) -> str:
    """A system command's output. Raises CalledProcessError with what it said."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "PATH": PATH})
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def works(*argv: str) -> bool:
    try:
        run(*argv)
    except (RuntimeError, OSError):
        return False
    return True


def or_skip(why: str, argv: Sequence[str]) -> None:
    """Run it; a kernel that can not do it skips the test."""
    if not works(*argv):
        pytest.skip(f"{why}: {' '.join(argv)} does not work here")


PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
