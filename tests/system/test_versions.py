"""deploy/install.sh over an agent that has been running: a newer version and back, and never one that can not run.

A version here is a folder as pip would have filled it, with this tree's program, newer or older in what it knows of the
state. test_unit installs from a real wheel.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent import state
from edge_agent.outbox import Outbox
from models.contract.base import Stream
from tests.system.test_unit import CONFIG

ROOT = Path(__file__).parents[2]
PROGRAM = """#!{python}
import os, sys
from pathlib import Path
from edge_agent import state
state.FORMAT, state.NEEDS = {format}, {needs}
from edge_agent.cli import main
if "{breaks}" in sys.argv:
    sys.exit(1)
code = main(sys.argv[1:])
place = Path(os.environ["PDM_STATE"])
if "run" in sys.argv and state.FORMAT > 1 and not (place / "tomorrow").exists():
    from tests.versions import tomorrow
    tomorrow(place)
sys.exit(code)
"""
SERVICE = """#!/bin/sh
# As systemd with Type=notify: the start has failed if the program has.
[ "$1" = restart ] || exit 0
exec "{root}/opt/pdm/current/bin/edge-agent" run --once --config "{root}/etc/pdm/agent.toml"
"""


class Place:
    """A gateway's file system below a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.opt, self.state = root, root / "opt/pdm", root / "var/lib/pdm"
        (root / "etc/pdm").mkdir(parents=True)
        rows = "\n".join(f"{i},{(i * 7919) % 101}" for i in range(400))
        (root / "etc/pdm/recording.csv").write_text(f"time,vib\n{rows}\n")
        (root / "etc/pdm/agent.toml").write_text(CONFIG.replace("port = 0", "port = -1").replace("speed = 100", ""))
        self._script(root / "systemctl", SERVICE.format(root=root))

    def version(self, number: str, format: int = 1, needs: int = 1, breaks: str = "-") -> Path:
        """Its wheel. `breaks`: the command of it that fails."""
        wheel = self.root / f"pdm_loop-{number}-py3-none-any.whl"
        wheel.write_text(number)
        digest = subprocess.run(["sha256sum", wheel], capture_output=True, text=True, check=True).stdout[:8]
        folder = self.opt / f"{number}-{digest}"
        (folder / "bin").mkdir(parents=True)
        text = PROGRAM.format(python=sys.executable, format=format, needs=needs, breaks=breaks)
        self._script(folder / "bin/edge-agent", text)
        (folder / "bin/python").symlink_to("/bin/true")  # fills the kernels' cache
        (folder / "edge-agent.service").write_text(f"# of {number}\n")
        (folder / ".whole").touch()
        return wheel

    @staticmethod
    def _script(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def install(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        env = {"DESTDIR": str(self.root), "PYTHON": sys.executable, "SYSTEMCTL": str(self.root / "systemctl")}
        env |= {"PDM_STATE": str(self.state), "PYTHONPATH": str(ROOT)}
        argv = [str(ROOT / "deploy/install.sh"), *map(str, words)]
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ | env)

    @property
    def current(self) -> str:
        unit = (self.root / "etc/systemd/system/edge-agent.service").read_text()
        number = os.readlink(self.opt / "current").split("-")[0]
        assert unit == f"# of {number}\n"  # each version comes with its unit
        return number

    def produced(self) -> tuple[str, int]:
        outbox = Outbox(self.state / "outbox.db", owner=False)
        counts = outbox.counts()
        outbox.close()
        assert not any(count.evicted for count in counts.values())
        return outbox.epoch, counts[Stream.HEALTH].produced


def test_a_newer_version_and_back_again_lose_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    done = place.install(place.version("1.0"))
    assert done.returncode == 0, done.stderr
    epoch, before = place.produced()
    assert place.install(place.version("2.0", format=2)).returncode == 0
    assert place.current == "2.0"
    done = place.install("--back")
    assert done.returncode == 0, done.stderr
    assert place.current == "1.0"
    found = state.read(place.state)
    assert found is not None
    assert found.format > 1  # what 2.0 has added is still there
    after = place.produced()
    assert (after[0], after[1] > before) == (epoch, True)


@pytest.mark.slow
def test_no_version_is_taken_up_that_can_not_go_on_with_what_is_there(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert place.install("--back").returncode == 1
    assert place.install(place.version("1.0")).returncode == 0
    produced = place.produced()

    done = place.install(place.version("1.1", breaks="run"))  # it does not come up
    assert done.returncode == 1
    assert "1.1-" in done.stderr
    assert "1.0-" in done.stderr
    assert "runs again" in done.stderr
    assert place.current == "1.0"
    assert place.produced()[1] > produced[1]  # it does run again

    done = place.install(place.version("1.2", breaks="check"))  # refuses what is configured
    assert done.returncode == 1
    assert "current stays 1.0-" in done.stderr
    assert place.current == "1.0"

    assert place.install(place.version("3.0", format=3, needs=3)).returncode == 0
    done = place.install("--back")
    assert done.returncode == 1
    assert "needs state format 3" in done.stdout
    assert place.current == "3.0"
    assert place.install(place.version("3.1", format=4, needs=3)).returncode == 0
    kept = {path.name.split("-")[0] for path in place.opt.iterdir() if path.is_dir() and not path.is_symlink()}
    assert kept == {"3.0", "3.1"}  # the disk of a gateway does not fill with old ones
