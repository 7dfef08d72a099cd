"""Sources of samples. A source is one small module with an `open_source(asset, ...)` that gives a Source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.config import Asset, Broker
from edge_agent.errors import SourceFailed
from models.contract.signals import Signal


class Block(NamedTuple):
    """Samples of one asset."""

    times: NDArray[np.float64]  # [n], epoch seconds
    values: NDArray[np.float32]  # [n_signals, n]
    label: NDArray[np.int8] | None = None  # [n], of a labelled recording
    begins: str | None = None  # a new recording begins here: its name


class Source(Protocol):
    """What a reader thread asks of a source."""

    signals: tuple[Signal, ...]
    rate_hz: float
    ends: bool  # a recording ends, a machine does not
    dropped: int  # blocks lost before anybody could take them
    unreadable: int  # blocks that were none

    def blocks(self) -> Iterator[Block | None]:
        """Samples as they come; None now and then while there are none. Raises SourceFailed."""

    def stop(self) -> None:
        """Make `blocks` end soon. From any thread."""


def open_source(asset: Asset, fleet: Broker | None) -> Source:
    """The source that an asset's settings describe. Raises SourceFailed."""
    if asset.csv:
        from edge_agent.sensors.csv import CsvReplay

        return CsvReplay(asset.csv)
    if asset.mqtt:
        from edge_agent.sensors.mqtt import MqttJson

        return MqttJson(asset.mqtt, asset.id, fleet)
    raise SourceFailed(f"asset {asset.id} has no source")
