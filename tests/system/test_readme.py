"""The README's commands for a person's own recordings, as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = {".venv/bin/edge-agent": "edge_agent", ".venv/bin/fleet-server": "fleet_server"}


def commands() -> list[str]:
    section = (ROOT / "README.md").read_text().partition("## Your own recordings")[2].partition("## ")[0]
    return [line.partition("#")[0].strip() for line in re.findall(r"^\.venv/bin/.*$", section, re.MULTILINE)]


def test_there_are_some() -> None:
    assert len(commands()) == 3


@pytest.mark.parametrize("command", commands())
def test_it_does_what_it_says(command: str, tmp_path: Path) -> None:
    program, *words = shlex.split(command)
    words = [word.replace("build/my.bundle", str(tmp_path / "my.bundle")) for word in words]
    once = ["--once"] if words[0] == "run" else []
    argv = [sys.executable, "-m", MODULE[program], *words, *once]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    expected = {"run": "ALARM", "evaluate": "1 of 1 anomalous stretches found", "train": "written to"}
    assert expected[words[0]] in done.stdout
