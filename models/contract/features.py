"""The feature catalogue: ordered names with units and definitions. FEATURE_SET is its fingerprint.

A vector holds every feature of the first signal, then every feature of the second: position `s * len(CATALOGUE) + f`,
named "signal.feature". A bundle names the FEATURE_SET it was trained on, and agent, dataset and gate refuse any other:
whoever changes what a kernel computes raises its `revision` here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Final, NamedTuple


class Feature(NamedTuple):
    """One number per channel and window. `unit` is in terms of the signal's unit u."""

    name: str
    unit: str
    meaning: str
    revision: int = 1


TIME_DOMAIN: Final = (
    Feature("mean", "u", "arithmetic mean"),
    Feature("std", "u", "standard deviation, population form"),
    Feature("rms", "u", "root mean square"),
    Feature("abs_mean", "u", "mean of the absolute values"),
    Feature("peak", "u", "largest absolute value"),
    Feature("peak_to_peak", "u", "largest minus smallest value"),
    Feature("skewness", "1", "third standardised moment, population form; 0 if constant"),
    Feature("kurtosis", "1", "fourth standardised moment (normal: 3), population form; 3 if constant"),
    Feature("crest_factor", "1", "peak over RMS; 0 if all zero"),
    Feature("shape_factor", "1", "RMS over mean absolute value; 0 if all zero"),
    Feature("impulse_factor", "1", "peak over mean absolute value; 0 if all zero"),
    Feature("clearance_factor", "1", "peak over squared mean of the roots of absolute values; 0 if all zero"),
)
SPECTRAL: Final = (
    Feature("band_1", "log10 u^2", "log10 of the power from 0 to 1/16 of the Nyquist frequency, mean removed"),
    Feature("band_2", "log10 u^2", "log10 of the power from 1/16 to 1/8 of Nyquist"),
    Feature("band_3", "log10 u^2", "log10 of the power from 1/8 to 1/4 of Nyquist"),
    Feature("band_4", "log10 u^2", "log10 of the power from 1/4 to 1/2 of Nyquist"),
    Feature("band_5", "log10 u^2", "log10 of the power from 1/2 of Nyquist to Nyquist"),
    Feature("centroid", "1", "power-weighted mean frequency, as a share of Nyquist"),
    Feature("spread", "1", "power-weighted standard deviation of frequency, as a share of Nyquist"),
    Feature("entropy", "1", "Shannon entropy of the power spectrum over its largest possible value"),
    Feature("spectral_kurtosis", "1", "mean of squared power over squared mean power: 1 is flat, large is peaky"),
)
CATALOGUE: Final = TIME_DOMAIN + SPECTRAL
NAMES: Final = tuple(feature.name for feature in CATALOGUE)
FEATURE_SET: Final = hashlib.sha256(json.dumps(CATALOGUE, separators=(",", ":")).encode()).hexdigest()[:16]


def vector_names(signals: Iterable[str]) -> tuple[str, ...]:
    """The names of a vector's entries, in order: "vib_x.mean", "vib_x.std", ..."""
    return tuple(f"{signal}.{name}" for signal in signals for name in NAMES)
