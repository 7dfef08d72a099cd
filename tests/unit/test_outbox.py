"""What was confirmed is there, in order, once, until it is stored or given up on record, whatever happens between."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
import tempfile
import threading
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_agent.config import OutboxRoom
from edge_agent.outbox import MAX_RANGES, ROW_OVERHEAD, Outbox
from edge_agent.outbox.place import at
from models.contract.base import SeqRange, Stream
from models.contract.codec import dump
from models.contract.health import StreamCount
from models.contract.messages import STREAM_OF, Body
from tests.builders import a_status, an_annotation, an_event, some_scores

MAKERS = {
    Stream.ALARM: an_event,
    Stream.ANNOTATION: an_annotation,
    Stream.HEALTH: a_status,
    Stream.TELEMETRY: some_scores,
}
SMALL = OutboxRoom(alarm_bytes=20_000, health_bytes=4_000, telemetry_bytes=6_000)
STREAMS = st.sampled_from(sorted(MAKERS))
FOREVER = OutboxRoom(alarm_hours=1e6, health_hours=1e6, telemetry_hours=1e6)


def numbers(ranges: tuple[SeqRange, ...]) -> set[int]:
    return {n for first, last in ranges for n in range(first, last + 1)}


def evicted(count: StreamCount) -> set[int]:
    return set().union(*map(numbers, count.evicted.values()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


class Ledger(RuleBasedStateMachine):
    """Put, receive, evict, damage, cut the power, in any order: every number is stored, waiting or evicted, and one of
    these only; what waits is what was put, byte by byte."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pdm-outbox-"))
        self.outbox = Outbox(self.folder / "outbox.db", SMALL)
        self.epoch = self.outbox.epoch
        self.bodies: dict[Stream, dict[int, bytes]] = defaultdict(dict)
        self.stored: dict[Stream, set[int]] = defaultdict(set)

    @rule(streams=st.lists(STREAMS, min_size=1, max_size=6))
    def put(self, streams: list[Stream]) -> None:
        bodies: list[Body] = [MAKERS[stream]() for stream in streams]
        for body, (stream, seq) in zip(bodies, self.outbox.put(bodies), strict=True):
            assert stream is STREAM_OF[type(body)]
            assert seq == len(self.bodies[stream]) + 1
            self.bodies[stream][seq] = dump(body)

    @rule(stream=STREAMS, up_to=st.integers(0, 12), first=st.integers(1, 40), n=st.integers(0, 9))
    def receive(self, stream: Stream, up_to: int, first: int, n: int) -> None:
        ranges = [(1, up_to), (first, first + n)] if up_to else [(first, first + n)]
        waited = numbers(self.outbox.counts()[stream].waiting)
        gone = {seq for seq in waited if any(a <= seq <= b for a, b in ranges)}
        assert self.outbox.stored(stream, ranges) == len(gone)
        self.stored[stream] |= gone

    @rule(stream=STREAMS, seq=st.integers(1, 40))
    def evict(self, stream: Stream, seq: int) -> None:
        self.outbox.evict(stream, seq, "oversize")

    @rule(stream=STREAMS, byte=st.integers(0, 400))
    def damage(self, stream: Stream, byte: int) -> None:
        with sqlite3.connect(self.folder / "outbox.db") as db:
            found = db.execute("SELECT seq, body FROM row WHERE stream = ? LIMIT 1", (stream,)).fetchone()
            if found:
                body = bytearray(found[1])
                body[byte % len(body)] ^= 0x20
                db.execute("UPDATE record SET body = ? WHERE place = ?", (bytes(body), at(stream, found[0])))
        db.close()
        for row in self.outbox.after(stream, 0, 1000):
            assert row.body == self.bodies[stream][row.seq]

    @rule()
    def cut(self) -> None:
        """The file as it is on the disk now, without a goodbye."""
        copy = Path(tempfile.mkdtemp(prefix="pdm-outbox-"))
        for each in self.folder.glob("outbox.db*"):
            shutil.copy(each, copy)
        self.outbox.close()
        shutil.rmtree(self.folder)
        self.folder, self.outbox = copy, Outbox(copy / "outbox.db", SMALL)
        assert self.outbox.epoch == self.epoch

    @invariant()
    def closes(self) -> None:
        if not hasattr(self, "outbox"):
            return
        for stream, count in self.outbox.counts().items():
            waiting, gone = numbers(count.waiting), evicted(count)
            every = set(range(1, count.produced + 1))
            assert count.produced == len(self.bodies[stream])
            assert self.stored[stream] | waiting | gone == every
            assert len(self.stored[stream]) + len(waiting) + len(gone) == len(every)
            assert sum(len(numbers(r)) for r in count.evicted.values()) == len(gone)  # one cause each
            assert count.waiting_bytes == sum(len(self.bodies[stream][n]) + ROW_OVERHEAD for n in waiting)
            assert not numbers(count.evicted.get("room", ())) or stream is not Stream.ANNOTATION

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            self.outbox.close()
            shutil.rmtree(self.folder)


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_rows_come_in_order_with_their_bytes(path: Path) -> None:
    outbox, events = Outbox(path), [an_event() for _ in range(5)]
    outbox.put(events)
    rows = outbox.after(Stream.ALARM, 0, 3) + outbox.after(Stream.ALARM, 3, 10)
    assert [row.seq for row in rows] == [1, 2, 3, 4, 5]
    assert [row.body for row in rows] == [dump(event) for event in events]


