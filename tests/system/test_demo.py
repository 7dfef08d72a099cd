"""The demo as its visitor starts and ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import eventually, processes_naming


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A demo that has its first data."""
    log = tmp_path / "terminal"
    command = [sys.executable, "-m", "simulators", "demo", "--home", str(tmp_path / "demo")]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        eventually(lambda: "first data" in log.read_text(), timeout=60, message=log.read_text())
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_however_it_ends_it_leaves_nothing_behind(
    demo: subprocess.Popen[bytes], tmp_path: Path, number: signal.Signals
) -> None:
    assert len(processes_naming(str(tmp_path / "demo"))) > 5
    os.kill(demo.pid, number)
    code = demo.wait(timeout=30)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    eventually(lambda: not processes_naming(str(tmp_path / "demo")), timeout=30, message="something is left")
