"""Samples from a plant's broker, as JSON: {"t": epoch seconds of the first, "rate_hz": ..., "signals": {...}}."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from edge_agent.sensors.base import Block
from edge_agent.sensors.channel import Channel
from edge_agent.sensors.plant_broker import PlantBroker, PlantLine
from edge_agent.settings import Broker
from models.contract.codec import parse_json

MAX_BLOCK: Final = 2**18  # samples


class MqttSource(PlantBroker):
    """Blocks of samples as JSON on a plant's broker: {"t": epoch seconds of the first sample, "rate_hz": ...,
    "signals": {name: [...]}}. Without host and port: the fleet's broker."""

    topic: str
    rate_hz: Annotated[float, Field(gt=0)]
    signals: Annotated[tuple[Channel, ...], Field(min_length=1)]

    def open(self, asset: str, fleet: Broker | None) -> MqttJson:
        return MqttJson(self, asset, fleet)


class MqttJson(PlantLine):
    """One topic of one broker."""

    def __init__(self, settings: MqttSource, asset: str, fleet: Broker | None) -> None:
        signals = tuple(channel.signal for channel in settings.signals)
        super().__init__(asset, signals, settings.rate_hz)
        self.aim(settings.broker(asset, fleet))
        self._settings = settings

    @property
    def topics(self) -> tuple[str, ...]:
        return (self._settings.topic,)

    def decode(self, item: Any) -> Iterator[Block]:
        message = parse_json(item[1])
        columns = [message["signals"][s.name] for s in self.signals]
        n = len(columns[0])
        if not 0 < n <= MAX_BLOCK or any(len(c) != n for c in columns):
            raise ValueError("the signals must have the same number of samples, at least one")
        start, rate = float(message["t"]), float(message.get("rate_hz", self.rate_hz))
        values = np.array([[np.nan if v is None else v for v in c] for c in columns], np.float64)
        with np.errstate(over="ignore"):
            yield Block(start + np.arange(n) / rate, values.astype(np.float32))
