"""Times as people and machines write them, and what stands for a number that is not there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

EPOCH_UNITS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}  # seconds of each
_MISSING: Final = frozenset({"", "nan", "na", "n/a", "null", "none", "-", "?", "--"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PRESENT: Final = (6.3e8, 4.1e9)  # epoch seconds from 1990 to 2100


def is_missing(cell: str) -> bool:
    return cell.strip().lower() in _MISSING


def epoch_unit(value: float) -> str | None:
    """In which unit this would be a time of our day. None: in none."""
    return next((unit for unit, s in EPOCH_UNITS.items() if _PRESENT[0] < value * s < _PRESENT[1]), None)


def seconds(cell: str, form: str | None = None) -> float:
    """Epoch seconds of a stamp in ISO 8601, or in strptime's form; UTC where it has no zone; nan where it is empty.

    Raises:
        ValueError
    """
    text = cell.strip()
    if is_missing(text):
        return float("nan")
    stamp = datetime.strptime(text, form) if form else datetime.fromisoformat(text)  # noqa: DTZ007 - UTC if naive
    return ((stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)) - _EPOCH).total_seconds()
