"""The outbox to the fleet's broker, and receipts, offers and pieces of bundles back.

A broker's acknowledgement is not storage: a row goes only when the server's signed receipt names it. Rows are sent from
the disk through a window, so that paho never holds more than it can lose; what got no receipt in time is sent again.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.clock import SYSTEM, Clock
from edge_agent.config import Broker
from edge_agent.errors import AgentError, DiskTrouble
from edge_agent.outbox import PRIORITY, Outbox
from edge_agent.tls import bear_dead_clock
from edge_agent.vitals import Pulse, no_pulse
from models.bundle.signing import NotTrusted, PublicKeys
from models.contract import topics
from models.contract.base import Stream
from models.contract.codec import MAX_PAYLOAD, Unreadable, dump, load, wrap
from models.contract.commands import CommandNote
from models.contract.messages import Chunk, Fetch, Offer, Receipt, ReceiptNote, Session

log = logging.getLogger(__name__)

WINDOW: Final = 100  # rows under way: sent, no receipt yet
RESERVED: Final = WINDOW // 2  # of these only for what people wait for: a backlog of telemetry holds up no alarm
URGENT: Final = (Stream.ANNOTATION, Stream.ALARM)
RECEIPT_S: Final = 10.0  # a row without a receipt after this is sent again, later and later
RECEIPT_MAX_S: Final = 300.0
NEVER_STORED: Final = 5  # so many times acknowledged by the broker and not stored: somebody should look at the broker
SESSION_S: Final = 7 * 24 * 3600
INBOX: Final = 1000


class _Sent(NamedTuple):
    at: float
    times: int


class Uplink:
    """One connection, one thread of ours and one of paho's."""

    def __init__(
        self,
        device: str,
        broker: Broker,
        server_keys: PublicKeys | None,
        outbox: Outbox,
        offer: Callable[[Offer | Chunk], None],
        command: Callable[[CommandNote], None],
        counters: Counter[str],
        receipt_s: float = RECEIPT_S,
        clock: Clock = SYSTEM,
    ) -> None:
        self._clock = clock
        self.device, self._broker, self._keys, self._outbox = device, broker, server_keys, outbox
        self._offer, self._command, self._counters, self._receipt_s = offer, command, counters, receipt_s
        self._stop = threading.Event()
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._sent: dict[tuple[Stream, int], _Sent] = {}
        self._times: Counter[tuple[Stream, int]] = Counter()
        self._cursor = dict.fromkeys(Stream, 0)
        self._mids: dict[int, tuple[Stream, int]] = {}
        self._max_packet = MAX_PAYLOAD
        self.connected = False
        self._client = self._make_client()

    def fetch(self, sha256: str, indexes: tuple[int, ...]) -> None:
        """Ask for pieces of a bundle. Not kept: whoever wants them asks again."""
        message = Fetch(device=self.device, sha256=sha256, indexes=indexes)
        if self.connected:
            self._client.publish(topics.fetch(self.device), dump(message), qos=1)

    def send_again(self) -> None:
        """Everything that waits, now: what was sent is not waited for any longer. From any thread."""
        self._queue("send_again", None)

    def loop(self, pulse: Pulse = no_pulse) -> None:
        """Until `stop`. Raises AgentError if the network thread has died."""
        self._client.connect_async(
            self._broker.host,
            self._broker.port,
            keepalive=self._broker.keepalive_s,
            clean_start=False,
            properties=_connect_properties(),
        )
        self._client.loop_start()
        try:
            while not self._stop.is_set():
                pulse()
                try:
                    self._handle_inbox()
                    if self.connected:
                        self._send()
                except DiskTrouble:  # the outbox's writer says so; a receipt that was not noted comes again
                    self._counters["uplink_disk_trouble"] += 1
                    self._stop.wait(1.0)
                if not (thread := self._client._thread) or not thread.is_alive():
                    raise AgentError("the MQTT network thread has died")
        finally:
            with contextlib.suppress(DiskTrouble):
                self._drain()
            self._say_goodbye()
            self._client.disconnect()
            self._client.loop_stop()

    def stop(self) -> None:
        self._stop.set()

    # -- paho's thread: only queues, for an exception there would end it ----------------------------------------

    def _make_client(self) -> mqtt.Client:
        broker = self._broker
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=self.device, protocol=mqtt.MQTTv5)
        if broker.username:
            client.username_pw_set(broker.username, broker.password())
        if context := broker.tls():
            client.tls_set_context(bear_dead_clock(context, self._clock, self._counters))
        client.will_set(topics.session(self.device), self._session("death", "cut off"), qos=topics.QOS)
        client.max_inflight_messages_set(WINDOW)
        client.max_queued_messages_set(WINDOW * 2)
        client.reconnect_delay_set(min_delay=1 + round(random.random()), max_delay=60)  # noqa: S311 - spreads a herd
        client.on_connect = lambda _c, _u, _f, code, properties: self._queue("connect", (code, properties))
        client.on_connect_fail = lambda _c, _u: self._queue("connect_fail", None)
        client.on_disconnect = lambda _c, _u, _f, code, _p: self._queue("disconnect", code)
        client.on_publish = lambda _c, _u, mid, code, _p: self._queue("publish", (mid, code))
        client.on_message = lambda _c, _u, message: self._queue("message", (message.topic, bytes(message.payload)))
        return client

    def _queue(self, what: str, value: Any) -> None:
        # Only messages can be a flood, and they come again. A connection is told once: it must be heard.
        if what == "message" and self._inbox.qsize() >= INBOX:
            self._counters["uplink_inbox_full"] += 1
        else:
            self._inbox.put((what, value))

    # -- our thread ---------------------------------------------------------------------------------------------

    def _handle_inbox(self) -> None:
        try:
            item: tuple[str, Any] | None = self._inbox.get(timeout=0.05)
        except queue.Empty:
            return
        while item is not None:
            what, value = item
            getattr(self, f"_on_{what}")(value)
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                item = None

    def _on_connect(self, value: tuple[Any, Any]) -> None:
        code, properties = value
        if code.is_failure:
            self._counters["connections_refused"] += 1
            log.warning("broker refused the connection", extra={"reason": str(code)})
            return
        self.connected = True
        self._max_packet = min(MAX_PAYLOAD, getattr(properties, "MaximumPacketSize", MAX_PAYLOAD)) - 200
        self._client.subscribe(topics.all_down(self.device), qos=topics.QOS)
        self._client.publish(topics.session(self.device), self._session("birth"), qos=topics.QOS)
        # A new connection: what was under way may be lost with the old one, or come twice. The server drops the second.
        self._forget_sent()
        log.info("connected to the broker", extra={"host": self._broker.host, "port": self._broker.port})

    def _on_connect_fail(self, _: None) -> None:
        self._counters["connections_failed"] += 1

    def _on_disconnect(self, code: Any) -> None:
        if self.connected:
            log.info("connection to the broker lost", extra={"reason": str(code)})
        self.connected = False
        self._mids.clear()

    def _on_publish(self, value: tuple[int, Any]) -> None:
        mid, code = value
        place = self._mids.pop(mid, None)
        if place and code.is_failure:  # refused by the broker: paho counts it as done, we send it again in time
            self._counters["publishes_refused"] += 1

    def _on_message(self, value: tuple[str, bytes]) -> None:
        topic, payload = value
        parsed = topics.parse(topic)
        if parsed is None or parsed.device != self.device or parsed.direction != "down":
            return
        try:
            if parsed.name == "receipt":
                self._on_receipt(load(ReceiptNote, payload))
            elif parsed.name == "offer":
                self._offer(load(Offer, payload))
            elif parsed.name == "command":
                self._command(load(CommandNote, payload))
            else:
                self._offer(load(Chunk, payload))
        except Unreadable as exc:
            self._counters["unreadable_from_server"] += 1
            log.warning("message not readable", extra={"topic": topic, "reason": str(exc)})

    def _on_send_again(self, _: None) -> None:
        self._forget_sent()

    def _on_receipt(self, note: ReceiptNote) -> None:
        try:
            if self._keys is None:
                raise NotTrusted("no server key is configured")
            receipt = self._keys.open(Receipt, note.receipt)
            if receipt.device != self.device:
                raise NotTrusted(f"the receipt is for {receipt.device}")
        except NotTrusted as exc:
            self._counters["receipts_refused"] += 1
            log.warning("receipt refused", extra={"reason": str(exc)})
            return
        if receipt.epoch != self._outbox.epoch:  # of an outbox that this device had before
            self._counters["receipts_refused"] += 1
            return
        ranges = [*receipt.ranges] + ([(1, receipt.up_to)] if receipt.up_to else [])
        self._outbox.stored(receipt.stream, ranges)
        for place in [p for p in self._times if p[0] is receipt.stream and any(a <= p[1] <= b for a, b in ranges)]:
            self._sent.pop(place, None)
            del self._times[place]

    def _send(self) -> None:
        now = self._clock.monotonic()
        late = [place for place, sent in self._sent.items() if now - sent.at > self._patience(sent)]
        for stream, seq in late:
            del self._sent[stream, seq]
            self._counters["sent_again"] += 1
            if self._times[stream, seq] == NEVER_STORED:
                self._counters["accepted_never_stored"] += 1
                log.error("accepted by the broker, never stored", extra={"stream": stream, "seq": seq})
            self._cursor[stream] = min(self._cursor[stream], seq - 1)
        for stream in PRIORITY:
            room = WINDOW - len(self._sent) - (0 if stream in URGENT else RESERVED)
            if room <= 0:
                return
            for row in self._outbox.after(stream, self._cursor[stream], room):
                self._cursor[stream] = row.seq
                if (stream, row.seq) in self._sent:
                    continue
                payload = wrap(self.device, self._outbox.epoch, stream, row.seq, row.body)
                if len(payload) > self._max_packet:
                    self._outbox.evict(stream, row.seq, "oversize")
                    log.error("record too large for the broker", extra={"stream": stream, "bytes": len(payload)})
                    continue
                info = self._client.publish(topics.up(self.device, stream), payload, qos=topics.QOS)
                self._times[stream, row.seq] += 1
                self._sent[stream, row.seq] = _Sent(now, self._times[stream, row.seq])
                self._mids[info.mid] = (stream, row.seq)

    def _patience(self, sent: _Sent) -> float:
        return min(RECEIPT_MAX_S, self._receipt_s * 2.0 ** min(sent.times - 1, 10))

    def _forget_sent(self) -> None:
        self._sent.clear()
        self._cursor = dict.fromkeys(Stream, 0)

    def _drain(self, up_to_s: float = 2.0) -> None:
        """At the end: send what is there, and wait a little for its receipts. What stays is on disk."""
        deadline = self._clock.monotonic() + up_to_s
        while self.connected and self._clock.monotonic() < deadline:
            self._handle_inbox()
            self._send()
            if not self._sent:
                return

    def _say_goodbye(self, up_to_s: float = 1.0) -> None:
        """The server shall know at once that this was meant."""
        if self.connected:
            said = self._client.publish(topics.session(self.device), self._session("death", "stopped"), qos=topics.QOS)
            with contextlib.suppress(RuntimeError, ValueError):  # no connection any more, so its will tells
                said.wait_for_publish(up_to_s)

    def _session(self, state: Literal["birth", "death"], reason: str = "") -> bytes:
        return dump(Session(device=self.device, state=state, reason=reason))


def _connect_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_S
    return properties
