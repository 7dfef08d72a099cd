"""The agent runs as its unit starts it: unprivileged, on a file system it cannot write, and writes its state only."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulators.embedded.processes import Process, http_ready
from tests import support
from tests.faults import needs, unit
from tests.support import eventually

ROOT = Path(__file__).parents[2]
CONFIG = """
device = "plant1.gw1"
state_dir = "${PDM_STATE}"
heartbeat_s = 0.5
[form]
port = 0
[[asset]]
id = "pump1"
source = "csv"
[asset.csv]
path = "recording.csv"
speed = 100
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A place that another user may enter, with a configuration below etc/pdm."""
    needs.root("unshare", "setpriv")
    with support.reachable_folder() as root:
        (root / "etc/pdm").mkdir(parents=True)
        rows = "\n".join(f"{i},{(i * 7919) % 101}" for i in range(20_000))
        (root / "etc/pdm/recording.csv").write_text(f"time,vib\n{rows}\n")
        (root / "etc/pdm/agent.toml").write_text(CONFIG)
        yield root


def test_the_unit_gives_no_right_away() -> None:
    said = unit.settings()
    for key, value in {
        "Type": "notify", "User": "pdm", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes",
        "CapabilityBoundingSet": "", "PrivateDevices": "yes", "PrivateTmp": "yes", "RestrictNamespaces": "yes",
        "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX", "LockPersonality": "yes", "Restart": "always",
    }.items():  # fmt: skip
        assert said[key] == [value], key
    assert "MemoryMax" in said
    assert "WatchdogSec" in said


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_reads_the_unit_and_finds_little_exposed() -> None:
    verify = subprocess.run(["systemd-analyze", "verify", str(unit.UNIT)], capture_output=True, text=True, check=False)
    assert "Unknown" not in verify.stderr
    assert "nvalid" not in verify.stderr
    argv = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit.UNIT)]
    exposed = subprocess.run(argv, capture_output=True, text=True, check=False)
    if "Unrecognized option" in exposed.stderr or "unrecognized option" in exposed.stderr:
        pytest.skip("this systemd-analyze is too old to look at a file")
    assert exposed.returncode == 0, exposed.stdout[-300:]  # at most 2.0 of 10


def run_as_the_unit(root: Path, agent: list[str]) -> None:
    """Start it, see it score, see what it may and what it wrote, stop it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(root / "notify"))
        (root / "notify").chmod(0o777)
        manager.settimeout(60)
        began = time.time()
        argv = unit.command(root, ["env", f"NOTIFY_SOCKET={root}/notify", *agent])
        process = Process("agent", argv, log=root / "agent.log")
        process.start()
        try:
            assert manager.recv(4096).startswith(b"READY=1"), process.tail()
            state = root / "var/lib/pdm"
            url = json.loads((state / "page.json").read_text())["url"]
            assert http_ready(f"{url}/api/status")
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            status = dict(line.split(":	", 1) for line in lines if ":	" in line)
            assert status["Uid"].split() == [str(unit.NOBODY)] * 4
            assert status["NoNewPrivs"] == "1"
            assert {status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {"0" * 16}
            for place in ("/etc", str(ROOT / "models"), str(root / "etc/pdm"), "/usr"):
                trial = ["nsenter", f"--mount=/proc/{process.pid}/ns/mnt", "touch", f"{place}/pdm-was-here"]
                tried = subprocess.run(trial, capture_output=True, text=True, check=False)  # root itself can not
                assert "Read-only file system" in tried.stderr, place
            eventually(lambda: (state / "outbox.db").stat().st_size > 0, timeout=20)
            process.terminate()
            eventually(lambda: process.returncode == 0, timeout=20, message=process.tail())
        finally:
            process.kill()
    log = (root / "agent.log").read_text()
    assert "page: " in log
    assert not [line for line in log.splitlines() if re.search("warn|error|traceback|onnxruntime", line, re.IGNORECASE)]
    written = [p for p in root.rglob("*") if p.is_file() and p.stat().st_mtime > began and p.name != "agent.log"]
    assert written
    assert {p.relative_to(root).parts[:3] for p in written} <= {("var", "lib", "pdm"), ("var", "cache", "pdm")}
    assert not list(Path("/tmp").glob(f"pdm-kernels-{unit.NOBODY}"))


def test_as_its_unit_starts_it(root: Path) -> None:
    run_as_the_unit(root, [sys.executable, "-m", "edge_agent"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_installed_from_its_wheel_it_runs_as_its_unit_starts_it(root: Path) -> None:
    env = os.environ | {"DESTDIR": str(root), "PYTHON": sys.executable}
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(root / "dist"), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = (root / "dist").glob("pdm_loop-*.whl")
    install = [str(ROOT / "deploy/install.sh"), str(wheel)]
    first = subprocess.run(install, capture_output=True, text=True, check=True, env=env)
    assert "no mistake" in first.stdout
    assert (root / "etc/pdm/agent.toml").read_text() == CONFIG  # what is there stays
    assert list((root / "var/cache/pdm").rglob("*.nbi"))
    run_as_the_unit(root, [str(root / "opt/pdm/current/bin/edge-agent")])
    first_version = os.readlink(root / "opt/pdm/current")
    newer = root / "dist/pdm_loop-9.9.9-py3-none-any.whl"  # to the installer another version
    shutil.copy(wheel, newer)
    subprocess.run([str(ROOT / "deploy/install.sh"), str(newer)], capture_output=True, check=True, env=env)
    assert os.readlink(root / "opt/pdm/current").startswith("9.9.9-")
    subprocess.run([str(ROOT / "deploy/install.sh"), "--back"], check=True, env=env, capture_output=True)
    assert os.readlink(root / "opt/pdm/current") == first_version
