"""A plant's MQTT broker as a line: what the sources that read from one share."""

from __future__ import annotations

import logging
import random
import time
from abc import abstractmethod
from typing import Annotated, Any, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import Field

from edge_agent.errors import SourceFailed
from edge_agent.sensors.base import IDLE_S, LineLost, LiveSource, SourceSettings
from edge_agent.settings import Broker, FilePath

log = logging.getLogger(__name__)


class Message(NamedTuple):
    """As it came."""

    topic: str
    payload: bytes
    arrived: float  # epoch seconds, by our clock
    retained: bool  # the broker has kept it: nobody knows how long


def taken(message: mqtt.MQTTMessage) -> Message:
    return Message(message.topic, bytes(message.payload), time.time(), message.retain)


class PlantBroker(SourceSettings):
    """Where the plant's broker listens. Without host and port: the fleet's broker, as it is configured."""

    host: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    username: str | None = None
    password_file: FilePath | None = None
    ca: FilePath | None = None
    certificate: FilePath | None = None
    key: FilePath | None = None

    def broker(self, asset: str, fleet: Broker | None) -> Broker:
        """Raises SourceFailed."""
        if self.host is None and fleet is not None:
            return fleet if self.port is None else fleet.model_copy(update={"port": self.port})
        if self.host is None or self.port is None:
            raise SourceFailed(f"asset {asset}: its source needs host and port where there is no [broker]")
        names = ("host", "port", "username", "password_file", "ca", "certificate", "key")
        return Broker(**{name: value for name in names if (value := getattr(self, name)) is not None})


class PlantLine(LiveSource):
    """Subscriptions at a broker. Subclasses decode a Message."""

    qos = 0  # samples: the next ones are better than the last ones again

    def aim(self, broker: Broker) -> None:
        """Which broker; before it is read."""
        self._broker = broker
        self._client: mqtt.Client | None = None

    @property
    @abstractmethod
    def topics(self) -> tuple[str, ...]:
        """What to subscribe to."""

    def prepare(self, client: mqtt.Client) -> None:
        """Before it connects: a last will, for instance."""

    def greet(self, client: mqtt.Client) -> None:
        """Once it is subscribed."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """If the line is there; from any thread."""
        if self._client is not None and self.connected:
            self._client.publish(topic, payload, qos=qos, retain=retain)

    def session(self) -> None:
        refused: list[str] = []
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"source-{self.asset}-{random.getrandbits(32):08x}",
            protocol=mqtt.MQTTv5,
        )
        if self._broker.username:
            client.username_pw_set(self._broker.username, self._broker.password())
        if context := self._broker.tls():
            client.tls_set_context(context)

        def on_connect(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                refused.append(f"the broker refuses: {reason}")
            else:
                client.subscribe([(topic, self.qos) for topic in self.topics])

        def on_subscribe(_client: Any, _data: Any, _mid: int, reasons: list[Any], _properties: Any) -> None:
            for topic, reason in zip(self.topics, reasons, strict=False):
                if reason.is_failure:
                    refused.append(f"the broker refuses the topic {topic}: {reason}")
            self._client = client
            if not refused:
                self.up()
                self.greet(client)

        client.on_connect, client.on_subscribe = on_connect, on_subscribe
        client.on_message = lambda _client, _data, m: self.put(taken(m))
        self.prepare(client)
        client.connect(self._broker.host, self._broker.port, self._broker.keepalive_s)
        try:
            while not self.stopping:
                code = client.loop(IDLE_S)
                if refused:
                    raise LineLost(refused[0])
                if code != mqtt.MQTT_ERR_SUCCESS:
                    raise LineLost(mqtt.error_string(code))
        finally:
            self._client = None
            self.farewell(client)
            client.disconnect()
            client.loop(IDLE_S)

    def farewell(self, client: mqtt.Client) -> None:
        """Before it disconnects."""
