"""What is sent next, and what is under way.

Three lanes with windows of their own, so none can starve another: `live` (a person's word, alarms and health made since
the connection stands), `bulk` (telemetry, attachments and raw since then) and `backlog` (all that waited before).
Beside the windows, what is not live has few bytes on the wire at once: behind a slow link an alarm waits for no more
than these.

A record that is in flight whenever the connection dies is sent alone; one that kills it alone as well is put aside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from edge_agent.outbox import PRIORITY, Outbox, Row
from models.contract.base import SeqRange, Stream

Lane = Literal["live", "bulk", "backlog"]
Place = tuple[Stream, int]
LIVE: Final = (Stream.ANNOTATION, Stream.ALARM, Stream.HEALTH)
WINDOWS: Final[dict[Lane, int]] = {"live": 40, "bulk": 30, "backlog": 30}  # messages without a receipt
WINDOW: Final = sum(WINDOWS.values())
WIRE_BYTES: Final = 64 * 1024  # of bulk and backlog that the broker has not acknowledged
ROWS: Final = 200  # in one message
RECEIPT_MAX_S: Final = 300.0
SUSPECTS: Final = 5  # of what is in flight when a connection dies, the first
DEATHS: Final = 3  # so often in flight at a death: sent alone; so often alone: put aside


@dataclass
class Parcel:
    """One message under way."""

    lane: Lane
    stream: Stream
    seqs: list[int]
    size: int
    at: float  # sent, monotonic
    acked: bool = False
    open: set[int] = field(default_factory=set)  # without a receipt


class Lanes:
    """Of one outbox."""

    def __init__(self, outbox: Outbox, receipt_s: float) -> None:
        self._outbox, self._receipt_s = outbox, receipt_s
        self.times: Counter[Place] = Counter()  # how often sent
        self.deaths: Counter[Place] = Counter()
        self.alone: Counter[Place] = Counter()
        self.forget()

    def forget(self) -> None:
        """A new connection: what was under way may be lost with the old one, or come twice; the server drops the
        second. What waits now is backlog."""
        self._parcels: list[Parcel] = []
        self._sent: dict[Place, Parcel] = {}
        self._head = {stream: self._outbox.newest(stream) for stream in PRIORITY}
        self._cursor: dict[tuple[Lane, Stream], int] = {
            (lane, stream): 0 if lane == "backlog" else head
            for stream, head in self._head.items()
            for lane in _lanes_of(stream)
        }

    def next(self, max_bytes: int, packs: bool, bulk_until: dict[Stream, int]) -> Iterator[tuple[Lane, list[Row]]]:
        """What may go now, message by message; the caller says `sent` for each, or goes no further.

        Args:
            packs: several records may go in one message.
            bulk_until: of live telemetry only numbers up to here: the rest gathers.
        """
        if suspects := [place for place in self.deaths if self.deaths[place] >= DEATHS]:
            yield from self._alone(suspects)
            return
        for lane in WINDOWS:
            for stream in PRIORITY:
                if lane not in _lanes_of(stream):
                    continue
                while self._has_room(lane) and (rows := self._rows(lane, stream, max_bytes, packs, bulk_until)):
                    yield lane, rows
                    if rows[0].seq not in {seq for s, seq in self._sent if s is stream}:
                        return  # not sent: no budget, no connection

    def sent(self, lane: Lane, rows: list[Row], size: int, now: float) -> Parcel:
        stream, seqs = rows[0].stream, [row.seq for row in rows]
        parcel = Parcel(lane, stream, seqs, size, now, open=set(seqs))
        self._parcels.append(parcel)
        for seq in seqs:
            self._sent[stream, seq] = parcel
            self.times[stream, seq] += 1
        if (lane, stream) in self._cursor:
            self._cursor[lane, stream] = max(self._cursor[lane, stream], seqs[-1])
        return parcel

    def stored(self, stream: Stream, ranges: Iterable[SeqRange]) -> None:
        """A receipt came."""
        ranges = list(ranges)
        for place in [p for p in self.times if p[0] is stream and any(a <= p[1] <= b for a, b in ranges)]:
            for counter in (self.times, self.deaths, self.alone):
                counter.pop(place, None)
            if parcel := self._sent.pop(place, None):
                parcel.open.discard(place[1])
                parcel.acked = True
        self._parcels = [parcel for parcel in self._parcels if parcel.open]

    def late(self, now: float) -> list[Place]:
        """What has waited too long for its receipt goes again; these."""
        late = [p for p in self._parcels if now - p.at > self._patience(p)]
        places: list[Place] = []
        for parcel in late:
            self._parcels.remove(parcel)
            for seq in parcel.open:
                self._sent.pop((parcel.stream, seq), None)
                places.append((parcel.stream, seq))
                lane = _lanes_of(parcel.stream)[0] if seq > self._head[parcel.stream] else "backlog"
                self._cursor[lane, parcel.stream] = min(self._cursor[lane, parcel.stream], seq - 1)
        return places

    def died(self) -> list[Place]:
        """The connection did. Those that are to be put aside: they killed it alone, again and again."""
        pending = [parcel for parcel in self._parcels if not parcel.acked]
        guilty: list[Place] = []
        for parcel in pending[:SUSPECTS]:
            for seq in parcel.open:
                place = (parcel.stream, seq)
                self.deaths[place] += 1
                if self.deaths[place] > DEATHS and len(pending) == 1 and len(parcel.seqs) == 1:
                    self.alone[place] += 1
                    if self.alone[place] >= DEATHS:
                        guilty.append(place)
        for place in guilty:
            self.given_up(place)
        return guilty

    def given_up(self, place: Place) -> None:
        """It is not sent any more."""
        for counter in (self.times, self.deaths, self.alone):
            counter.pop(place, None)

    def acked(self, parcel: Parcel) -> None:
        parcel.acked = True
        for seq in parcel.seqs:  # whatever killed the connection, it was not this
            self.deaths.pop((parcel.stream, seq), None)
            self.alone.pop((parcel.stream, seq), None)

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        return not self._parcels

    @property
    def unacked(self) -> bool:
        return any(not parcel.acked for parcel in self._parcels)

    def _has_room(self, lane: Lane) -> bool:
        under_way = [parcel for parcel in self._parcels if parcel.lane == lane]
        on_wire = sum(p.size for p in self._parcels if p.lane != "live" and not p.acked)
        return len(under_way) < WINDOWS[lane] and (lane == "live" or on_wire < WIRE_BYTES)

    def _rows(
        self, lane: Lane, stream: Stream, max_bytes: int, packs: bool, bulk_until: dict[Stream, int]
    ) -> list[Row]:
        head = self._head[stream]
        before = head + 1 if lane == "backlog" else bulk_until.get(stream, 2**49) + 1 if lane == "bulk" else 2**49
        rows: list[Row] = []
        size = 0
        n = ROWS if packs and lane != "live" else 1
        while not rows:
            found = self._outbox.after(stream, self._cursor[lane, stream], n, before)
            if not found:
                return []
            for row in found:
                place = (stream, row.seq)
                if place in self._sent or (rows and (size + len(row.body) > max_bytes or self.times[place])):
                    if rows:
                        return rows
                    self._cursor[lane, stream] = row.seq
                    continue
                rows.append(row)
                size += len(row.body) + 20
                if self.times[place]:  # what goes again goes alone and plain: an older server reads that, too
                    return rows
        return rows

    def _alone(self, suspects: list[Place]) -> Iterator[tuple[Lane, list[Row]]]:
        if self.unacked:
            return
        for stream, seq in suspects:
            if (stream, seq) in self._sent:
                continue
            rows = self._outbox.after(stream, seq - 1, 1, seq + 1)
            if rows:
                yield "live", rows
            else:
                self.given_up((stream, seq))
            return

    def _patience(self, parcel: Parcel) -> float:
        times = max((self.times[parcel.stream, seq] for seq in parcel.open), default=1)
        return min(RECEIPT_MAX_S, self._receipt_s * 2.0 ** min(times - 1, 10))


def _lanes_of(stream: Stream) -> tuple[Lane, Lane]:
    return ("live", "backlog") if stream in LIVE else ("bulk", "backlog")
