"""One MQTT connection at a time. The only paho here.

Each connection has a client of its own, driven by the caller's thread: nothing of an older connection is sent again by
itself, no acknowledgement settles another message, and no callback can end a thread. What happened is in `events`.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from collections import Counter, deque
from typing import Any, Final, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.clock import Clock
from edge_agent.config import Broker
from edge_agent.tls import bear_dead_clock
from models.contract import topics
from models.contract.codec import MAX_PAYLOAD

log = logging.getLogger(__name__)

SESSION_S: Final = 7 * 24 * 3600
CONNECT_S: Final = 10.0
PACKET_OVERHEAD: Final = 200  # bytes of a PUBLISH beside its payload: topic, properties, header
MAX_IN_FLIGHT: Final = 100


class Acked(NamedTuple):
    """The broker has taken a message, or refused it."""

    mid: int
    refused: bool


class Message(NamedTuple):
    topic: str
    payload: bytes


class Down(NamedTuple):
    """The connection has ended, or did not come about. `code` is MQTT's reason, None: the network's."""

    reason: str
    code: int | None
    stood: bool = False


class Link:
    """To one broker."""

    def __init__(
        self, device: str, broker: Broker, will: tuple[str, bytes], clock: Clock, counters: Counter[str]
    ) -> None:
        self._device, self._broker, self._will = device, broker, will
        context = broker.tls()
        self._tls = bear_dead_clock(context, clock, counters) if context else None
        self._client: mqtt.Client | None = None
        self._heard_at = 0.0
        self.events: deque[Acked | Message | Down] = deque()
        self.connected = False
        self.bytes_out = self.bytes_in = 0  # payloads and what is around them, since the start
        self.max_payload = MAX_PAYLOAD
        self.in_flight = MAX_IN_FLIGHT  # unacknowledged messages that the broker takes at once

    def connect(self) -> None:
        """Begin; whether it worked is in `connected` or `events`, after some turns. Blocks until TCP and TLS stand."""
        self.close()
        broker = self._broker
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=self._device, protocol=mqtt.MQTTv5)
        client.connect_timeout = CONNECT_S / 2
        if broker.username:
            client.username_pw_set(broker.username, broker.password())
        if self._tls:
            client.tls_set_context(self._tls)
        client.will_set(*self._will, qos=topics.QOS)
        client.max_inflight_messages_set(0xFFFF)  # `in_flight` is kept by who publishes
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish, client.on_message = self._on_publish, self._on_message
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_S
        self._client, self._heard_at = client, time.monotonic()
        try:
            client.connect(
                broker.host, broker.port, keepalive=broker.keepalive_s, clean_start=False, properties=properties
            )
        except (OSError, ssl.SSLError, ValueError) as exc:
            self._client = None
            self.events.append(Down(f"{type(exc).__name__}: {exc}"[:200], None))

    @property
    def busy(self) -> bool:
        """A connection stands or is being made."""
        return self._client is not None

    def client_socket(self) -> Any:
        """The connection's socket, for tests that break it; None: there is none."""
        return self._client.socket() if self._client else None

    def publish(self, topic: str, payload: bytes) -> int:
        """The message's id; `events` says when the broker has it. 0: there is no connection, perhaps since just now."""
        if not self._client:
            return 0
        self.bytes_out += len(payload) + len(topic) + 10
        return int(self._client.publish(topic, payload, qos=topics.QOS).mid)

    def turn(self, timeout_s: float, waiting: bool) -> None:
        """Let the network move, for so long at most. `waiting`: an acknowledgement is due, so silence is suspicious."""
        client = self._client
        if client is None:
            time.sleep(timeout_s)
            return
        rc = client.loop(timeout_s)
        if self._client is not client:
            return
        if rc:
            self._end(Down(mqtt.error_string(rc), None))
            return
        now, keepalive = time.monotonic(), self._broker.keepalive_s
        if not self.connected:
            if now - self._heard_at > CONNECT_S:
                self._end(Down("no answer to CONNECT", None))
        elif (waiting and now - self._heard_at > keepalive) or (
            client._ping_t and now - client._ping_t > keepalive / 2
        ):
            self._end(Down("half-open: nothing comes back", None))

    def flush(self, timeout_s: float) -> None:
        """Have what was published on the wire, if the network moves."""
        deadline = time.monotonic() + timeout_s
        while self._client and self._client.want_write() and time.monotonic() < deadline:
            self.turn(0.02, False)

    def close(self) -> None:
        """Say goodbye, if anybody is there."""
        if client := self._client:
            self._client, self.connected = None, False
            with contextlib.suppress(OSError, ValueError):
                client.on_disconnect = None
                client.disconnect()
                client.loop(0.02)
            _drop(client)

    # -- callbacks: they only note ------------------------------------------------------------------------------

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, properties: Any) -> None:
        if client is not self._client:
            return
        if code.is_failure:
            self._end(Down(f"refused: {code}", code.value))
            return
        self._heard_at = time.monotonic()
        limit = getattr(properties, "MaximumPacketSize", None) or MAX_PAYLOAD + PACKET_OVERHEAD
        self.max_payload = min(MAX_PAYLOAD, limit - PACKET_OVERHEAD)
        self.in_flight = min(MAX_IN_FLIGHT, getattr(properties, "ReceiveMaximum", None) or MAX_IN_FLIGHT)
        client.subscribe(topics.all_down(self._device), qos=topics.QOS)
        self.connected = True

    def _on_disconnect(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if client is self._client:
            self._end(Down(str(code), code.value if code.is_failure and code.value >= 0x81 else None))

    def _on_publish(self, client: mqtt.Client, _data: Any, mid: int, code: Any, _properties: Any) -> None:
        self._heard_at = time.monotonic()
        self.bytes_in += 4
        if client is self._client:
            self.events.append(Acked(mid, code.is_failure))

    def _on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self._heard_at = time.monotonic()
        self.bytes_in += len(message.payload) + len(message.topic) + 10
        if client is self._client:
            self.events.append(Message(message.topic, bytes(message.payload)))

    def _end(self, down: Down) -> None:
        self.events.append(down._replace(stood=self.connected))
        client, self._client, self.connected = self._client, None, False
        if client:
            _drop(client)


def _drop(client: mqtt.Client) -> None:
    """Without a goodbye; also of a half-open connection."""
    with contextlib.suppress(OSError, ValueError):
        if sock := client.socket():
            sock.close()
