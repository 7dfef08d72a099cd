"""A command is done once, in time, and for whom it is meant; what came of it is in the outbox with it."""

from __future__ import annotations

import sqlite3
import uuid
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_agent.clock import Clock
from edge_agent.commands import KEEP, Commands
from edge_agent.errors import CommandRefused
from edge_agent.outbox import Outbox
from models.bundle.signing import PublicKeys
from models.contract.base import Stream
from models.contract.codec import load
from models.contract.commands import RequestReport, SetBudget
from models.contract.messages import CommandResult, Outcome
from tests.builders import NOW, Fleet


class Device:
    """The commands part of a device, on an outbox of its own; what was done is in `done` and in a table."""

    def __init__(self, path: Path) -> None:
        self.fleet, self.path, self.done = Fleet(), path, []
        self.now, self.leapt = NOW.timestamp(), 0.0
        self.start()

    def start(self) -> None:
        self.outbox, self.counters = Outbox(self.path), Counter()
        keys = PublicKeys([self.fleet.server.public])
        clock = Clock(wall=lambda: self.now, monotonic=lambda: self.now - self.leapt, synchronised=lambda: None)
        self.commands = Commands(self.fleet.device, keys, self.outbox, self.counters, clock)
        self.commands.register(SetBudget, self.set_budget)

    def set_budget(self, body: SetBudget, db: sqlite3.Connection) -> str:
        db.execute("CREATE TABLE IF NOT EXISTS here (budget INTEGER)")
        db.execute("INSERT INTO here VALUES (?)", (body.bytes_per_day,))
        if body.bytes_per_day == 66_666:
            raise CommandRefused("not this one")
        if body.bytes_per_day == 77_777:
            raise ZeroDivisionError("oh")
        self.done.append(body.bytes_per_day)
        return f"{body.bytes_per_day} a day"

    def written(self) -> list[int]:
        with sqlite3.connect(self.path) as db:
            return [n for (n,) in db.execute("SELECT budget FROM here")]

    def results(self) -> list[CommandResult]:
        return [load(CommandResult, row.body) for row in self.outbox.after(Stream.HEALTH, 0, 100)]

    def order(self, per_day: int, **changes: Any) -> None:
        self.commands.take(self.fleet.command(SetBudget(bytes_per_day=per_day), **changes))


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path / "outbox.db")


def test_a_command_is_done_once_also_over_a_restart_and_answered_each_time(device: Device) -> None:
    note = device.fleet.command(SetBudget(bytes_per_day=20_000))
    device.commands.take(note)
    device.commands.take(note)
    device.outbox.close()
    device.start()
    device.commands.take(note)
    assert device.done == device.written() == [20_000]
    assert {(r.outcome, r.reason, r.command) for r in device.results()} == {(Outcome.DONE, "20000 a day", "set_budget")}
    assert len(device.results()) == 3


def test_a_command_past_its_deadline_is_not_done(device: Device) -> None:
    device.now = (NOW + timedelta(hours=25)).timestamp()
    device.order(20_000)
    assert (device.done, device.results()[0].outcome) == ([], Outcome.EXPIRED)
    assert "past" in device.results()[0].reason


def test_a_clock_that_leaps_ahead_ends_no_deadline(device: Device) -> None:
    device.leapt = timedelta(days=365).total_seconds()
    device.now += device.leapt
    device.order(20_000)
    assert device.done == [20_000]


def test_a_device_whose_clock_was_never_set_obeys(device: Device) -> None:
    device.now = 0.0
    device.order(20_000)
    assert device.done == [20_000]


def test_the_newest_word_about_a_state_wins_and_what_is_no_state_is_never_overtaken(device: Device) -> None:
    older, newer = (
        device.fleet.command(SetBudget(bytes_per_day=20_000)),
        device.fleet.command(SetBudget(bytes_per_day=30_000)),
    )
    free = device.fleet.command(SetBudget(bytes_per_day=40_000), latest=None, sequence=1)
    for note in (newer, older, free):
        device.commands.take(note)
    assert device.done == [30_000, 40_000]
    assert [r.outcome for r in device.results()] == [Outcome.DONE, Outcome.SUPERSEDED, Outcome.DONE]


@pytest.mark.parametrize(
    ("per_day", "outcome", "reason"),
    [(66_666, Outcome.REFUSED, "not this one"), (77_777, Outcome.FAILED, "ZeroDivisionError: oh")],
)
def test_what_a_handler_did_before_it_gave_up_is_undone(
    device: Device, per_day: int, outcome: Outcome, reason: str
) -> None:
    device.order(20_000)
    device.order(per_day)
    assert device.written() == [20_000]
    assert (device.results()[1].outcome, device.results()[1].reason) == (outcome, reason)


def test_what_nobody_here_can_do_is_refused_with_a_reason(device: Device) -> None:
    device.commands.take(device.fleet.command(RequestReport()))
    device.commands.take(device.fleet.command(RequestReport(), body={"kind": "self_destruct\n"}))
    device.commands.take(device.fleet.command(RequestReport(), body={"kind": "set_budget", "bytes_per_day": 3}))
    assert [r.outcome for r in device.results()] == [Outcome.REFUSED] * 3
    assert "no part" in device.results()[0].reason
    assert "self_destruct" in device.results()[1].reason
    assert "bytes_per_day" in device.results()[2].reason


def test_a_forged_command_and_one_for_another_device_are_only_counted(device: Device) -> None:
    device.commands.take(Fleet(device.fleet.device).command(SetBudget(bytes_per_day=20_000)))
    device.order(20_000, device="plant1.other")
    assert (device.done, device.results(), device.counters["commands_refused"]) == ([], [], 2)


def test_the_memory_of_commands_is_bounded(device: Device) -> None:
    rows = [(str(uuid.uuid4()), i, None, "done", "") for i in range(1, KEEP + 50)]
    device.outbox.put([], within=lambda db: db.executemany("INSERT INTO command VALUES (?, ?, ?, ?, ?)", rows))
    device.order(20_000, sequence=KEEP + 1000)
    with sqlite3.connect(device.path) as db:
        assert db.execute("SELECT count(*), min(sequence) FROM command").fetchone() == (KEEP, 51)
