"""What has arrived and is not stored yet: bounded, in memory, between the network's thread and the worker's."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from fleet_server.ingest.flood import Flood

log = logging.getLogger(__name__)

RECEIVE_MAXIMUM: Final = 500  # unacknowledged messages that the broker may send; the rest waits there
CROWDED: Final = 400  # waiting
BATCH_MESSAGES: Final = 500
BATCH_BYTES: Final = 16 * 2**20
GATHER_S: Final = 0.03  # after the first message: a commit costs the same for one as for a hundred


@dataclass(frozen=True)
class Arrived:
    """One MQTT message. `generation` is the connection it came over: it can be acknowledged on no other. `shed`: it was
    one too many of its device's, and is acknowledged only."""

    generation: int
    mid: int
    qos: int
    retained: bool
    topic: str
    payload: bytes
    shed: bool = False


class Mailbox:
    """First in, first out."""

    def __init__(self, flood: Flood | None = None) -> None:
        self._flood = flood or Flood()
        self._waiting: deque[Arrived] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0

    def put(self, message: Arrived) -> None:
        """Never blocks. Only what was sent with QoS 0 can find it full, and QoS 0 promises nothing."""
        with self._changed:
            if len(self._waiting) >= 2 * RECEIVE_MAXIMUM:
                self.dropped += 1
                if self.dropped & (self.dropped - 1) == 0:  # the first, the second, the fourth, ...: a flood is no log
                    log.warning("mailbox full, messages sent with QoS 0 dropped", extra={"n": self.dropped})
                return
            if not self._flood.bears(message.topic, crowded=len(self._waiting) >= CROWDED):
                log.warning("a device floods, its messages are not taken", extra={"topic": message.topic})
                message = replace(message, payload=b"", shed=True)  # in its place: they are acknowledged in order
            self._waiting.append(message)
            self._changed.notify()

    def forget(self) -> None:
        """A new connection: the broker sends again what was not acknowledged, and the agents what has no receipt."""
        with self._changed:
            self._waiting.clear()

    def take(self, timeout_s: float) -> list[Arrived]:
        """A batch in order of arrival, or nothing in time or after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout_s)
            if not self._waiting:
                return []
            deadline = time.monotonic() + GATHER_S
            while (
                len(self._waiting) < BATCH_MESSAGES and not self._closed and (left := deadline - time.monotonic()) > 0
            ):
                self._changed.wait(left)
            batch: list[Arrived] = []
            size = 0
            while self._waiting and len(batch) < BATCH_MESSAGES and size < BATCH_BYTES:
                batch.append(self._waiting.popleft())
                size += len(batch[-1].payload)
            return batch

    def close(self) -> None:
        """Wake whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
