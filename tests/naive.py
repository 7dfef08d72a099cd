"""Every feature again, the slow and obvious way, after the words of models.contract.features."""

from __future__ import annotations

import math

import numpy as np

FLOOR = 1e-12


def features(samples: np.ndarray) -> dict[str, float]:
    """All features of one channel, float[n_samples], by name. No nan or inf."""
    x = [float(v) for v in samples]
    return time_domain(x) | spectral(x)


def time_domain(x: list[float]) -> dict[str, float]:
    n = len(x)
    mean = math.fsum(x) / n
    deviations = [0.0] * n if min(x) == max(x) else [v - mean for v in x]
    m2, m3, m4 = (math.fsum(d**power for d in deviations) / n for power in (2, 3, 4))
    rms = math.sqrt(math.fsum(v * v for v in x) / n)
    abs_mean = math.fsum(abs(v) for v in x) / n
    peak = max(abs(v) for v in x)
    roots = (math.fsum(math.sqrt(abs(v)) for v in x) / n) ** 2
    return {
        "mean": mean,
        "std": math.sqrt(m2),
        "rms": rms,
        "abs_mean": abs_mean,
        "peak": peak,
        "peak_to_peak": max(x) - min(x),
        "skewness": m3 / m2**1.5 if m2 > 0 else 0.0,
        "kurtosis": m4 / m2**2 if m2 > 0 else 3.0,
        "crest_factor": peak / rms if peak > 0 else 0.0,
        "shape_factor": rms / abs_mean if peak > 0 else 0.0,
        "impulse_factor": peak / abs_mean if peak > 0 else 0.0,
        "clearance_factor": peak / roots if peak > 0 else 0.0,
    }


def power_spectrum(x: list[float]) -> list[float]:
    """One-sided power per bin, by the definition of the discrete Fourier transform."""
    n = len(x)
    mean = math.fsum(x) / n
    hann = np.array([0.5 - 0.5 * math.cos(2 * math.pi * j / n) for j in range(n)])
    tapered = hann * (np.array(x) - mean)
    powers = []
    for k in range(n // 2 + 1):
        angle = -2 * np.pi * k * np.arange(n) / n
        size = np.sum(tapered * np.cos(angle)) ** 2 + np.sum(tapered * np.sin(angle)) ** 2
        sides = 1 if k == 0 or 2 * k == n else 2
        powers.append(float(sides * size / (n * np.sum(hann**2))))
    return powers


def spectral(x: list[float]) -> dict[str, float]:
    n = len(x)
    constant = min(x) == max(x)
    powers = [0.0] * (n // 2 + 1) if constant else power_spectrum(x)
    shares = [2 * k / n for k in range(len(powers))]  # of Nyquist
    edges = [0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 2]
    bands = {
        f"band_{b + 1}": math.log10(
            FLOOR + sum(p for p, f in zip(powers, shares, strict=True) if edges[b] <= f < edges[b + 1])
        )
        for b in range(5)
    }
    if constant:
        return bands | {"centroid": 0.0, "spread": 0.0, "entropy": 0.0, "spectral_kurtosis": 1.0}
    total = math.fsum(powers)
    centroid = math.fsum(p * f for p, f in zip(powers, shares, strict=True)) / total
    spread = math.sqrt(math.fsum(p * (f - centroid) ** 2 for p, f in zip(powers, shares, strict=True)) / total)
    entropy = -math.fsum(p / total * math.log(p / total) for p in powers if p > 0) / math.log(len(powers))
    kurtosis = (math.fsum(p * p for p in powers) / len(powers)) / (total / len(powers)) ** 2
    return bands | {"centroid": centroid, "spread": spread, "entropy": entropy, "spectral_kurtosis": kurtosis}


def bearing(x: list[float], rate_hz: float, shaft_hz: float, orders: dict[str, float]) -> dict[str, float]:
    """The features of BEARING; `orders` by the names outer, inner, ball, cage."""
    n = len(x)
    turn = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n)
    spectrum = turn @ (np.array(x) - math.fsum(x) / n)
    size = np.abs(spectrum)
    analytic = np.array([spectrum[k] / size[k] if k <= n // 2 and size[k] > 1e-7 * size.max() else 0 for k in range(n)])
    envelope = np.abs(turn.conj() @ analytic / n) ** 2
    logarithm = np.log(envelope + 1e-3 * envelope.mean())
    hann = np.array([0.5 - 0.5 * math.cos(2 * math.pi * j / n) for j in range(n)])
    lines = np.abs(turn @ ((logarithm - logarithm.mean()) * hann))[: n // 2 + 1]
    shaft = shaft_hz * n / rate_hz

    def height(order: float) -> float | None:
        place = order * shaft
        low, high = max(math.floor(place * 0.98), 1), math.ceil(place * 1.02)
        if high >= len(lines):
            return None
        middle = (low + high) // 2
        around = sorted(lines[max(1, middle - int(shaft)) : middle + int(shaft)])
        half = len(around) // 2
        median = around[half] if len(around) % 2 else (around[half - 1] + around[half]) / 2
        return math.log(max(lines[low : high + 1]) / median)

    def mean(*of: float) -> float:
        known = [h for h in map(height, of) if h is not None]
        return math.fsum(known) / len(known) if known else 0.0

    def largest(*of: float) -> float:
        return max((h for h in map(height, of) if h is not None), default=0.0)

    outer, inner, ball, cage = (orders[name] for name in ("outer", "inner", "ball", "cage"))
    five, three = range(1, 6), range(1, 4)
    return {
        "bpfo": mean(*(h * outer for h in five)),
        "bpfi": mean(*(h * inner for h in five)),
        "bpfi_sides": mean(*(h * inner + s for h in three for s in (-1, 1))),
        "bsf": mean(*(h * 2 * ball for h in five)),
        "bsf_odd": mean(*(h * ball for h in (1, 3, 5))),
        "bsf_sides": mean(*(h * 2 * ball + s * cage for h in three for s in (-1, 1))),
        "ftf": mean(*(h * cage for h in three)),
        "shaft": mean(1, 2, 3, 4),
        "bpfo_max": largest(*(h * outer for h in three)),
        "bpfi_max": largest(*(h * inner for h in three)),
        "bsf_max": largest(*(h * 2 * ball for h in three)),
    }
