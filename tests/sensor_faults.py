"""Sensor faults put into recordings: pure functions of one channel's samples from where the fault begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.detect.sensors import Channels
from models.contract.signals import Signal, WindowSpec
from models.features.extract import Extractor
from models.sensor_check import Ill, SensorCheck
from models.units import mix_ups
from models.windows import Windower

Samples = NDArray[np.float64]
Fault = Callable[[Samples, Samples, Signal, np.random.Generator], Samples | None]  # before, after: None: not for it


def _stuck(before: Samples, after: Samples, _signal: Signal, _random: Any) -> Samples:
    return np.full_like(after, before[-1])


def _tiny_noise(before: Samples, after: Samples, _signal: Signal, random: np.random.Generator) -> Samples:
    return before[-1] + 2e-3 * np.abs(np.diff(before)).mean() * random.standard_normal(after.size)


def _all_zero(before: Samples, after: Samples, _signal: Signal, _random: Any) -> Samples:
    return np.zeros_like(after)


def _range_end(before: Samples, after: Samples, _signal: Signal, _random: Any) -> Samples:
    return np.full_like(after, before.max() + 2 * before.std())


def _clipped(before: Samples, after: Samples, signal: Signal, _random: Any) -> Samples:
    return np.clip(after, before.mean() - before.std(), before.mean() + before.std())


def _offset(before: Samples, after: Samples, _signal: Signal, _random: Any) -> Samples:
    return after + 3 * before.std() + 0.05 * abs(before.mean())


def _unit(before: Samples, after: Samples, signal: Signal, _random: Any) -> Samples | None:
    way = next(mix_ups(signal.unit), None)
    return None if way is None else way.scale * after + way.offset


def _noise(before: Samples, after: Samples, _signal: Signal, random: np.random.Generator) -> Samples:
    return after + 6 * before.std() * random.standard_normal(after.size)


def _dropouts(before: Samples, after: Samples, _signal: Signal, random: np.random.Generator) -> Samples:
    out = after.copy()
    for at in random.integers(0, after.size, max(1, after.size // 60)):
        out[at : at + 5] = 0.0
    return out


FAULTS: Final[dict[str, Fault]] = {
    "stuck": _stuck,
    "stuck with tiny noise": _tiny_noise,
    "all zero": _all_zero,
    "at its range's end": _range_end,
    "clipped": _clipped,
    "offset step": _offset,
    "unit": _unit,
    "white noise": _noise,
    "dropouts": _dropouts,
}


def told(
    signals: tuple[Signal, ...], times: Samples, values: Samples, spec: WindowSpec
) -> Iterator[tuple[float, list[Ill]]]:
    """Of each window its end and what people know of its channels by then, as an agent would that only watches."""
    check, extract, channels = SensorCheck(signals, spec), Extractor(signals, spec.rate_hz), Channels(spec.n_samples)
    for window in Windower(spec, len(signals)).feed(times, values.astype(np.float32)):
        found = check.look(window, extract(window.values))
        if not found:
            check.keep(window)
        channels.move(window, found)
        yield window.end, [ill for ill, _ in channels.told]
