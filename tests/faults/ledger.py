"""The oracles of every fault run.

An agent's account is set arithmetic over sequence numbers, so two mistakes can not cancel out:
produced = stored + waiting + quarantined + evicted, and what belongs to none of them was lost.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.config import OutboxRoom
from models.contract.base import SeqRange, Stream
from models.contract.events import Phase
from models.contract.health import StreamCount
from models.logs import A_MINUTE
from tests.receiver import Receiver

MAX_RSS = 200 * 2**20
_LINE = re.compile(r"(\S+:\d\d):\S+Z (\w+ \S+: .*?)(?: \w+=|$)")  # the minute, and the words before any fact
KEPT = (Stream.ALARM, Stream.ANNOTATION, Stream.HEALTH)  # no rule gives these up while there is room


@dataclass(frozen=True)
class Line:
    """One stream of one epoch, in sequence numbers."""

    produced: int
    stored: frozenset[int]
    waiting: frozenset[int]
    evicted: Mapping[str, frozenset[int]] = field(default_factory=dict)  # by cause; "quarantine" is among them

    @property
    def missing(self) -> set[int]:
        """Given out, and neither stored nor waiting nor given up on record: lost."""
        return {*range(1, self.produced + 1)} - self.stored - self.waiting - self.given_up

    @property
    def given_up(self) -> set[int]:
        return {number for numbers in self.evicted.values() for number in numbers}

    @property
    def invented(self) -> set[int]:
        """Stored under a number that was never given out: the outbox has forgotten that it did."""
        return {number for number in self.stored if number > self.produced}


def account(receiver: Receiver, counts: Mapping[Stream, StreamCount], epoch: str | None = None) -> dict[Stream, Line]:
    """The outbox's word beside the receiver's.

    Args:
        epoch: of the outbox; None: the only one that the receiver has seen.
    """
    return {
        stream: Line(
            produced=count.produced,
            stored=frozenset(receiver.numbers(stream, epoch)),
            waiting=numbers(count.waiting),
            evicted={cause: numbers(ranges) for cause, ranges in count.evicted.items()},
        )
        for stream, count in counts.items()
    }


def assert_closed(receiver: Receiver, counts: Mapping[Stream, StreamCount], *, evicted: Iterable[Stream] = ()) -> str:
    """Nothing confirmed is lost, nothing came with two contents under one number.

    Args:
        evicted: streams of which the test wants some to be given up; of the others none may be.

    Returns:
        The account in one line.

    Raises:
        AssertionError: with what is wrong.
    """
    lines = account(receiver, counts)
    lost = {s.value: sorted(line.missing) for s, line in lines.items() if line.missing}
    assert lost == {}, f"lost: {lost}"
    invented = {s.value: sorted(line.invented) for s, line in lines.items() if line.invented}
    assert invented == {}, f"numbers used twice: {invented}"
    assert receiver.conflicts == [], "one number, two contents"
    surprising = {s.value: dict(line.evicted) for s, line in lines.items() if line.given_up and s not in {*evicted}}
    assert surprising == {}, f"given up without need: {surprising}"
    produced, stored = (sum(len_(line) for line in lines.values()) for len_ in (lambda x: x.produced, _n_stored))
    waiting, gone = sum(len(x.waiting) for x in lines.values()), sum(len(x.given_up) for x in lines.values())
    return f"produced {produced} = stored {stored} + waiting {waiting} + evicted {gone}, difference 0"


def assert_delivered(receiver: Receiver, counts: Mapping[Stream, StreamCount], *streams: Stream) -> None:
    """Of these streams nothing waits any more; without any named: of what people wait for."""
    for stream in streams or (Stream.ANNOTATION, Stream.ALARM):
        assert counts[stream].waiting == (), f"{stream.value}: {counts[stream].waiting} wait"
    lost = {s.value: sorted(line.missing) for s, line in account(receiver, counts).items() if line.missing}
    assert lost == {}, f"lost: {lost}"


def assert_once_and_in_order(receiver: Receiver) -> int:
    """Each time an alarm came it was raised once and cleared at most once, and never before; how many alarms."""
    events = [json.loads(body) for body in receiver.bodies(Stream.ALARM)]
    told = [e for e in events if e["kind"] == "alarm" and e["phase"] != Phase.UPDATED]
    phases = [(e["event_id"], e["phase"]) for e in told]
    twice = {key: n for key, n in Counter((e["event_id"], e["repeats"], e["phase"]) for e in told).items() if n > 1}
    assert twice == {}, "an alarm came twice"
    begun: set[str] = set()
    for event_id, phase in phases:
        assert phase == Phase.RAISED or event_id in begun, f"{event_id} {phase} before it was raised"
        begun.add(event_id)
    return len(begun)


def assert_approved(running: Iterable[str], approved: Iterable[str]) -> None:
    """Only models that somebody approved have ever run."""
    assert {*running} <= {*approved}, "a model ran that nobody approved"


def assert_sound(database: Path) -> None:
    """SQLite finds nothing wrong with the file."""
    db = sqlite3.connect(database)
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        db.close()


def assert_quiet(receiver: Receiver, starts: int) -> None:
    """What goes wrong is an alarm when it begins and once more when it is over, however often it is tried; a new start
    of the agent may find it anew."""
    told = [json.loads(body) for body in receiver.bodies(Stream.ALARM)]
    faults = [(each["fault"], each["cleared"]) for each in told if each["kind"] == "device_fault"]
    for fault in {name for name, _ in faults}:
        raised, cleared = faults.count((fault, False)), faults.count((fault, True))
        assert raised <= cleared + max(starts, 1), (
            f"{fault} was told {raised} times, and {cleared} times that it is over"
        )


def assert_bounded(state: Path, log: str, settings: OutboxRoom, pid: int | None = None) -> None:
    """Memory, disk and log of an agent keep to their limits, whatever was done to it.

    Args:
        log: all that it has written since its folder was made.
        pid: of the agent, if it runs.
    """
    if pid is not None:
        assert (rss := rss_bytes(pid)) <= MAX_RSS, f"{rss / 2**20:.0f} MiB of memory"
    assert (used := disk_bytes(state / "outbox.db")) <= settings.total_bytes + settings.ballast_bytes, f"{used} on disk"
    said: Counter[str] = Counter()
    minutes: set[str] = set()
    for line in log.splitlines():
        if found := _LINE.match(line):
            minutes.add(found[1])
            said[found[2]] += 1
    starts = log.count("page: http")
    most = A_MINUTE * (len(minutes) + max(starts, 1))  # each process counts anew
    assert {words: n for words, n in said.items() if n > most} == {}, f"over {most} lines with the same words"


def rss_bytes(pid: int) -> int:
    """What a process holds in memory."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def disk_bytes(*paths: Path) -> int:
    """Files and folders, as they lie on the disk, with SQLite's write-ahead logs."""
    total = 0
    for path in paths:
        for each in path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.name}*"):
            total += each.stat().st_blocks * 512 if each.is_file() else 0
    return total


def slope(samples: Iterable[tuple[float, float]]) -> float:
    """How fast a figure grows: least squares, per unit of the first column."""
    pairs = list(samples)
    n, mean_x, mean_y = len(pairs), sum(x for x, _ in pairs) / len(pairs), sum(y for _, y in pairs) / len(pairs)
    spread = sum((x - mean_x) ** 2 for x, _ in pairs)
    return sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread if n > 1 and spread else 0.0


def numbers(ranges: Iterable[SeqRange]) -> frozenset[int]:
    return frozenset(n for first, last in ranges for n in range(first, last + 1))


def _n_stored(line: Line) -> int:
    """Each number once: what is stored and still waits has its receipt under way, and counts as stored."""
    return line.produced - len(line.missing) - len(line.waiting - line.stored) - len(line.given_up - line.stored)
