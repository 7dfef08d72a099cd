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
