"""Alarms told on the spot, whatever the uplink does: a POST to somebody's address, or a message on a plant's broker.

One fault is told once: again only when it has become worse, and its end where that is asked for. What is muted is not
told. Each place has a queue and a thread of its own, so a place that does not answer holds nobody up; what is lost
there is counted, and the alarm itself is in the outbox as ever.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.clock import SYSTEM, Clock
from edge_agent.config import Notify
from edge_agent.settings import Broker
from models.alarms import RANK
from models.contract.events import AlarmEvent, Phase
from models.contract.labels import Severity
from models.contract.messages import Body
from models.webhook import WebhookFailed, post

log = logging.getLogger(__name__)

QUEUE: Final = 100  # notices for one place; the oldest give way
TIMEOUT_S: Final = 5.0
FIRST_WAIT_S: Final = 1.0  # after a failure; then twice as long each time
LONGEST_WAIT_S: Final = 60.0
GIVE_UP_S: Final = 3600.0  # an older notice helps nobody
REMEMBERED: Final = 1000  # alarms


class Notifier:
    """All places of one device."""

    def __init__(
        self,
        device: str,
        places: Sequence[Notify],
        fleet: Broker | None,
        counters: Counter[str],
        words: Callable[[Body], str | None],
        clock: Clock = SYSTEM,
    ) -> None:
        """`words`: an alarm in one line. Raises BadConfig: a secret or password that can not be read."""
        self._device, self._words = device, words
        self._told: OrderedDict[UUID, int] = OrderedDict()  # how bad it was when it was told
        self.places = [_Place(i, place, fleet, counters, clock) for i, place in enumerate(places)]

    def tell(self, bodies: Sequence[Body]) -> None:
        """Whatever of these somebody should hear of now. Only queues."""
        for alarm in bodies:
            if not isinstance(alarm, AlarmEvent) or alarm.muted:
                continue
            rank, before = RANK[alarm.severity or Severity.MINOR], self._told.get(alarm.event_id, -1)
            over = alarm.phase is Phase.CLEARED
            if not over and rank <= before:
                continue
            self._told[alarm.event_id] = max(rank, before)
            self._told.move_to_end(alarm.event_id)
            if len(self._told) > REMEMBERED:
                self._told.popitem(last=False)
            notice = json.dumps(self._notice(alarm)).encode()
            for place in self.places:
                if rank >= RANK[place.settings.min_severity] and (not over or place.settings.cleared):
                    place.put(notice)

    def stop(self) -> None:
        for place in self.places:
            place.stopping.set()

    def _notice(self, alarm: AlarmEvent) -> dict[str, Any]:
        return {
            "what": "cleared" if alarm.phase is Phase.CLEARED else "alarm",
            "device": self._device,
            "asset": alarm.asset,
            "event_id": str(alarm.event_id),
            "severity": alarm.severity,
            "family": alarm.family,
            "fault_class": alarm.fault_class,
            "score": round(alarm.score, 3),
            "opened_at": alarm.opened_at.isoformat(),
            "repeats": alarm.repeats,
            "text": self._words(alarm) or "",
        }


class _Place:
    """Where notices go; `loop` is a thread's."""

    def __init__(self, i: int, settings: Notify, fleet: Broker | None, counters: Counter[str], clock: Clock) -> None:
        self.settings, self.name, self._counters, self._clock = settings, f"notify-{i}", counters, clock
        self._broker = settings.broker or fleet or Broker()
        self._secret = settings.secret()
        self._queue: queue.Queue[tuple[float, bytes]] = queue.Queue(QUEUE)
        self._next = 0.0
        self.stopping = threading.Event()

    def put(self, notice: bytes) -> None:
        while True:
            try:
                self._queue.put_nowait((self._clock.monotonic(), notice))
                return
            except queue.Full:
                self._lose("too many at once")

    def loop(self, _pulse: Callable[[], object] = lambda: None) -> None:
        """Until it is stopped. Nobody watches it: a place may take its time."""
        while not self.stopping.is_set():
            try:
                made, notice = self._queue.get(timeout=0.2)
            except queue.Empty:
                continue
            self.stopping.wait(max(0.0, self._next - self._clock.monotonic()))
            wait = FIRST_WAIT_S
            while not self.stopping.is_set():
                try:
                    self._deliver(notice)
                    self._counters["notices_told"] += 1
                    break
                except (WebhookFailed, OSError, ValueError) as exc:
                    self._counters["notices_tried_again"] += 1
                    log.warning("notice not taken", extra={"place": self.settings.where, "reason": str(exc)[:200]})
                    if self._clock.monotonic() - made > GIVE_UP_S:
                        self._counters["notices_lost"] += 1
                        log.error("notice given up", extra={"place": self.settings.where})
                        break
                self.stopping.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311 - spreads a herd
                wait = min(LONGEST_WAIT_S, 2 * wait)
            self._next = self._clock.monotonic() + 3600 / self.settings.per_hour

    def _lose(self, why: str) -> None:
        try:
            self._queue.get_nowait()
        except queue.Empty:
            return
        self._counters["notices_lost"] += 1
        log.error("notice lost", extra={"place": self.settings.where, "reason": why})

    def _deliver(self, notice: bytes) -> None:
        """Raises WebhookFailed or OSError: nobody took it."""
        if self.settings.webhook:
            post(self.settings.webhook, notice, self._secret, TIMEOUT_S)
        else:
            assert self.settings.topic
            publish(self._broker, self.settings.topic, notice)


def publish(broker: Broker, topic: str, payload: bytes) -> None:
    """One message, on a connection of its own: alarms are rare. Raises OSError unless the broker has taken it."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    if broker.username:
        client.username_pw_set(broker.username, broker.password())
    if context := broker.tls():
        client.tls_set_context(context)
    answers: queue.Queue[Any] = queue.Queue()
    client.on_connect = lambda _c, _u, _f, reason, _p: answers.put(reason)
    client.on_publish = lambda _c, _u, _mid, reason, _p: answers.put(reason)
    client.connect_timeout = TIMEOUT_S
    client.connect(broker.host, broker.port)
    client.loop_start()
    try:
        for step in ("connection", "message"):
            if step == "message":
                client.publish(topic, payload, qos=1)
            try:
                reason = answers.get(timeout=TIMEOUT_S)
            except queue.Empty:
                raise OSError(f"no answer to the {step}") from None
            if reason.is_failure:
                raise OSError(f"{step} refused: {reason}")
    finally:
        client.disconnect()
        client.loop_stop()
