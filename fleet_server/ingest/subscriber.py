"""The only MQTT client on the server. Its callbacks only queue: an exception in one of them would end the network's
thread.

A message is acknowledged after its row is committed, in order of arrival, and only on the connection it came over: a
late acknowledgement would settle another message that was given the same number since.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from fleet_server.config import Broker
from fleet_server.errors import BadConfig
from fleet_server.ingest.mailbox import RECEIVE_MAXIMUM, Arrived, Mailbox
from models.contract import topics
from models.contract.codec import MAX_PAYLOAD

log = logging.getLogger(__name__)

MAX_PACKET: Final = MAX_PAYLOAD + 8192  # a broker keeps larger ones from us
SESSION_S: Final = 7 * 86400  # the broker queues for us as long as we are away
MAX_QUEUED: Final = 5000  # outgoing; what has no place is sent again when it is asked for again


class Subscriber:
    """Connects, reconnects, subscribes, publishes."""

    def __init__(self, broker: Broker, mailbox: Mailbox) -> None:
        self._broker, self._mailbox = broker, mailbox
        self._lock = threading.Lock()
        self._generation = 0
        self._connected = False
        self._when_connected: list[Callable[[], None]] = []
        self._client = self._make_client()

    def when_connected(self, call: Callable[[], None]) -> None:
        """Called with every connection, in the network's thread: must not block or raise."""
        self._when_connected.append(call)

    def start(self) -> None:
        """Connect, now or whenever the broker is there."""
        # No clean start: what was queued for us while we were away is the reason for having a session.
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_S
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        properties.MaximumPacketSize = MAX_PACKET
        self._client.connect_async(
            self._broker.host,
            self._broker.port,
            keepalive=self._broker.keepalive_s,
            clean_start=False,
            properties=properties,
        )
        self._client.loop_start()

    def stop(self) -> None:
        """Send what is queued, for two seconds at most, and disconnect."""
        deadline = time.monotonic() + 2
        while self._connected and self._client.want_write() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def alive(self) -> bool:
        """The network's thread runs. Without it `connected` would stay true for ever."""
        thread = self._client._thread
        return thread is not None and thread.is_alive()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hand a payload to the broker, from any thread. False: no connection or no room, it was not taken."""
        if not self._connected:
            return False
        info = self._client.publish(topic, payload, topics.QOS, retain)
        # Without a connection (it was lost just now) paho keeps the message and sends it later: that counts as taken.
        return info.rc in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN)

    def acknowledge(self, messages: Iterable[Arrived]) -> None:
        """In order of arrival."""
        for message in messages:
            with self._lock:  # so that no new connection begins in between
                if message.qos and self._connected and message.generation == self._generation:
                    self._client.ack(message.mid, message.qos)

    # -- callbacks, in the network's thread ---------------------------------------------------------------------

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, _props: Any) -> None:
        if reason.is_failure:
            log.error("broker refused the connection", extra={"reason": str(reason)})
            return
        with self._lock:
            self._generation += 1
            self._connected = True
            self._mailbox.forget()
        # With each connection, for a broker may have forgotten the session. Retained messages are none of a device's
        # news.
        options = SubscribeOptions(qos=topics.QOS, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        client.subscribe(topics.all_up(), options=options)
        log.info("broker connected", extra={"host": self._broker.host, "port": self._broker.port})
        for call in self._when_connected:
            try:
                call()
            except Exception:
                log.exception("after connecting")

    def _on_disconnect(self, _client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, _props: Any) -> None:
        with self._lock:
            was, self._connected = self._connected, False
            self._generation += 1
        if was:
            log.warning("broker connection lost", extra={"reason": str(reason)})

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "(not UTF-8)"
        self._mailbox.put(
            Arrived(self._generation, message.mid, message.qos, bool(message.retain), topic, bytes(message.payload))
        )

    def _on_publish(self, _client: mqtt.Client, _data: Any, _mid: int, reason: ReasonCode, _props: Any) -> None:
        if reason.is_failure:
            log.warning("broker refused a message of ours", extra={"reason": str(reason)})

    def _on_subscribe(self, _client: mqtt.Client, _data: Any, _mid: int, reasons: list[ReasonCode], _p: Any) -> None:
        for reason in reasons:
            if reason.is_failure:
                log.error("broker refused the subscription", extra={"reason": str(reason)})

    def _make_client(self) -> mqtt.Client:
        broker = self._broker
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=broker.client_id, protocol=mqtt.MQTTv5, manual_ack=True
        )
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message, client.on_publish, client.on_subscribe = (
            self._on_message,
            self._on_publish,
            self._on_subscribe,
        )
        client.max_inflight_messages_set(100)
        client.max_queued_messages_set(MAX_QUEUED)
        client.reconnect_delay_set(min_delay=1, max_delay=random.randint(15, 30))  # noqa: S311 - not all at once
        try:
            if broker.username is not None:
                password = broker.password_file.read_text(encoding="utf-8").strip() if broker.password_file else None
                client.username_pw_set(broker.username, password)
            if broker.ca is not None:
                client.tls_set(
                    str(broker.ca),
                    str(broker.certificate) if broker.certificate else None,
                    str(broker.key) if broker.key else None,
                )
        except (OSError, ValueError) as exc:
            raise BadConfig(f"broker: {exc}") from exc
        return client
