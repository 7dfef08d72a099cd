"""Where a number stands in a message that somebody else has designed: paths in JSON, times in their unit."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator

from models.recordings import EPOCH_UNITS, epoch_unit, is_missing, seconds

TimeUnit = Literal["s", "ms", "us", "ns"]
_STEP: Final = re.compile(r"""\.([^.\[\]"']+)|\[(\d+)\]|\["([^"]+)"\]|\['([^']+)'\]""")


def _checked(path: str) -> str:
    steps(path)
    return path


JsonPath = Annotated[str, AfterValidator(_checked)]  # "$.data[0].temp", '$["odd name"]', "$" is the message itself


@cache
def steps(path: str) -> tuple[str | int, ...]:
    """Names and positions on the way from the message. Raises ValueError."""
    found: list[str | int] = []
    at = 1
    while match := _STEP.match(path, at):
        position = match.group(2)
        found.append(int(position) if position else next(filter(None, match.groups())))
        at = match.end()
    if not path.startswith("$") or at != len(path):
        raise ValueError(f"""{path!r} is no path: write $.data[0].temp, or $["a name"] for a name with dots in it""")
    return tuple(found)


def find(message: Any, path: str) -> Any:
    """What stands there. Raises LookupError: the message has no such place."""
    here = message
    for step in steps(path):
        if type(here) is not (list if isinstance(step, int) else dict):
            raise KeyError(path)
        here = here[step]  # type: ignore[index]
    return here


def path_of(way: tuple[str | int, ...]) -> str:
    """The path with these steps."""

    def step(each: str | int) -> str:
        if isinstance(each, int):
            return f"[{each}]"
        return f".{each}" if re.fullmatch(r"""[^.\[\]"']+""", each) else f"""["{each}"]"""

    return "$" + "".join(map(step, way))


def number(value: Any) -> float:
    """A value as somebody wrote it: a number, a truth, a number in quotes; nan: there is none. Raises ValueError."""
    if value is None or (isinstance(value, str) and is_missing(value)):
        return math.nan
    if isinstance(value, bool | int | float | str):
        return float(value)
    raise ValueError(f"{str(value)[:40]!r} is no number")


def instant(value: Any, unit: TimeUnit | None) -> float:
    """Epoch seconds: of an ISO 8601 time (UTC where it has no zone), or of a number in `unit`; None: the one in which
    it is a time of our day. Raises ValueError."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return _finite(seconds(value))
    raw = number(value)
    return _finite(raw * EPOCH_UNITS[unit or epoch_unit(raw) or "s"])


def _finite(stamp: float) -> float:
    if not math.isfinite(stamp):
        raise ValueError("no time")
    return stamp
