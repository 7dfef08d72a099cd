"""Samples from a plant's broker, as JSON: blocks as we would send them, or single samples as the plant sends them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Self

import numpy as np
from paho.mqtt.client import topic_matches_sub
from pydantic import Field, model_validator

from edge_agent.sensors.base import Block, Source
from edge_agent.sensors.channel import Channel
from edge_agent.sensors.mapping import JsonPath, TimeUnit, find, instant, number
from edge_agent.sensors.plant_broker import PlantBroker, PlantLine
from edge_agent.sensors.resampled import JoinedSource
from edge_agent.settings import Broker
from models.contract.codec import parse_json
from models.contract.signals import Quality

MAX_BLOCK: Final = 2**18  # samples


class Mapped(Channel):
    """One signal: by its name in a block; or with `value`, where it stands in the plant's own messages."""

    value: JsonPath | None = None
    topic: str | None = None  # None: the table's


class MqttSource(PlantBroker):
    """JSON on a plant's broker. Without host and port: the fleet's broker.

    Without `value`: blocks of samples, {"t": epoch seconds of the first, "rate_hz": ..., "signals": {name: [...]}}.
    With `value` of each signal: one sample a message, on a grid of `rate_hz`.
    """

    topic: str
    rate_hz: Annotated[float, Field(gt=0)]
    time: JsonPath | None = None  # of a sample; None: when the message came
    time_unit: TimeUnit | None = None  # of a number; None: found by looking
    wait_s: Annotated[float, Field(gt=0)] = 1.0  # a sample may come so late
    signals: Annotated[tuple[Mapped, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _blocks_or_samples(self) -> Self:
        if len({signal.value is None for signal in self.signals}) > 1:
            raise ValueError("give the value of every signal, or of none for messages that are blocks of samples")
        if not self.on_a_grid and (self.time or self.time_unit or any(signal.topic for signal in self.signals)):
            raise ValueError("time, time_unit and a signal's topic go with the value of each signal")
        return self

    @property
    def on_a_grid(self) -> bool:
        return self.signals[0].value is not None

    def open(self, asset: str, fleet: Broker | None) -> Source:
        return MqttSamples(self, asset, fleet) if self.on_a_grid else MqttJson(self, asset, fleet)


class MqttJson(PlantLine):
    """Blocks, on one topic of one broker."""

    def __init__(self, settings: MqttSource, asset: str, fleet: Broker | None) -> None:
        signals = tuple(channel.signal for channel in settings.signals)
        super().__init__(asset, signals, settings.rate_hz)
        self.aim(settings.broker(asset, fleet))
        self._settings = settings

    @property
    def topics(self) -> tuple[str, ...]:
        return (self._settings.topic,)

    def decode(self, item: Any) -> Iterator[Block]:
        message = parse_json(item.payload)
        columns = [message["signals"][s.name] for s in self.signals]
        n = len(columns[0])
        if not 0 < n <= MAX_BLOCK or any(len(c) != n for c in columns):
            raise ValueError("the signals must have the same number of samples, at least one")
        start, rate = float(message["t"]), float(message.get("rate_hz", self.rate_hz))
        values = np.array([[np.nan if v is None else v for v in c] for c in columns], np.float64)
        with np.errstate(over="ignore"):
            yield Block(start + np.arange(n) / rate, values.astype(np.float32))


class MqttSamples(JoinedSource, PlantLine):
    """Single samples. Counts `mqtt_no_number` (a value that is none) and `mqtt_retained` (of an unknown age)."""

    def __init__(self, settings: MqttSource, asset: str, fleet: Broker | None) -> None:
        JoinedSource.__init__(self, asset, settings.signals, settings.rate_hz, 1 / settings.rate_hz, settings.wait_s)
        self.aim(settings.broker(asset, fleet))
        self._settings = settings
        self._places = [(signal.topic or settings.topic, signal.value or "$") for signal in settings.signals]

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(topic for topic, _ in self._places))

    def decode(self, item: Any) -> Iterator[Block]:
        settings = self._settings
        if item.retained and settings.time is None:
            self.counts["mqtt_retained"] += 1
            return
        message = parse_json(item.payload)
        stamp = item.arrived if settings.time is None else instant(find(message, settings.time), settings.time_unit)
        found = False
        for i, (topic, path) in enumerate(self._places):
            if not topic_matches_sub(topic, item.topic):
                continue
            try:
                raw = find(message, path)
            except LookupError:
                continue  # it brings others
            found = True
            value = self._number(raw)
            quality = Quality.GOOD if np.isfinite(value) else Quality.BAD
            self.joiner.add(i, np.array([stamp]), np.array([value]), np.array([quality], np.uint8))
        if not found:
            raise ValueError(f"{item.topic}: nothing at {', '.join(sorted({path for _, path in self._places}))}")
        self.joiner.heard(stamp)
        yield from self.joiner.take()

    def _number(self, raw: Any) -> float:
        try:
            return number(raw)
        except ValueError:
            self.counts["mqtt_no_number"] += 1
            return np.nan
