"""A device that floods is held to its share, so that no other waits behind it.

Each device has two buckets of messages: one for telemetry, attachments and waveforms, one for what people wait for.
What finds its bucket empty is acknowledged and not stored, and counted. It gets no receipt, so a device that keeps to
the rules loses nothing: it sends it again later, and never has so much under way. While the mailbox is crowded, whoever
has emptied half of the first bucket has no more of it, so telemetry gives way long before an alarm does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, NamedTuple

from models.contract import topics
from models.contract.base import Stream

BULK: Final = frozenset({Stream.TELEMETRY, Stream.ATTACHMENT, Stream.RAW})
MAX_DEVICES: Final = 10_000  # names that somebody makes up must not fill the memory


class Rate(NamedTuple):
    """Messages at once, and a second from then on."""

    burst: float
    per_s: float


OF_BULK: Final = Rate(2000, 100)  # an agent that catches up packs some hundred records in each
OF_URGENT: Final = Rate(5000, 500)


@dataclass
class _Bucket:
    left: float
    at: float


class Flood:
    """Who has sent how much; for the network's thread."""

    def __init__(self, bulk: Rate = OF_BULK, urgent: Rate = OF_URGENT, clock: Callable[[], float] = monotonic) -> None:
        self._rates, self._clock = {True: bulk, False: urgent}, clock
        self._buckets: dict[tuple[str, bool], _Bucket] = {}

    def bears(self, topic: str, crowded: bool) -> bool:
        """False: this message is one too many of its device's. What is on no device's topic counts as one device's."""
        where = topics.parse(topic)
        bulk = where is None or where.name in BULK
        rate, now = self._rates[bulk], self._clock()
        key = (where.device if where else "", bulk)
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MAX_DEVICES:
                self._forget(now)
            bucket = self._buckets[key] = _Bucket(rate.burst, now)
        bucket.left = min(rate.burst, bucket.left + (now - bucket.at) * rate.per_s)
        bucket.at = now
        if bucket.left < (rate.burst / 2 if bulk and crowded else 1):
            return False
        bucket.left -= 1
        return True

    def _forget(self, now: float) -> None:
        """Those that are full again by now; all of them, where none is."""
        longest = max(math.ceil(rate.burst / rate.per_s) for rate in self._rates.values())
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if now - bucket.at < longest}
        if len(self._buckets) >= MAX_DEVICES:
            self._buckets.clear()
