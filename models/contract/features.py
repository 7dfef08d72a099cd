"""The feature catalogue: ordered names with units and definitions. FEATURE_SET is its fingerprint.

A vector holds every feature of the first signal, then every feature of the second: position `s * len(CATALOGUE) + f`,
named "signal.feature"; then, for each signal with a bearing, the features of BEARING. A bundle names the FEATURE_SET it
was trained on, and agent, dataset and gate refuse any other: whoever changes what a kernel computes raises its
`revision` here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Final, NamedTuple

from models.contract.signals import Signal


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
# Of the spectrum of the logarithm of the squared envelope, after whitening (models.features.bearing). "Height" is ln of
# the largest line within 2 % of a frequency over the median of the lines up to one shaft rate to both sides.
BEARING: Final = (
    Feature("bpfo", "1", "mean height at the first five harmonics of the outer race's frequency"),
    Feature("bpfi", "1", "mean height at the first five harmonics of the inner race's frequency"),
    Feature("bpfi_sides", "1", "mean height one shaft rate beside the first three of these"),
    Feature("bsf", "1", "mean height at the first five harmonics of twice the ball spin frequency"),
    Feature("bsf_odd", "1", "mean height at 1, 3 and 5 times the ball spin frequency"),
    Feature("bsf_sides", "1", "mean height one cage rate beside the first three harmonics of twice the ball spin"),
    Feature("ftf", "1", "mean height at the first three harmonics of the cage's frequency"),
    Feature("shaft", "1", "mean height at the first four harmonics of the shaft's rate"),
    Feature("bpfo_max", "1", "greatest height at the first three harmonics of the outer race's frequency"),
    Feature("bpfi_max", "1", "greatest height at the first three harmonics of the inner race's frequency"),
    Feature("bsf_max", "1", "greatest height at the first three harmonics of twice the ball spin frequency"),
)
CATALOGUE: Final = TIME_DOMAIN + SPECTRAL
NAMES: Final = tuple(feature.name for feature in CATALOGUE)
BEARING_NAMES: Final = tuple(feature.name for feature in BEARING)
FEATURE_SET: Final = hashlib.sha256(json.dumps([CATALOGUE, BEARING], separators=(",", ":")).encode()).hexdigest()[:16]


def vector_names(signals: Iterable[Signal | str]) -> tuple[str, ...]:
    """The names of a vector's entries, in order: "vib_x.mean", "vib_x.std", ... A plain name is a signal without a
    bearing."""
    known = [Signal(name=signal) if isinstance(signal, str) else signal for signal in signals]
    with_bearing = [signal for signal in known if signal.bearing]
    return tuple(f"{signal.name}.{name}" for signal in known for name in NAMES) + tuple(
        f"{signal.name}.{name}" for signal in with_bearing for name in BEARING_NAMES
    )


def as_table() -> str:
    """The catalogue for people, as docs/features.md."""
    parts = ((TIME_DOMAIN, "Of each channel"), (SPECTRAL, "Of its spectrum"), (BEARING, "Of each bearing"))
    lines = [
        "# Features",
        "",
        "What is computed of each window, in the order of a vector; u is the unit of the signal. The kernels, with the",
        "sources of their formulas, are in `models/features`; `tests/naive.py` says each again in the obvious way.",
        "",
        f"Fingerprint: `{FEATURE_SET}`. This page is written by `python -m models.contract.features`.",
    ]
    for features, title in parts:
        lines += ["", f"## {title}", "", "| feature | unit | meaning |", "|---|---|---|"]
        for feature in features:
            meaning = feature.meaning.replace("|", "\\|")
            lines.append(f"| `{feature.name}` | {feature.unit} | {meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_table(), end="")
