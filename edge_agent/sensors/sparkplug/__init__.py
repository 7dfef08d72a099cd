"""Sparkplug B: the metrics of an edge node, read as a host application."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Any, Final

import numpy as np
import paho.mqtt.client as mqtt
from pydantic import Field

from edge_agent.sensors.base import Block
from edge_agent.sensors.channel import Channel, Report
from edge_agent.sensors.plant_broker import PlantBroker, PlantLine
from edge_agent.sensors.resampled import JoinedSource
from edge_agent.sensors.sparkplug.payload import read, rebirth
from edge_agent.sensors.sparkplug.session import Given, Kind, Node, Told
from edge_agent.settings import Broker
from models.contract.signals import Quality

NAMESPACE: Final = "spBv1.0"
ASK_AGAIN_S: Final = 5.0  # a node that makes no birth is not asked more often
TopicPart = Annotated[str, Field(pattern=r"^[^+#/]+$")]


class MetricOf(Channel):
    """One metric. It is sent when it changes, so the last value holds until a death."""

    metric: str  # the name in the birth
    device: TopicPart | None = None  # None: the table's
    report: Report = Report(on="change")


class SparkplugSource(PlantBroker):
    """One edge node, or one device behind it, on a plant's broker; on a grid of `rate_hz`."""

    group: TopicPart
    node: TopicPart
    device: TopicPart | None = None  # None: the node's own metrics
    rate_hz: Annotated[float, Field(gt=0, le=1000)] = 1.0
    wait_s: Annotated[float, Field(gt=0)] = 1.0  # a change may come so late
    host_id: TopicPart | None = None  # tell the plant under this name that we are here; one asset of a plant is enough
    signals: Annotated[tuple[MetricOf, ...], Field(min_length=1)]

    @property
    def on_a_grid(self) -> bool:
        return True

    def open(self, asset: str, fleet: Broker | None) -> SparkplugHost:
        return SparkplugHost(self, asset, fleet)


class SparkplugHost(JoinedSource, PlantLine):
    """Counts `sparkplug_births`, `_deaths`, `_gaps` (messages lost), `_rebirths_asked`, `_unknown`, `_duplicates`."""

    qos = 1

    def __init__(self, settings: SparkplugSource, asset: str, fleet: Broker | None) -> None:
        JoinedSource.__init__(self, asset, settings.signals, settings.rate_hz, 1 / settings.rate_hz, settings.wait_s)
        self.aim(settings.broker(asset, fleet))
        self._settings = settings
        self._positions = {
            (signal.device or settings.device or "", signal.metric): i for i, signal in enumerate(settings.signals)
        }
        self._node = Node()
        self._asked = -math.inf
        self._here_since = 0

    @property
    def topics(self) -> tuple[str, ...]:
        group, node = self._settings.group, self._settings.node
        return (f"{NAMESPACE}/{group}/+/{node}", f"{NAMESPACE}/{group}/+/{node}/+")

    def prepare(self, client: mqtt.Client) -> None:
        self._here_since = round(time.time() * 1000)
        if self._settings.host_id:
            client.will_set(self._state_topic, self._state(False), qos=1, retain=True)

    def greet(self, client: mqtt.Client) -> None:
        if self._settings.host_id:
            client.publish(self._state_topic, self._state(True), qos=1, retain=True)
        self.ask()  # births are not retained

    def farewell(self, client: mqtt.Client) -> None:
        if self._settings.host_id:
            client.publish(self._state_topic, self._state(False), qos=1, retain=True)

    def ask(self) -> None:
        """For a rebirth."""
        self._asked = time.monotonic()
        self.counts["sparkplug_rebirths_asked"] += 1
        topic = f"{NAMESPACE}/{self._settings.group}/NCMD/{self._settings.node}"
        self.publish(topic, rebirth(time.time()))

    def decode(self, item: Any) -> Iterator[Block]:
        _, _, kind, _, *device = item.topic.split("/")
        if kind not in Kind.__members__:
            return  # a command
        payload = read(item.payload)
        told = self._node.take(Kind(kind), device[0] if device else "", payload)
        for what, n in self._node.counts.items():
            self.counts[f"sparkplug_{what}"] = n
        if told.stale:
            yield from self.joiner.cut()
        if told.rebirth and time.monotonic() - self._asked > ASK_AGAIN_S:
            self.ask()
        yield from self._samples(told, time.time() if payload.stamp is None else payload.stamp)

    def idle(self) -> Iterator[Block]:
        return super().idle() if self._node.alive else iter(())

    def cut(self) -> Iterator[Block]:
        self._node.forget()
        return super().cut()

    # -- inside -------------------------------------------------------------------------------------------------

    def _samples(self, told: Told, stamp: float) -> Iterator[Block]:
        live: defaultdict[int, list[tuple[float, float, int]]] = defaultdict(list)
        history: list[tuple[int, float, float]] = []
        for given in told.given:
            i = self._positions.get((given.known.device, given.known.name))
            if i is None:
                continue
            when, value, quality = _sample(given, stamp)
            if given.metric.historical:
                history.append((i, when, value))
            else:  # a birth tells what is now, however long it has been so
                live[i].append((max(when, stamp) if told.birth else when, value, quality))
        if told.dead_device is not None:
            for (device, _), i in self._positions.items():
                if device == told.dead_device:
                    live[i].append((stamp, math.nan, Quality.BAD))
        for i, samples in live.items():
            times, values, marks = zip(*samples, strict=True)
            self.joiner.add(i, np.array(times), np.array(values), np.array(marks, np.uint8))
        if live:
            self.joiner.heard(max(s[0] for samples in live.values() for s in samples))
        if history:
            yield self._late(history)
        yield from self.joiner.take()

    def _late(self, history: list[tuple[int, float, float]]) -> Block:
        """What the node had stored while nobody listened: as it comes, one column a sample."""
        history.sort(key=lambda sample: sample[1])
        values = np.full((len(self.signals), len(history)), np.nan, np.float32)
        for column, (i, _, value) in enumerate(history):
            values[i, column] = value
        self.counts["samples_historical"] += len(history)
        return Block(np.array([when for _, when, _ in history]), values, late=True)

    @property
    def _state_topic(self) -> str:
        return f"{NAMESPACE}/STATE/{self._settings.host_id}"

    def _state(self, online: bool) -> bytes:
        return json.dumps({"online": online, "timestamp": self._here_since}).encode()


def _sample(given: Given, stamp: float) -> tuple[float, float, Quality]:
    value = given.metric.value(given.known.datatype)
    when = stamp if given.metric.stamp is None else given.metric.stamp
    return when, value, given.metric.quality
