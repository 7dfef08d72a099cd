"""Between those who make records and the disk: a bounded queue and one thread, so that a slow disk never holds up a
sample, and a disk that takes nothing costs what is lowest first.

What is queued together is committed together: the slower the disk, the larger the batches. What finds no place is
counted by stream and cause and gets its numbers with the next commit, so the account closes over it too. Alarms and
annotations find a place until everything else is gone. A record is confirmed once it is committed; `told` hears of it
then, or at once while nothing can be written, for a person must hear of an alarm whatever the disk does.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from edge_agent.errors import DiskTrouble
from edge_agent.outbox.room import PRIORITY, ROW_OVERHEAD
from edge_agent.outbox.store import Outbox
from models.contract.base import Stream
from models.contract.codec import dump
from models.contract.messages import STREAM_OF, Body

log = logging.getLogger(__name__)

AT_ONCE: Final = 1000  # records in one transaction,
WHEN_SHORT: Final = 20  # or so many, while there is little room for the log
FIRST_WAIT_S: Final = 0.2
LONGEST_WAIT_S: Final = 5.0
Within = Callable[[sqlite3.Connection], object]


class _Item(NamedTuple):
    """One record, or something that is made into records only when it is written."""

    stream: Stream
    size: int
    body: Body | None
    make: Callable[[], Sequence[Body]] | None
    within: Within | None


class Writer:
    """Any thread may put; `loop` runs in one of its own."""

    def __init__(
        self,
        outbox: Outbox,
        counters: Counter[str],
        told: Callable[[Sequence[Body]], None] = lambda _: None,
        memory_bytes: int = 8 * 2**20,
    ) -> None:
        self._outbox, self._counters, self._told, self._limit = outbox, counters, told, memory_bytes
        self._lanes: dict[Stream, deque[_Item]] = {stream: deque() for stream in PRIORITY}
        self._bytes = 0
        self._dropped: Counter[tuple[Stream, str]] = Counter()
        self._changed = threading.Condition()
        self._stopping = self._running = False
        self._busy = False
        self._unusable: str | None = None
        self._early: set[int] = set()  # ids of bodies that `told` has heard of while nothing could be written

    # -- from any thread ----------------------------------------------------------------------------------------

    def put(self, bodies: Sequence[Body], within: Within | None = None) -> None:
        """Have these written soon. Never waits for the disk.

        `within` runs in the transaction of the most urgent of them: in the order in which it was put among others of
        its class, and it is given up only with it.
        """
        streams = [STREAM_OF[type(body)] for body in bodies]
        bearer = min(range(len(bodies)), key=lambda i: PRIORITY.index(streams[i]), default=0)
        with self._changed:
            for i, (body, stream) in enumerate(zip(bodies, streams, strict=True)):
                size = len(dump(body)) + ROW_OVERHEAD
                self._append(_Item(stream, size, body, None, within if i == bearer else None))
            self._make_room()
            self._changed.notify()
            unusable = self._unusable
        if unusable:
            self._told(bodies)
        if not self._running:
            self._write_here()

    def put_made(self, stream: Stream, make: Callable[[], Sequence[Body]]) -> None:
        """The same for what is to be made just before it is written: a count of the outbox itself, say. Once, however
        often it is asked for before the disk has taken it."""
        with self._changed:
            if not any(item.make for item in self._lanes[stream]):
                self._append(_Item(stream, ROW_OVERHEAD, None, make, None))
                self._changed.notify()
        if not self._running:
            self._write_here()

    @property
    def buffered(self) -> int:
        """Records that are in memory only."""
        return sum(map(len, self._lanes.values()))

    @property
    def unusable(self) -> str | None:
        """Why nothing can be written now; None: it can."""
        return self._unusable

    @property
    def crowded(self) -> bool:
        """More than half of the memory is taken: who can wait, should."""
        return self._bytes > self._limit // 2

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is on disk; False: not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy and not self.buffered, timeout_s)

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    # -- the thread ---------------------------------------------------------------------------------------------

    def loop(self, pulse: Callable[[], object] = lambda: None) -> None:
        """Until `stop`, and then until the rest is on disk or the disk will not take it. Raises OutboxDamaged."""
        wait_s, self._running = FIRST_WAIT_S, True
        while True:
            pulse()
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self.buffered, LONGEST_WAIT_S)
                batch = self._take()
                self._busy = bool(batch)
                stopping = self._stopping
            if not batch:
                if stopping:
                    self._running = False
                    return
                continue
            try:
                self.write(batch)
                wait_s = FIRST_WAIT_S
            except DiskTrouble as exc:
                self._give_back(batch, exc)
                if stopping:
                    self._running = False
                    log.error("records in memory only are lost at the end", extra={"n": self.buffered})
                    return
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _write_here(self) -> None:
        """While no thread does it, before the start and after the end, whoever puts waits for the disk himself."""
        with self._changed:
            batch = self._take()
        try:
            self.write(batch)
        except DiskTrouble as exc:
            self._give_back(batch, exc)

    def write(self, batch: Sequence[_Item]) -> None:
        """One transaction. Raises DiskTrouble, OutboxDamaged."""
        bodies: list[Body] = []
        for item in batch:
            bodies += [item.body] if item.body else item.make() if item.make else []
        withins = [item.within for item in batch if item.within]
        dropped = Counter(self._dropped)

        def within(db: sqlite3.Connection) -> None:
            for each in withins:
                each(db)

        self._outbox.put(bodies, within if withins else None, dropped)
        with self._changed:
            self._dropped -= dropped
            if self._unusable:
                log.warning("the outbox can be written again", extra={"buffered": self.buffered})
            self._unusable, self._busy = None, False
            written = [item.body for item in batch if item.body]
            new = [body for body in written if id(body) not in self._early]
            self._early -= {id(body) for body in written}
            self._changed.notify_all()
        if new:
            self._told(new)

    def _take(self) -> list[_Item]:
        """What is most urgent first."""
        batch: list[_Item] = []
        limit = AT_ONCE if self._outbox.disk.state == "ok" else WHEN_SHORT
        for lane in self._lanes.values():
            while lane and len(batch) < limit:
                item = lane.popleft()
                self._bytes -= item.size
                batch.append(item)
        return batch

    def _give_back(self, batch: Sequence[_Item], exc: DiskTrouble) -> None:
        with self._changed:
            first, self._unusable, self._busy = self._unusable is None, str(exc), False
            for item in reversed(batch):
                self._lanes[item.stream].appendleft(item)
                self._bytes += item.size
            self._make_room()
            waiting = [item.body for lane in self._lanes.values() for item in lane if item.body]
            new = [body for body in waiting if id(body) not in self._early]
            self._early = {id(body) for body in waiting}
        self._counters["disk_refused"] += 1
        if first:
            log.error("the outbox can not be written, records are kept in memory", extra={"reason": str(exc)})
        if new:
            self._told(new)

    # -- with the lock held -------------------------------------------------------------------------------------

    def _append(self, item: _Item) -> None:
        self._lanes[item.stream].append(item)
        self._bytes += item.size
        if self._unusable and item.body:
            self._early.add(id(item.body))

    def _make_room(self) -> None:
        for stream in reversed(PRIORITY):
            lane = self._lanes[stream]
            while self._bytes > self._limit and lane:
                item = lane.popleft()
                self._bytes -= item.size
                if item.body:
                    self._dropped[stream, "memory"] += 1
                    self._counters[f"dropped_in_memory.{stream.value}"] += 1
