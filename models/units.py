"""Units that are taken for each other, and what a value becomes then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

# Of each quantity: names, and scale and offset to its first unit.
_QUANTITIES: Final[tuple[dict[tuple[str, ...], tuple[float, float]], ...]] = (
    {("m/s2", "m/s^2", "m/s²"): (1.0, 0.0), ("g",): (9.80665, 0.0), ("mm/s2", "mm/s²"): (1e-3, 0.0)},
    {("degc", "°c", "c", "deg c"): (1.0, 0.0), ("degf", "°f", "f"): (5 / 9, -160 / 9), ("k",): (1.0, -273.15)},
    {("bar",): (1.0, 0.0), ("psi",): (0.0689476, 0.0), ("kpa",): (0.01, 0.0), ("mbar",): (1e-3, 0.0)},
    {("mm/s",): (1.0, 0.0), ("in/s",): (25.4, 0.0), ("m/s",): (1e3, 0.0)},
    {("mm",): (1.0, 0.0), ("in",): (25.4, 0.0), ("um", "µm"): (1e-3, 0.0)},
    {("a",): (1.0, 0.0), ("ma",): (1e-3, 0.0)},
    {("v",): (1.0, 0.0), ("mv",): (1e-3, 0.0)},
    {("kw",): (1.0, 0.0), ("w",): (1e-3, 0.0), ("hp",): (0.7457, 0.0)},
    {("rpm", "1/min"): (1.0, 0.0), ("hz", "1/s"): (60.0, 0.0)},
    {("l/min",): (1.0, 0.0), ("m3/h", "m³/h"): (1000 / 60, 0.0), ("gpm",): (3.78541, 0.0)},
)


class MixUp(NamedTuple):
    """A value x in the unit that is meant arrives as scale * x + offset, which is in `unit`."""

    unit: str
    scale: float
    offset: float


def mix_ups(unit: str) -> Iterator[MixUp]:
    """What may arrive where `unit` is meant; nothing for a unit that is not known."""
    for quantity in _QUANTITIES:
        meant = next((how for names, how in quantity.items() if unit.strip().lower() in names), None)
        if meant is None:
            continue
        for names, (scale, offset) in quantity.items():
            if unit.strip().lower() not in names:
                yield MixUp(names[0], meant[0] / scale, (meant[1] - offset) / scale)
