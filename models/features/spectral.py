"""The spectral kernels: what is done before and after NumPy's real FFT.

One-sided power per bin k = 0 .. n//2, in u^2 (G. Heinzel, A. Ruediger, R. Schilling, "Spectrum and spectral density
estimation by the DFT", 2002, eq. 19 to 23; as scipy.signal.welch does with one segment):

    P[k] = g[k] * |sum_j w[j] (x[j] - mean) exp(-2 pi i j k / n)|^2 / (n * sum_j w[j]^2)

with the periodic Hann window w and g = 2 for every bin that stands for a pair, 1 for bin 0 and, if n is even, for
Nyquist. So the sum over the bins is the w^2-weighted mean of (x - mean)^2: the variance, if the signal is stationary.

The FFT runs on the signal in units of its range, so that float32 holds the power of a signal of any size.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.contract.features import SPECTRAL, TIME_DOMAIN
from models.features._jit import BITS, FEATURES, SAMPLES, WINDOW, kernel, types
from models.features.time_domain import BLOCK, SMALLEST_SPAN

FLOOR: Final = 1e-12  # u^2, added to a band's power before the logarithm: -12 is "nothing there"
_FIRST: Final = len(TIME_DOMAIN)  # the column of band_1
_LAST: Final = _FIRST + len(SPECTRAL)
_N_BANDS: Final = 5
_SQRT2: Final = np.float32(math.sqrt(2))
_LN2: Final = np.float32(math.log(2))


@functools.lru_cache(maxsize=16)
def hann(n: int) -> npt.NDArray[np.float32]:
    """float32[n], the periodic Hann window over the root of n times the sum of its squares: the P of above."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi / n * np.arange(n))
    scaled: npt.NDArray[np.float32] = (window / math.sqrt(n * np.sum(window * window))).astype(np.float32)
    scaled.flags.writeable = False  # it is shared
    return scaled


@kernel(types.void(SAMPLES, types.float64, types.float64, SAMPLES, types.float32[::1]))
def _taper(x: Any, mean: Any, scale: Any, weights: Any, out: Any) -> None:
    """(x - mean) * scale * weights. What float32 cannot hold of the mean is taken off after scaling."""
    centre, unit = np.float32(mean), np.float32(scale)
    rest = np.float32((mean - centre) * scale)
    for i in range(x.size):
        out[i] = ((x[i] - centre) * unit - rest) * weights[i]


@kernel(types.void(WINDOW, FEATURES, SAMPLES, types.float32[:, ::1]))
def _prepare(window: Any, out: Any, weights: Any, tapered: Any) -> None:
    """The window with its mean removed, in units of its range, times the Hann window. Nothing for a constant one."""
    for c in range(window.shape[0]):
        mean, span = out[c, 0], out[c, 5]
        if span > SMALLEST_SPAN:
            _taper(window[c], mean, 1 / span, weights, tapered[c])
        else:
            tapered[c, :] = np.float32(0)


@kernel(types.void(SAMPLES, types.float32[::1]))
def _power(parts: Any, power: Any) -> None:
    """Twice re^2 + im^2, from the spectrum's real and imaginary parts in turn."""
    for k in range(power.size):
        re, im = parts[2 * k], parts[2 * k + 1]
        power[k] = np.float32(2) * (re * re + im * im)


@kernel(types.UniTuple(types.float64, 4)(SAMPLES, types.int64))
def _sums(power: Any, first: Any) -> Any:
    """Sums of P, kP, k^2 P and P^2, where k counts on from `first`.

    In float64: the spread of a narrow line is a small difference of large sums.
    """
    s0, s1, s2, squares = 0.0, 0.0, 0.0, 0.0
    for i in range(power.size):
        p = np.float64(power[i])
        k = np.float64(np.int32(first) + np.int32(i))
        s0 += p
        s1 += p * k
        s2 += p * k * k
        squares += p * p
    return s0, s1, s2, squares


