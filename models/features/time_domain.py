"""The time-domain kernel: three passes over a channel, each a loop that LLVM vectorises.

All sums run in float32 over BLOCK samples and are then added up in float64: as fast as float32, and on windows of any
length accurate to a few float32 roundings. Moments are taken about the mean and in units of the channel's range, so
that a large offset costs no digits and a fourth power neither overflows nor vanishes.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.features._jit import BITS, FEATURES, SAMPLES, WINDOW, kernel, types

BLOCK: Final = 512
LARGEST: Final = 1e36  # beyond it a float32 sum could overflow: counts as infinite
SMALLEST_SPAN: Final = 1e-36  # below it a float32 loses digits: counts as constant
_INF: Final = 0x7F800000  # the bits of infinity; a nan has larger ones
_MAGNITUDE: Final = np.int32(0x7FFFFFFF)


@kernel(types.UniTuple(types.int32, 2)(BITS))
def _extremes(bits: npt.NDArray[np.int32]) -> Any:
    """Least and greatest of float32 values given as their bits, as integers in the order of the values.

    Integers have no nan to mind, so this vectorises where a float minimum does not, and nan and inf show in the result.
    """
    low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    for i in range(bits.size):
        ordered = np.int32(bits[i] ^ ((bits[i] >> np.int32(31)) & _MAGNITUDE))  # negative floats order backwards
        low = min(low, ordered)
        high = max(high, ordered)
    return low, high


@kernel(types.UniTuple(types.float32, 3)(SAMPLES))
def _block_sums(x: npt.NDArray[np.float32]) -> Any:
    """Sums of x, |x| and sqrt |x|."""
    s, a, r = np.float32(0), np.float32(0), np.float32(0)
    for i in range(x.size):
        size = abs(x[i])
        s += x[i]
        a += size
        r += math.sqrt(size)
    return s, a, r


@kernel(types.UniTuple(types.float32, 4)(SAMPLES, types.float32, types.float32))
def _block_moments(x: npt.NDArray[np.float32], centre: Any, scale: Any) -> Any:
    """Sums of d, d^2, d^3 and d^4, where d = (x - centre) * scale."""
    s1, s2, s3, s4 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for i in range(x.size):
        d = (x[i] - centre) * scale
        square = d * d
        s1 += d
        s2 += square
        s3 += square * d
        s4 += square * square
    return s1, s2, s3, s4


@kernel(types.void(WINDOW, FEATURES))
def time_domain(window: npt.NDArray[np.float32], out: npt.NDArray[np.float64]) -> None:
    """The features of TIME_DOMAIN, in catalogue order.

    Args:
        window: float32[n_channels, n_samples >= 1], in each signal's unit.
        out: float64[n_channels, >= 12], whose first 12 columns are written. A channel with a nan, an infinity or a
            value over LARGEST gets nan in all of them.
    """
    n = window.shape[1]
    ends = np.empty(2, np.int32)
    for c in range(window.shape[0]):
        x = window[c]
        low, high = _extremes(x.view(np.int32))
        if high >= _INF or low <= -_INF - 1:
            out[c, :12] = np.nan
            continue
        ends[0], ends[1] = low ^ ((low >> 31) & _MAGNITUDE), high ^ ((high >> 31) & _MAGNITUDE)
        least, greatest = ends.view(np.float32)
        span = np.float64(greatest) - np.float64(least)
        peak = max(abs(np.float64(least)), abs(np.float64(greatest)))
        if peak > LARGEST:
            out[c, :12] = np.nan
            continue

        total, absolute, roots = 0.0, 0.0, 0.0
        for start in range(0, n, BLOCK):
            s, a, r = _block_sums(x[start : start + BLOCK])
            total += s
            absolute += a
            roots += r

        mean: Any = 0.5 * (np.float64(least) + np.float64(greatest))
        std, skewness, kurtosis = 0.0, 0.0, 3.0
        if span > SMALLEST_SPAN:
            # Any centre near the mean will do: the first moment about it corrects the others.
            centre = np.float32(total / n)
            scale = np.float32(1 / span)
            e1, e2, e3, e4 = 0.0, 0.0, 0.0, 0.0
            for start in range(0, n, BLOCK):
                s1, s2, s3, s4 = _block_moments(x[start : start + BLOCK], centre, scale)
                e1 += s1
                e2 += s2
                e3 += s3
                e4 += s4
            e1 /= n
            e2 /= n
            e3 /= n
            e4 /= n
            m2 = e2 - e1 * e1
            m3 = e3 - e1 * (3 * e2 - 2 * e1 * e1)
            m4 = e4 - e1 * (4 * e3 - e1 * (6 * e2 - 3 * e1 * e1))
            mean = np.float64(centre) + e1 * span
            std = math.sqrt(m2) * span
            skewness = m3 / (m2 * math.sqrt(m2))
            kurtosis = m4 / (m2 * m2)

        rms = math.sqrt(mean * mean + std * std)
        abs_mean = absolute / n
        root_mean = roots / n
        out[c, 0] = mean
        out[c, 1] = std
        out[c, 2] = rms
        out[c, 3] = abs_mean
        out[c, 4] = peak
        out[c, 5] = span
        out[c, 6] = skewness
        out[c, 7] = kurtosis
        out[c, 8] = peak / rms if peak > 0 else 0.0
        out[c, 9] = rms / abs_mean if peak > 0 else 0.0
        out[c, 10] = peak / abs_mean if peak > 0 else 0.0
        out[c, 11] = peak / (root_mean * root_mean) if peak > 0 else 0.0
