"""A window in, a vector out, in the order of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from models.contract.features import CATALOGUE, vector_names
from models.contract.signals import Bearing, Signal
from models.features.bearing import N_BEARING, bearing
from models.features.spectral import spectral
from models.features.time_domain import time_domain

N_FEATURES: Final = len(CATALOGUE)  # per channel
MIN_SAMPLES: Final = 4


def extract(window: npt.NDArray[np.float32], out: npt.NDArray[np.float64] | None = None) -> npt.NDArray[np.float64]:
    """All features of CATALOGUE for every channel of one window.

    Args:
        window: float32[n_channels, n_samples >= 4], C-contiguous, in each signal's unit.
        out: float64[n_channels * len(CATALOGUE)] to write into, C-contiguous; a new array if None.

    Returns:
        `out`; position c * len(CATALOGUE) + f is feature f of channel c. All of a channel's features are nan if a nan
        or an infinity is among its samples: such a window is not to be scored.

    Raises:
        ValueError: another shape or type.
    """
    if window.dtype != np.float32 or window.ndim != 2 or window.shape[1] < MIN_SAMPLES:
        raise ValueError(f"want float32[n_channels, n_samples >= {MIN_SAMPLES}], got {window.dtype}{window.shape}")
    if not (window.flags.c_contiguous and window.flags.aligned):
        raise ValueError("a window must be C-contiguous: np.ascontiguousarray makes it so")
    n_channels = window.shape[0]
    if out is None:
        out = np.empty(n_channels * N_FEATURES)
    elif out.dtype != np.float64 or out.shape != (n_channels * N_FEATURES,) or not out.flags.c_contiguous:
        raise ValueError(f"out must be float64[{n_channels * N_FEATURES}], C-contiguous")
    by_channel = out.reshape(n_channels, N_FEATURES)
    time_domain(window, by_channel)
    spectral(window, by_channel)
    return out


class Extractor:
    """Windows of one asset to vectors: `extract`, and the features of the bearings that its signals name."""

    def __init__(self, signals: Sequence[Signal], rate_hz: float) -> None:
        """Raises ValueError: a bearing's speed is to come from a channel that is not there."""
        self.names = vector_names(signals)
        self._rate_hz, self._n_base = rate_hz, len(signals) * N_FEATURES
        where = {signal.name: i for i, signal in enumerate(signals)}
        self._bearings: list[tuple[int, Bearing, int | None]] = []
        for i, signal in enumerate(signals):
            if of := signal.bearing:
                if of.speed is not None and of.speed not in where:
                    raise ValueError(f"the bearing at {signal.name} takes its speed from {of.speed}: no such signal")
                self._bearings.append((i, of, None if of.speed is None else where[of.speed]))

    def __call__(
        self, window: npt.NDArray[np.float32], out: npt.NDArray[np.float64] | None = None
    ) -> npt.NDArray[np.float64]:
        """As `extract`; the features of a bearing are nan where its channel's are."""
        if out is None:
            out = np.empty(len(self.names))
        extract(window, out[: self._n_base])
        at = self._n_base
        for i, of, speed in self._bearings:
            heights = out[at : at + N_BEARING]
            if np.isfinite(out[i * N_FEATURES]):
                shaft_hz = of.shaft_hz if speed is None else float(window[speed].mean(dtype=np.float64)) / 60
                bearing(window[i], self._rate_hz, shaft_hz or 0.0, of, heights)
            else:
                heights[:] = np.nan
            at += N_BEARING
        return out


def warm_up(n_channels: int = 1, n_samples: int = 64) -> None:
    """Have everything compiled, loaded and planned, for windows of this shape too, before the first one comes."""
    extract(np.zeros((n_channels, n_samples), np.float32))
    extract(np.arange(n_channels * n_samples, dtype=np.float32).reshape(n_channels, n_samples))
