"""Nobody who makes records waits for the disk; what finds no place is counted, the lowest first; a person hears."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.config import OutboxRoom
from edge_agent.outbox import Outbox, Writer
from models.contract.base import Stream
from models.contract.messages import Body
from tests.builders import a_status, an_event, some_scores
from tests.faults.limits import fill, small_disk
from tests.support import eventually
from tests.unit.test_outbox import evicted, numbers


class Desk:
    """A writer in a thread, and what it told."""

    def __init__(self, path: Path, room: OutboxRoom | None = None, memory_bytes: int = 2**20) -> None:
        self.outbox, self.counters, self.told = Outbox(path, room), Counter(), []
        self.writer = Writer(self.outbox, self.counters, self.told.extend, memory_bytes)
        self.thread = threading.Thread(target=self.writer.loop)

    def close(self) -> None:
        self.writer.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "outbox.db")
    desk.thread.start()
    yield desk
    desk.close()


@contextmanager
def read_only(outbox: Outbox) -> Iterator[None]:
    outbox._db.execute("PRAGMA query_only=ON")
    yield
    outbox._db.execute("PRAGMA query_only=OFF")


def test_what_is_put_is_on_disk_soon_and_then_told(desk: Desk) -> None:
    event, seen = an_event(), []
    desk.writer.put([event, some_scores()], lambda db: seen.append(db.in_transaction))
    assert desk.writer.flush(10)
    assert desk.outbox.waiting() == {Stream.ALARM: 1, Stream.TELEMETRY: 1}
    assert seen == [True]
    eventually(lambda: event in desk.told)


def test_what_belongs_to_an_alarm_is_done_in_its_order_and_given_up_only_with_it(tmp_path: Path) -> None:
    """A raise with telemetry before it, and its clear at once: the clear is the last word. And telemetry that finds no
    place takes nothing of the alarm's with it."""
    desk, did = Desk(tmp_path / "outbox.db", memory_bytes=6000), []
    desk.thread.start()
    try:
        with read_only(desk.outbox):
            desk.writer.put([some_scores(), an_event()], lambda _: did.append("raised"))
            desk.writer.put([an_event()], lambda _: did.append("cleared"))
            eventually(lambda: desk.writer.unusable)
            for _ in range(20):
                desk.writer.put([some_scores()])
            assert desk.counters["dropped_in_memory.telemetry"]
        assert desk.writer.flush(20)
    finally:
        desk.close()
    assert did == ["raised", "cleared"]


def test_a_slow_disk_holds_up_nobody_and_makes_larger_batches(desk: Desk) -> None:
    """Half a second for each commit: somebody else holds the file for so long."""
    other = sqlite3.connect(desk.outbox.path, isolation_level=None, timeout=30)
    slowest, commits = 0.0, 0
    for _ in range(4):
        other.execute("BEGIN IMMEDIATE")
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            began = time.monotonic()
            desk.writer.put([some_scores()])
            slowest = max(slowest, time.monotonic() - began)
            commits += 1
            time.sleep(0.005)
        other.execute("COMMIT")
    other.close()
    assert desk.writer.flush(20)
    assert desk.outbox.counts()[Stream.TELEMETRY].waiting == ((1, commits),)
    assert desk.outbox.changes < commits / 2
    assert slowest < 0.45  # less than one commit: nobody waited for the disk


def test_while_the_disk_takes_nothing_memory_is_bounded_and_the_lowest_goes(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "outbox.db", memory_bytes=200_000)
    events = [an_event() for _ in range(20)]
    with read_only(desk.outbox):
        desk.thread.start()
        desk.writer.put([a_status()])
        eventually(lambda: desk.writer.unusable is not None)
        for event in events:
            desk.writer.put([event])
            desk.writer.put([some_scores() for _ in range(30)])
        assert "read-only" in (desk.writer.unusable or "")
        assert [body for body in desk.told if body in events] == events  # heard of at once, each once
        assert desk.writer.buffered < 600
    assert desk.writer.flush(20)
    desk.close()
    counts = desk.outbox.counts()
    assert counts[Stream.ALARM].waiting == ((1, 20),)
    assert counts[Stream.HEALTH].waiting == ((1, 1),)
    telemetry = counts[Stream.TELEMETRY]
    assert telemetry.produced == 600
    assert len(numbers(telemetry.waiting)) + len(evicted(telemetry)) == 600
    assert set(telemetry.evicted) == {"memory"}
    assert len(evicted(telemetry)) == desk.counters["dropped_in_memory.telemetry"] > 0
    assert [body for body in desk.told if body in events] == events


def test_what_is_made_at_writing_is_made_once_however_often_it_was_asked_for(tmp_path: Path) -> None:
    desk, made = Desk(tmp_path / "outbox.db"), []

    def make() -> list[Body]:
        made.append(desk.outbox.counts()[Stream.HEALTH].produced)
        return [a_status()]

    desk.thread.start()
    with read_only(desk.outbox):
        for _ in range(5):
            desk.writer.put_made(Stream.HEALTH, make)
        eventually(lambda: desk.writer.unusable)
    assert desk.writer.flush(10)
    assert set(made) == {0}
    assert desk.outbox.counts()[Stream.HEALTH].produced == 1
    desk.close()


def test_without_its_thread_whoever_puts_waits_for_the_disk(tmp_path: Path) -> None:
    desk, event = Desk(tmp_path / "outbox.db"), an_event()
    desk.writer.put([event])
    assert desk.outbox.waiting() == {Stream.ALARM: 1}
    assert desk.told == [event]


def test_a_full_disk_costs_telemetry_and_nothing_above(tmp_path: Path) -> None:
    """Another program takes everything. Alarms are still kept, the heartbeat can say so, and it ends by itself."""
    with small_disk(tmp_path / "disk", 12) as folder:
        desk = Desk(folder / "outbox.db", OutboxRoom(ballast_bytes=2**20))
        desk.thread.start()
        try:
            for _ in range(40):
                desk.writer.put([some_scores(64) for _ in range(10)])
            assert desk.writer.flush(20)
            filler = fill(folder)
            for _ in range(100):
                desk.writer.put([some_scores(64) for _ in range(10)])
                desk.writer.put([an_event(), a_status()])
                assert desk.writer.flush(20), desk.writer.unusable
            counts, storage = desk.outbox.counts(), desk.outbox.storage()
            assert (storage.state, storage.free_bytes < 2**21) == ("short", True)
            assert "full" in storage.reason
            assert counts[Stream.ALARM].waiting == counts[Stream.HEALTH].waiting == ((1, 100),)
            assert "disk_full" in counts[Stream.TELEMETRY].evicted
            assert len(numbers(counts[Stream.TELEMETRY].waiting)) + len(evicted(counts[Stream.TELEMETRY])) == 1400
            assert not (folder / "outbox.ballast").exists()
            filler.unlink()
            assert desk.outbox.disk.look()
            assert (folder / "outbox.ballast").stat().st_size == 2**20
            assert desk.outbox.storage().state == "ok"
        finally:
            desk.close()
            desk.outbox.close()
