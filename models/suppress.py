"""What a person called a false alarm, taken out of a window before it is judged.

A pattern is the windows of that alarm. Seen from what is normal, in usual spreads, they lie along a few directions: the
model is asked what it makes of a window without what lies along these, as far as the pattern went and a little further.
If it would still alarm, there is something else, or more of the same: then it does. So a fault that begins while the
pattern is there is seen as well as it would be alone.

The windows are kept as they were measured, not as one model saw them: after a switch of models the directions are
found anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DIRECTIONS: Final = 3  # at most
FURTHER: Final = 0.25  # of its length: what goes beyond is left in
OWN: Final = 0.9  # of the pattern's own windows must be quiet without it, or it is no pattern


class Space(NamedTuple):
    """How far an input vector is from normal: (x - center) @ whiten, in usual spreads; `back` leads out again."""

    center: Floats  # [m]
    whiten: Floats  # [m, m]
    back: Floats  # [m, m], the pseudo-inverse of whiten

    @classmethod
    def of(cls, center: Floats, whiten: Floats) -> Space:
        return cls(center, whiten, np.asarray(np.linalg.pinv(whiten), np.float64))


class Pattern(NamedTuple):
    """What shall not alarm."""

    suppression_id: UUID
    names: tuple[str, ...]  # of the vectors' entries
    vectors: NDArray[np.float32]  # [n_windows, n_features]


class Region(NamedTuple):
    """A pattern as one model sees it."""

    suppression_id: UUID
    basis: Floats  # [k, m], orthonormal
    low: Floats  # [k]
    high: Floats  # [k]

    def without(self, inputs: Floats, space: Space) -> Floats:
        """The same input vector as if the pattern were not there."""
        along = np.clip(((inputs - space.center) @ space.whiten) @ self.basis.T, self.low, self.high)
        cleaned: Floats = inputs - (along @ self.basis) @ space.back
        return cleaned


def region(pattern: Pattern, inputs: Sequence[Floats], space: Space, quiet: Callable[[Floats], bool]) -> Region | None:
    """Find a pattern's region, in as few directions as will do. None: it takes more than DIRECTIONS.

    Args:
        inputs: the pattern's windows, as the model takes them.
        quiet: whether an input vector would not alarm.
    """
    deviations = (np.array(inputs) - space.center) @ space.whiten
    if not np.isfinite(deviations).all():
        return None
    _, _, directions = np.linalg.svd(deviations, full_matrices=False)
    for k in range(1, min(DIRECTIONS, len(directions)) + 1):
        basis = directions[:k]
        along = deviations @ basis.T
        low, high = np.minimum(along.min(axis=0), 0.0), np.maximum(along.max(axis=0), 0.0)
        margin = FURTHER * (high - low)
        found = Region(pattern.suppression_id, basis, low - margin, high + margin)
        if np.mean([quiet(found.without(each, space)) for each in inputs]) >= OWN:
            return found
    return None
