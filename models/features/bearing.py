"""Signs of a bearing's defects: heights at its fault frequencies in the spectrum of the envelope.

A defect makes a short shock each time a part rolls over it, and shocks ring at whatever the machine resonates at. So:

1. Whiten: each line of the window's spectrum is given the same size and keeps its phase. What hums (gears, shaft,
   mains) no longer hides what strikes, and no band has to be chosen. Cepstral pre-whitening: Borghesani, Pennacchi,
   Randall, Sawalhi, Ricci, MSSP 36 (2013) 370.
2. The squared envelope, |analytic signal|^2, and its logarithm, so that one hard knock does not outweigh a hundred
   small ones: Borghesani and Shahriar, MSSP 93 (2017) 1.
3. Its spectrum, with a Hann window: a defect stands out at its frequency, with harmonics and sidebands; how far is told
   against the lines around (models.contract.features.BEARING).

Nothing here depends on the channel's unit or gain.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.contract.features import BEARING
from models.contract.signals import Bearing
from models.features._jit import SAMPLES, kernel, types
from models.features.spectral import hann

N_BEARING: Final = len(BEARING)
MIN_TURNS: Final = 6.0  # of the shaft in a window: below, its lines are not told apart, and every feature is 0
WITHIN: Final = 0.02  # rolling elements slip: fault frequencies lie a per cent or two off their formula
_FAINT: Final = np.float32(1e-3)  # of the mean: the envelope's zeros, whose logarithm says nothing

Heights = types.Array(types.float64, 1, "C")


@kernel(types.float64(types.Array(types.float32, 1, "C")))
def _median(x: Any) -> Any:
    """Of x, which is left in another order: Hoare's selection. NumPy's needs Numba's compiler in the process."""
    k, first, last = x.size // 2, 0, x.size - 1
    while first < last:
        pivot, i, j = x[(first + last) // 2], first, last
        while i <= j:
            while x[i] < pivot:
                i += 1
            while x[j] > pivot:
                j -= 1
            if i <= j:
                x[i], x[j] = x[j], x[i]
                i += 1
                j -= 1
        if k <= j:
            last = j
        elif k >= i:
            first = i
        else:
            break
    middle = np.float64(x[k])
    if x.size % 2:
        return middle
    below = np.float64(x[0])
    for i in range(1, k):
        below = max(below, np.float64(x[i]))
    return 0.5 * (below + middle)


@kernel(types.float64(SAMPLES, types.float64, types.float64))
def _height(lines: Any, place: Any, shaft: Any) -> Any:
    """ln of the largest line near `place` over the median around it; nan beyond the spectrum. Places are in lines."""
    low = max(math.floor(place * (1 - WITHIN)), 1)
    high = math.ceil(place * (1 + WITHIN))
    if place <= 0 or high >= lines.size:
        return np.nan
    middle, reach = (low + high) // 2, max(int(shaft), 2)
    around = _median(lines[max(1, middle - reach) : middle + reach].copy())
    largest = 0.0
    for i in range(low, high + 1):
        largest = max(largest, np.float64(lines[i]))
    return math.log(max(largest, 1e-30) / max(around, 1e-30))


@kernel(types.float64(Heights))
def _mean(heights: Any) -> Any:
    """Over those within the spectrum; 0 if none is."""
    total, n = 0.0, 0
    for height in heights:
        if not np.isnan(height):
            total += height
            n += 1
    return total / n if n else 0.0


@kernel(types.void(SAMPLES, types.float64, types.float64, types.float64, types.float64, types.float64, Heights))
def _heights(lines: Any, shaft: Any, outer: Any, inner: Any, ball: Any, cage: Any, out: Any) -> None:
    """The features of BEARING. `shaft` is its rate in lines, the others are in multiples of it."""
    whole = np.empty((3, 5))
    sides = np.empty((2, 6))
    odd, train, turns = np.empty(3), np.empty(3), np.empty(4)
    for h in range(5):
        whole[0, h] = _height(lines, (h + 1) * outer * shaft, shaft)
        whole[1, h] = _height(lines, (h + 1) * inner * shaft, shaft)
        whole[2, h] = _height(lines, (h + 1) * 2 * ball * shaft, shaft)
    for h in range(3):
        for side in range(2):
            sign = 2 * side - 1
            sides[0, 2 * h + side] = _height(lines, ((h + 1) * inner + sign) * shaft, shaft)
            sides[1, 2 * h + side] = _height(lines, ((h + 1) * 2 * ball + sign * cage) * shaft, shaft)
        odd[h] = _height(lines, (2 * h + 1) * ball * shaft, shaft)
        train[h] = _height(lines, (h + 1) * cage * shaft, shaft)
    for h in range(4):
        turns[h] = _height(lines, (h + 1) * shaft, shaft)
    out[0], out[1], out[2] = _mean(whole[0]), _mean(whole[1]), _mean(sides[0])
    out[3], out[4], out[5] = _mean(whole[2]), _mean(odd), _mean(sides[1])
    out[6], out[7] = _mean(train), _mean(turns)
    for part in range(3):
        best = -np.inf
        for h in range(3):
            if whole[part, h] > best:
                best = whole[part, h]
        out[8 + part] = best if best > -np.inf else 0.0


def envelope_lines(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The spectrum of the logarithm of the squared envelope of the whitened samples: float32[n // 2 + 1], magnitudes.

    Args:
        samples: float32[n >= 4], in any unit, finite. A constant gives zeros.
    """
    n = samples.size
    spectrum = np.fft.rfft(samples - np.float32(samples.mean(dtype=np.float64)))
    size = np.abs(spectrum)
    largest = size.max()
    if not largest > 0:
        return np.zeros(n // 2 + 1, np.float32)
    analytic = np.zeros(n, spectrum.dtype)
    # What is nothing but rounding gets no voice: a band above a filter's edge would be heard as loud as the rest.
    np.divide(spectrum, size, out=analytic[: size.size], where=size > 1e-7 * largest)
    signal = np.fft.ifft(analytic)
    envelope = signal.real**2 + signal.imag**2
    logarithm = np.log(envelope + _FAINT * envelope.mean())
    weighted = (logarithm - logarithm.mean()) * hann(n)
    return np.abs(np.fft.rfft(weighted)).astype(np.float32)


def bearing(
    samples: npt.NDArray[np.float32], rate_hz: float, shaft_hz: float, of: Bearing, out: npt.NDArray[np.float64]
) -> None:
    """The features of BEARING for one channel.

    Args:
        samples: float32[n], one channel of one window, contiguous, finite.
        shaft_hz: mean rate of the shaft in this window. Where it makes under MIN_TURNS in the window, stands or is not
            known (nan), there is nothing to tell, and every feature is 0.
        out: float64[11] to write into.
    """
    shaft = shaft_hz * samples.size / rate_hz
    if not shaft >= MIN_TURNS:
        out[:] = 0.0
        return
    _heights(envelope_lines(samples), shaft, of.outer, of.inner, of.ball, of.cage, out)
