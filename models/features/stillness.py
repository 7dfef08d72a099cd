"""How a channel moves from sample to sample: what tells a sensor that stands still, is clipped or drops out."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.features._jit import FEATURES, SAMPLES, WINDOW, kernel, types
from models.features.time_domain import BLOCK

COLUMNS: Final = ("diff_rms", "max_step", "longest_run", "tail_run", "clipped", "dropped")
N_COLUMNS: Final = len(COLUMNS)
RUN: Final = 3  # zeros in a row of a channel that swings around zero: fewer are chance


@kernel(types.UniTuple(types.float32, 3)(SAMPLES, types.int64, types.int64))
def _block(x: npt.NDArray[np.float32], begin: Any, end: Any) -> Any:
    """Sum of squared steps, steps of zero, samples of zero, of x[begin:end]; all float32, so that it vectorises."""
    total, still, zeros = np.float32(0), np.float32(0), np.float32(0)
    for i in range(begin, end):
        d = x[i] - x[i - 1]
        total += d * d
        still += np.float32(1) if d == 0 else np.float32(0)
        zeros += np.float32(1) if x[i] == 0 else np.float32(0)
    return total, still, zeros


@kernel(types.UniTuple(types.float64, 3)(SAMPLES))
def _quick(x: npt.NDArray[np.float32]) -> Any:
    """Mean squared step, steps of zero, samples of zero."""
    total, still, zeros = 0.0, 0.0, 0.0
    for begin in range(1, x.size, BLOCK):
        t, s, z = _block(x, begin, min(begin + BLOCK, x.size))
        total += t
        still += s
        zeros += z
    return total / max(x.size - 1, 1), still, zeros


@kernel(types.void(SAMPLES, types.boolean, types.Array(types.float64, 1, "C")))
def _runs(x: npt.NDArray[np.float32], far: bool, out: Any) -> None:
    """All but diff_rms, sample by sample."""
    n = x.size
    low, high, step = x[0], x[0], 0.0
    for i in range(1, n):
        low, high = min(low, x[i]), max(high, x[i])
        step = max(step, abs(float(x[i]) - float(x[i - 1])))
    longest, run, at_low, at_high, dropped = 0, 0, 0, 0, 0
    for i in range(n):
        run = run + 1 if i and x[i] == x[i - 1] else 1
        if i + 1 < n and x[i + 1] == x[i]:
            continue
        longest = max(longest, run)
        if low < high:
            at_low += run if x[i] == low else 0
            at_high += run if x[i] == high else 0
        if x[i] == 0 and run <= i and i + 1 < n and (far or run >= RUN):
            dropped += run
    out[1], out[2], out[3], out[4], out[5] = step, longest, run, max(at_low, at_high) / n, dropped / n


@kernel(types.void(WINDOW, types.Array(types.boolean, 1, "C"), types.boolean, FEATURES))
def stillness(window: npt.NDArray[np.float32], far: npt.NDArray[np.bool_], whole: bool, out: Any) -> None:
    """Every channel of a window, into float64[n_channels, N_COLUMNS]:

    diff_rms: root of the mean squared step. max_step: the largest |step|; 0 if not looked at. longest_run, tail_run:
    equal samples in a row, anywhere and at the end. clipped: share of samples that are the largest value, or the
    smallest. dropped: share in runs of zeros between other values; of a channel whose values are `far`
    from zero each zero counts, else runs of RUN or more.

    Args:
        whole: False: where no two samples in a row are equal and none is zero, only diff_rms is looked at.
    """
    for c in range(window.shape[0]):
        x = window[c]
        square, still, zeros = _quick(x)
        out[c, 0] = math.sqrt(square)
        if whole or still >= RUN - 1 or zeros:
            _runs(x, far[c], out[c])
        else:
            out[c, 1], out[c, 2], out[c, 3], out[c, 4], out[c, 5] = 0.0, 1.0, 1.0, 0.0, 0.0
