"""What tests against real servers share."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from simulators.embedded.broker import Broker
from tests.support import eventually

KEPT_S = 3600  # a session outlives its connection for as long


class Client:
    """A plain MQTT 5 client: what came in is in `received`; it reconnects by itself."""

    def __init__(self, broker: Broker, client_id: str | None = None) -> None:
        self.received: list[mqtt.MQTTMessage] = []
        self._filters: list[str] = []
        self._subscribed = threading.Event()
        self.client_id = client_id or uuid.uuid4().hex
        self.paho = mqtt.Client(CallbackAPIVersion.VERSION2, self.client_id, protocol=mqtt.MQTTv5)
        self.paho.on_connect = self._on_connect
        self.paho.on_subscribe = lambda *_: self._subscribed.set()
        self.paho.on_message = lambda _client, _data, message: self.received.append(message)
        self.paho.reconnect_delay_set(1, 1)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = KEPT_S
        self.paho.connect(broker.host, broker.port, clean_start=False, properties=properties)
        self.paho.loop_start()
        eventually(self.paho.is_connected, message="connected to the broker")

    def subscribe(self, topic: str) -> None:
        """At QoS 1; returns when the broker has confirmed it."""
        self._filters.append(topic)
        self._subscribed.clear()
        self.paho.subscribe(topic, qos=1)
        assert self._subscribed.wait(10), f"no confirmation for {topic}"

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """At QoS 1; returns when the broker has it."""
        eventually(self.paho.is_connected, message="connected to the broker")
        self.paho.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.received]

    def close(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()

    def _on_connect(self, *_: object) -> None:
        for topic in self._filters:  # a broker that was killed may have forgotten the session
            self.paho.subscribe(topic, qos=1)


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """Makes clients: `connect(broker)`; all are closed at the end."""
    clients: list[Client] = []

    def make(broker: Broker, client_id: str | None = None) -> Client:
        clients.append(Client(broker, client_id))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