def test_a_flood_of_one_class_pushes_out_only_its_own_oldest(path: Path) -> None:
    outbox = Outbox(path, SMALL)
    outbox.put([an_event(), an_annotation(), a_status()])
    for _ in range(60):
        outbox.put([some_scores()])
    counts = outbox.counts()
    assert counts[Stream.TELEMETRY].waiting_bytes <= SMALL.telemetry_bytes
    ((first, last),) = counts[Stream.TELEMETRY].evicted["room"]  # one range, however many evictions
    assert first == 1
    assert counts[Stream.TELEMETRY].waiting == ((last + 1, 60),)
    for stream in (Stream.ALARM, Stream.ANNOTATION, Stream.HEALTH):
        assert counts[stream].waiting == ((1, 1),)


def test_annotations_are_never_evicted(path: Path) -> None:
    now = [0.0]
    outbox = Outbox(path, OutboxRoom(alarm_hours=1), now=lambda: now[0])
    outbox.put([an_annotation(note="x" * 2000) for _ in range(300)])
    now[0] = 50 * 365 * 86400
    outbox._room.age_checked = -1e9
    outbox.put([an_event()])
    assert outbox.counts()[Stream.ANNOTATION].waiting == ((1, 300),)


def test_what_is_too_old_is_evicted_by_age(path: Path) -> None:
    now = [0.0]
    outbox = Outbox(path, OutboxRoom(telemetry_hours=1), now=lambda: now[0])
    outbox.put([some_scores(), some_scores()])
    now[0] = 3601.0
    outbox._room.age_checked = -1e9
    outbox.put([some_scores()])
    assert outbox.counts()[Stream.TELEMETRY].evicted == {"age": ((1, 2),)}


def test_the_room_holds_on_the_disk_too(path: Path) -> None:
    """ROW_OVERHEAD is what SQLite really takes, within a tenth and a little."""
    outbox = Outbox(path, FOREVER)
    for _ in range(20):
        outbox.put([some_scores(64) for _ in range(100)])
    used = outbox.counts()[Stream.TELEMETRY].waiting_bytes
    outbox.close()
    assert path.stat().st_size < 1.3 * used + 100_000


def test_a_damaged_row_is_put_aside_counted_and_does_not_block(path: Path) -> None:
    outbox = Outbox(path)
    outbox.put([an_event() for _ in range(3)])
    with sqlite3.connect(path) as db:
        db.execute("UPDATE record SET body = x'00' WHERE place = ?", (at(Stream.ALARM, 2),))
    assert [row.seq for row in outbox.after(Stream.ALARM, 0, 10)] == [1, 3]
    assert outbox.counts()[Stream.ALARM].evicted == {"damaged": ((2, 2),)}
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT seq, cause FROM aside").fetchall() == [(2, "damaged")]


def test_a_receipt_for_what_is_not_there_changes_nothing(path: Path) -> None:
    outbox = Outbox(path)
    outbox.put([an_event()])
    assert outbox.stored(Stream.ALARM, [(2, 2**53)]) == 0
    assert outbox.stored(Stream.HEALTH, [(1, 2**53)]) == 0
    assert outbox.counts()[Stream.ALARM].waiting == ((1, 1),)


