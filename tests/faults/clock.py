"""Another wall clock for one process, steered while it runs (libfaketime). The monotonic clock stays true, as it does
on a real machine whose time is set."""

from __future__ import annotations

from pathlib import Path

import pytest

LIBRARIES = "/usr/lib/*/faketime/libfaketimeMT.so.1"


class Clock:
    """What the process thinks: the true time plus `offset`, or running at another speed from its start."""

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/").glob(LIBRARIES[1:]))
        if not found:
            pytest.skip("libfaketime is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        self._library, self._file, self._folder = found[0], folder / "faketime", folder
        # time.sleep fails under a monotonic clock that is left alone; select sleeps as well.
        sleep = "import select, time\ntime.sleep = lambda s: select.select([], [], [], s)"
        (folder / "sitecustomize.py").write_text(sleep)
        self.offset(0)

    def offset(self, seconds: float) -> None:
        """Step it, as somebody who sets the clock would."""
        self._write(f"{seconds:+.3f}")

    def at(self, when: str) -> None:
        """Start a process at this local time, "1970-01-02 00:00:00"; it goes on from there."""
        self._write(f"@{when}")

    def speed(self, factor: float) -> None:
        """Let it run so many times as fast."""
        self._write(f"+0 x{factor:g}")

    @property
    def env(self) -> dict[str, str]:
        """For the process."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": str(self._folder),
            "TZ": "UTC",
        }

    def _write(self, text: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(text + "\n")
        new.rename(self._file)
