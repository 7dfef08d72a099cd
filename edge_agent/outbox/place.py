"""Stream and number in one integer, the rowid of a record: a stream's records lie together in the file, in their order,
and a record of up to a page needs no second page."""

from __future__ import annotations

import zlib
from typing import Final

from models.contract.base import Stream

BITS: Final = 50  # of the number; the stream's code is above them
LAST: Final = (1 << BITS) - 1
CODES: Final = {  # in files on disk: added to, never changed
    Stream.ALARM: 1,
    Stream.ANNOTATION: 2,
    Stream.HEALTH: 3,
    Stream.TELEMETRY: 4,
    Stream.RAW: 5,
    Stream.ATTACHMENT: 6,
}
STREAMS: Final = {code: stream for stream, code in CODES.items()}
# For people and for old ways of asking; `place` stands where the numbers are compared.
_CASES: Final = " ".join(f"WHEN {code} THEN '{stream.value}'" for stream, code in CODES.items())
VIEW: Final = (
    f"CREATE VIEW IF NOT EXISTS row AS SELECT CASE place >> {BITS} {_CASES} END AS stream, place & {LAST} AS seq,"  # noqa: S608
    " created, crc, body FROM record"
)


def at(stream: Stream, seq: int) -> int:
    return CODES[stream] << BITS | min(seq, LAST)


def between(stream: Stream, first: int, last: int) -> tuple[int, int]:
    """The bounds of these numbers, both included."""
    return at(stream, max(first, 0)), at(stream, last)


def crc(place: int, body: bytes) -> int:
    """Over both, so that a record whose number was altered is not taken for another."""
    return zlib.crc32(body, zlib.crc32(place.to_bytes(8, "big")))


def where(place: int) -> tuple[Stream, int]:
    return STREAMS[place >> BITS], place & LAST