@kernel(types.float32(SAMPLES, BITS))
def _block_plogp(power: Any, bits: Any) -> Any:
    """Sum of P ln P, to about 1e-7 of the sum of P |ln P|.

    A logarithm that vectorises without a vector library: a float32 is m * 2^e with 1 <= m < 2, both to be had from its
    bits, and ln m = ln sqrt(2) + 2 atanh(u) with u = (m - sqrt 2) / (m + sqrt 2), |u| < 0.172, whose series is short.
    P = 0 comes out as 0, as it must.
    """
    total = np.float32(0)
    for i in range(power.size):
        exponent = np.float32((bits[i] >> np.int32(23)) - np.int32(127))
        m = np.float32(1) + np.float32(bits[i] & np.int32(0x7FFFFF)) * np.float32(2.0**-23)
        u = (m - _SQRT2) / (m + _SQRT2)
        v = u * u
        series = np.float32(2 / 5) + v * (np.float32(2 / 7) + v * np.float32(2 / 9))
        atanh2 = u * (np.float32(2) + v * (np.float32(2 / 3) + v * series))
        total += power[i] * ((exponent + np.float32(0.5)) * _LN2 + atanh2)
    return total


@kernel(types.void(WINDOW, types.int64, FEATURES))
def _describe(parts: Any, n: Any, out: Any) -> None:
    """The features of SPECTRAL from the tapered window's spectrum, given as float32[n_channels, 2 * n_bins]."""
    n_bins = n // 2 + 1
    power = np.empty(n_bins, np.float32)
    bits = power.view(np.int32)
    # Band b is first_of[b] <= k < first_of[b + 1]; Nyquist is k = n / 2.
    first_of = (0, (n + 31) // 32, (n + 15) // 16, (n + 7) // 8, (n + 3) // 4, n_bins)
    for c in range(out.shape[0]):
        span = out[c, 5]
        if not span > SMALLEST_SPAN:
            out[c, _FIRST : _FIRST + _N_BANDS] = math.log10(FLOOR)
            out[c, _FIRST + _N_BANDS : _LAST - 1] = 0.0
            out[c, _LAST - 1] = 1.0
            if np.isnan(span):
                out[c, _FIRST:_LAST] = np.nan
            continue
        _power(parts[c], power)
        power[0] *= np.float32(0.5)
        if n % 2 == 0:
            power[n_bins - 1] *= np.float32(0.5)

        s0, s1, s2, squares = 0.0, 0.0, 0.0, 0.0
        for b in range(_N_BANDS):
            in_band, b1, b2, bb = _sums(power[first_of[b] : first_of[b + 1]], first_of[b])
            s0 += in_band
            s1 += b1
            s2 += b2
            squares += bb
            out[c, _FIRST + b] = math.log10(in_band * span * span + FLOOR)
        plogp = 0.0
        for start in range(0, n_bins, BLOCK):
            plogp += _block_plogp(power[start : start + BLOCK], bits[start : start + BLOCK])

        centroid = s1 / s0
        out[c, _LAST - 4] = centroid * 2 / n
        out[c, _LAST - 3] = math.sqrt(max(s2 / s0 - centroid * centroid, 0.0)) * 2 / n
        out[c, _LAST - 2] = max((math.log(s0) - plogp / s0) / math.log(n_bins), 0.0)
        out[c, _LAST - 1] = n_bins * squares / (s0 * s0)


def spectral(window: npt.NDArray[np.float32], out: npt.NDArray[np.float64]) -> None:
    """The features of SPECTRAL, in catalogue order. `time_domain` goes first: its mean and range are used here.

    Args:
        window: float32[n_channels, n_samples >= 4], in each signal's unit.
        out: float64[n_channels, 21]; columns 0 (mean) and 5 (peak_to_peak) are read, 12 and on are written. A channel
            whose range is nan gets nan. A constant one has no spectrum: bands at FLOOR, centroid, spread and entropy 0,
            spectral kurtosis 1. A band too narrow to hold a bin (n_samples < 64) is at FLOOR too.
    """
    n = window.shape[1]
    tapered = np.empty(window.shape, np.float32)
    _prepare(window, out, hann(n), tapered)
    _describe(np.fft.rfft(tapered, axis=1).view(np.float32), n, out)  # NumPy >= 2 stays in single precision
