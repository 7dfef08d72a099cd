"""Memory that only starting needed goes back: code of LLVM, of model loaders, of schemas' builders.

It is in files, so nothing is lost: what is needed after all comes back from the page cache by itself. Linux alone tells
enough of its mappings for this; elsewhere nothing happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_DONTNEED: Final = 4  # MADV_DONTNEED
_MAPPING: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (r-[-x]p) \S+ \S+ \S+ +(/.*\.so[.\d]*)$")


def shrink() -> int:
    """Bytes of libraries' code and constants that are no longer resident. What is needed of them comes back at once."""
    given = 0
    with contextlib.suppress(OSError, AttributeError):  # no /proc, or another C library
        c = ctypes.CDLL(None)
        c.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for start, end, resident in _unchanged(Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace")):
            if c.madvise(start, end - start, _DONTNEED) == 0:
                given += resident
        c.malloc_trim(0)
    return given


def _unchanged(smaps: str) -> Iterator[tuple[int, int, int]]:
    """Start, end and resident bytes of the read-only mappings of libraries of which this process changed no page: those
    can be read from the file again. The loader does change some that are read-only later."""
    mapping: tuple[int, int] | None = None
    resident = 0
    for line in smaps.splitlines():
        if found := _MAPPING.match(line):
            mapping = int(found[1], 16), int(found[2], 16)
        elif re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            mapping = None
        elif mapping and line.startswith("Rss:"):
            resident = int(line.split()[1]) * 1024
        elif mapping and line.startswith("Anonymous:") and line.split()[1] == "0":
            yield *mapping, resident
