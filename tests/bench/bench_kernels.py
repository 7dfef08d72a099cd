"""How fast a window becomes a vector: against NumPy written well, and against what cannot be avoided."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.features.extract import N_FEATURES, extract, warm_up
from models.features.spectral import spectral
from models.features.time_domain import time_domain
from tests.bench.figure import Bench, best_us

VIBRATION = (3, 4096)  # channels, samples
PROCESS = (8, 60)


def a_window(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def numpy_time_domain(window: np.ndarray) -> np.ndarray:
    """The same twelve features by NumPy, for all channels at once, without a power or a pass too many."""
    n = window.shape[1]
    magnitude = np.abs(window)
    mean = window.mean(axis=1)
    d = window - mean[:, None]
    squares = d * d
    m2 = np.einsum("ij,ij->i", d, d) / n
    m3 = np.einsum("ij,ij->i", squares, d) / n
    m4 = np.einsum("ij,ij->i", squares, squares) / n
    rms = np.sqrt(np.einsum("ij,ij->i", window, window) / n)
    abs_mean = magnitude.mean(axis=1)
    peak = magnitude.max(axis=1)
    roots = np.sqrt(magnitude).mean(axis=1)
    std = np.sqrt(m2)
    return np.stack(
        [
            mean,
            std,
            rms,
            abs_mean,
            peak,
            window.max(axis=1) - window.min(axis=1),
            m3 / (m2 * std),
            m4 / (m2 * m2),
            peak / rms,
            rms / abs_mean,
            peak / abs_mean,
            peak / (roots * roots),
        ],
        axis=1,
    )


def against_numpy(shape: tuple[int, int]) -> Callable[[], tuple[float, float]]:
    def run() -> tuple[float, float]:
        window, out = a_window(shape), np.empty((shape[0], N_FEATURES))
        time_domain(window, out)
        np.testing.assert_allclose(out[:, :12], numpy_time_domain(window), rtol=1e-3, atol=1e-4)
        ours = best_us(lambda: time_domain(window, out))
        return ours, best_us(lambda: numpy_time_domain(window)) / ours

    return run


def in_passes() -> tuple[float, float]:
    window, out = a_window(VIBRATION), np.empty((VIBRATION[0], N_FEATURES))
    ours = best_us(lambda: time_domain(window, out))
    return ours, ours / best_us(lambda: np.sum(window))


def over_the_transform() -> tuple[float, float]:
    window, out = a_window(VIBRATION), np.empty((VIBRATION[0], N_FEATURES))
    warm_up(*VIBRATION)
    extract(window, out.reshape(-1))
    ours = best_us(lambda: spectral(window, out))
    return ours, ours / best_us(lambda: np.fft.rfft(window, axis=1))


FIGURES = [
    Bench("time_domain_3x4096", "NumPy, vectorised", "us", 8, 16, "higher", against_numpy(VIBRATION)),
    Bench("time_domain_8x60", "NumPy, vectorised", "us", 30, 60, "higher", against_numpy(PROCESS)),
    Bench("time_domain_passes", "one np.sum of the window", "us", 4, 1.5, "lower", in_passes),
    Bench("spectral_3x4096", "its bare np.fft.rfft", "us", 2.0, 1.4, "lower", over_the_transform),
]
