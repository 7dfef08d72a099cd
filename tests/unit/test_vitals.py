"""What systemd is told, and that no part of the agent stands still unseen."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent import systemd
from edge_agent.vitals import AWAY_S, LONGER_S, STALL_S, Vitals
from tests.unit.test_clock import Time


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager's end of the notification socket."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@pdm-{tmp_path.name}-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(name if name[0] == "/" else "\0" + name[1:])
        end.settimeout(0.001)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        yield end


def heard(manager: socket.socket) -> list[str]:
    said = []
    try:
        while True:
            said += manager.recv(4096).decode().splitlines()
    except TimeoutError:
        return said


def test_the_manager_hears_each_word(manager: socket.socket) -> None:
    assert systemd.notify(systemd.READY, "STATUS=2 machines")
    assert heard(manager) == ["READY=1", "STATUS=2 machines"]
    assert systemd.watchdog_s() == 30.0


def test_a_manager_that_does_not_listen_holds_nothing_up(manager: socket.socket) -> None:
    said = [systemd.notify(systemd.ALIVE) for _ in range(2000)]
    assert said[0]
    assert not said[-1]


@pytest.mark.parametrize("where", ["", "relative", "/nowhere/at/all", "@nobody-listens-here"])
def test_without_a_manager_nothing_happens(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", where)
    monkeypatch.setenv("WATCHDOG_PID", "1")
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert not systemd.notify(systemd.READY)
    assert systemd.watchdog_s() is None  # it is somebody else's


def test_the_watchdog_is_kept_quiet_only_while_every_part_moves(manager: socket.socket) -> None:
    machine = Time()
    vitals = Vitals(machine.clock())
    uplink, rollout = vitals.pulse("uplink"), vitals.pulse("rollout")
    said = []
    for _ in range(round(STALL_S)):
        machine.monotonic += 1
        uplink()
        assert vitals.look(lambda: "well") is None
        said += heard(manager)
    assert said.count("WATCHDOG=1") >= 4
    assert "STATUS=well" in said
    for _ in range(round(STALL_S) + 1):  # now the uplink stands still, while the rollout may take its time
        machine.monotonic += 1
        rollout()
        still = vitals.look()
    assert still == "uplink"
    heard(manager)
    for _ in range(60):
        machine.monotonic += 1
        assert vitals.look() == "uplink"
    assert "WATCHDOG=1" not in heard(manager)
    assert LONGER_S["rollout"] > STALL_S


def test_a_process_that_was_stopped_blames_no_part() -> None:
    machine = Time()
    vitals = Vitals(machine.clock())
    vitals.pulse("uplink")
    machine.monotonic += 600
    assert vitals.look() is None
    for _ in range(round(STALL_S)):
        machine.monotonic += min(1.0, AWAY_S)
        last = vitals.look()
    assert last is None
    machine.monotonic += 1.5
    assert vitals.look() == "uplink"


def test_a_part_that_has_ended_is_not_missed() -> None:
    machine = Time()
    vitals = Vitals(machine.clock())
    vitals.pulse("uplink")
    vitals.over("uplink")
    for _ in range(100):
        machine.monotonic += 1
        assert vitals.look() is None