def test_what_is_put_within_is_undone_together(path: Path) -> None:
    outbox = Outbox(path)

    def refuse(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO meta VALUES ('a', 'b')")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        outbox.put([an_event()], within=refuse)
    assert outbox.counts()[Stream.ALARM].produced == 0
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM meta WHERE key = 'a'").fetchone() == (0,)


def test_many_writers_in_threads_and_processes_get_numbers_of_their_own(path: Path) -> None:
    Outbox(path).close()
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, 40)) for _ in range(3)]
    for writer in writers:
        writer.start()
    outbox = Outbox(path)
    threads = [threading.Thread(target=lambda: [outbox.put([an_annotation()]) for _ in range(20)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for worker in (*writers, *threads):
        worker.join(60)
    assert [w.exitcode for w in writers] == [0, 0, 0]
    assert outbox.counts()[Stream.ANNOTATION].waiting == ((1, 180),)


def _write(path: Path, n: int) -> None:
    outbox = Outbox(path)
    for _ in range(n):
        outbox.put([an_annotation()])


@pytest.mark.parametrize(("point", "there"), [("outbox.before_commit", False), ("outbox.after_commit", True)])
def test_a_kill_around_the_commit(path: Path, point: str, there: bool) -> None:
    outbox = Outbox(path)
    outbox.put([an_event()])
    assert _killed_at(point, lambda: Outbox(path).put([an_event(), an_annotation()]))
    counts = Outbox(path).counts()
    assert counts[Stream.ALARM].waiting == ((1, 2 if there else 1),)
    assert counts[Stream.ANNOTATION].produced == int(there)  # a batch is whole or not at all
    assert outbox.put([an_event()]) == [(Stream.ALARM, 3 if there else 2)]


@pytest.mark.parametrize(("point", "there"), [("receipt.before_delete", True), ("receipt.after_delete", False)])
def test_a_kill_around_a_receipt(path: Path, point: str, there: bool) -> None:
    Outbox(path).put([an_event(), an_event()])
    assert _killed_at(point, lambda: Outbox(path).stored(Stream.ALARM, [(1, 1)]))
    assert Outbox(path).counts()[Stream.ALARM].waiting == ((1 if there else 2, 2),)


def _killed_at(point: str, act: object) -> bool:
    def child() -> None:
        os.environ["PDM_CRASH_AT"] = point
        act()  # type: ignore[operator]

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    return process.exitcode == -signal.SIGKILL


def test_a_count_is_bounded_and_never_claims_too_much(path: Path) -> None:
    outbox = Outbox(path, FOREVER)
    n = 2 * MAX_RANGES + 100
    for _ in range(n // 100):
        outbox.put([an_annotation() for _ in range(100)])
    outbox.stored(Stream.ANNOTATION, [(i, i) for i in range(2, n, 2)])
    count = outbox.counts()[Stream.ANNOTATION]
    assert len(count.waiting) <= MAX_RANGES
    # What is left out would be missing to the server: so numbers after the last range told are not claimed as produced.
    assert numbers(count.waiting) | {*range(2, n, 2)} >= set(range(1, count.produced + 1))


@pytest.mark.parametrize(("rule", "kept"), [("drop_oldest", (21, 60)), ("drop_newest", (1, 40))])
def test_who_goes_when_a_class_is_full_can_be_chosen(path: Path, rule: str, kept: tuple[int, int]) -> None:
    size = len(dump(some_scores())) + ROW_OVERHEAD
    outbox = Outbox(path, OutboxRoom(telemetry_bytes=40 * size + size // 2, telemetry_when_full=rule))
    for _ in range(60):
        outbox.put([some_scores()])
    count = outbox.counts()[Stream.TELEMETRY]
    assert count.waiting == (kept,)
    assert len(evicted(count)) == 20
    assert set(count.evicted) == {"room" if rule == "drop_oldest" else "refused"}


def test_short_of_bytes_in_total_the_lowest_class_gives_way(path: Path) -> None:
    outbox = Outbox(path, OutboxRoom(total_bytes=2**20, telemetry_bytes=2**30, alarm_bytes=2**30, health_bytes=2**30))
    outbox.put([an_annotation() for _ in range(20)])
    for _ in range(40):
        outbox.put([some_scores(64), some_scores(64), an_event(), a_status()])
    before = outbox.counts()
    for _ in range(120):
        outbox.put([an_event() for _ in range(10)])
    counts = outbox.counts()
    on_disk = sum(each.stat().st_size for each in path.parent.glob("outbox.db*"))
    assert on_disk <= 2**20 + 256 * 1024  # what one transaction takes on top, until the log is written back
    assert not evicted(before[Stream.ALARM])
    assert counts[Stream.TELEMETRY].waiting == ()
    assert set(counts[Stream.TELEMETRY].evicted) == {"budget"}
    assert counts[Stream.ANNOTATION].waiting == ((1, 20),)
    assert len(numbers(counts[Stream.ALARM].waiting)) > 300  # until nothing lower was left


def test_what_is_put_aside_stays_on_the_disk_and_is_counted(path: Path) -> None:
    outbox = Outbox(path)
    events = [an_event() for _ in range(3)]
    outbox.put(events)
    outbox.put_aside(Stream.ALARM, [2], "oversize")
    assert [row.seq for row in outbox.after(Stream.ALARM, 0, 9)] == [1, 3]
    assert outbox.counts()[Stream.ALARM].evicted == {"oversize": ((2, 2),)}
    assert outbox.aside() == [(Stream.ALARM, 2, "oversize", dump(events[1]))]


def test_records_dropped_before_they_came_here_get_numbers_too(path: Path) -> None:
    outbox = Outbox(path)
    outbox.put([some_scores()], dropped={(Stream.TELEMETRY, "memory"): 7})
    outbox.put([some_scores()])
    count = outbox.counts()[Stream.TELEMETRY]
    assert (count.produced, count.waiting, count.evicted) == (9, ((1, 1), (9, 9)), {"memory": ((2, 8),)})


@pytest.mark.parametrize(
    ("sync", "body", "expected"),
    [
        ("full", some_scores, 2),
        ("urgent", some_scores, 1),
        ("urgent", an_event, 2),
        ("normal", an_event, 1),
    ],
)
def test_what_is_synced_can_be_chosen(path: Path, sync: str, body: object, expected: int) -> None:
    outbox, seen = Outbox(path, OutboxRoom(sync=sync)), []
    outbox.put([body()], within=lambda db: seen.append(db.execute("PRAGMA synchronous").fetchone()[0]))
    assert seen == [expected]  # 2: FULL, 1: NORMAL
