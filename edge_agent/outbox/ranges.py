"""Sets of numbers as sorted ranges, both ends included."""

from __future__ import annotations

from collections.abc import Iterable

from models.contract.base import SeqRange


def of(numbers: Iterable[int]) -> list[SeqRange]:
    """Numbers in rising order."""
    found: list[list[int]] = []
    for n in numbers:
        if found and n == found[-1][1] + 1:
            found[-1][1] = n
        else:
            found.append([n, n])
    return [(a, b) for a, b in found]


def rest(last: int, taken: Iterable[SeqRange]) -> list[SeqRange]:
    """What of 1 to `last` is in none of these."""
    found, at = [], 1
    for a, b in sorted(taken):
        if a > at:
            found.append((at, min(a - 1, last)))
        at = max(at, b + 1)
    if at <= last:
        found.append((at, last))
    return [(a, b) for a, b in found if a <= b]
