"""Sensor channels and windows: what a number means before anything is computed from it."""

from __future__ import annotations

import enum
import math
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from models.contract.base import Message, SignalName, Text


class Quality(enum.IntEnum):
    """What a source says of one sample. The worse one wins where samples are joined."""

    GOOD = 0
    UNCERTAIN = 1  # the number is there, and its sender doubts it: scored, and flagged
    BAD = 2  # the number says nothing: it is nan from here on, and no window with it is scored


class Bearing(Message):
    """A rolling bearing that a vibration channel hears: how often a defect on each part is struck, in multiples of the
    shaft's rate (the maker's table has them), and how fast the shaft turns.

    From geometry instead: `n_balls`, `ball_diameter` and `pitch_diameter` in one unit, `contact_deg`; the inner race
    turns. Formulas: Randall and Antoni, Rolling element bearing diagnostics - a tutorial, MSSP 25 (2011) 485, 1 to 4.
    """

    outer: Annotated[float, Field(gt=0)]  # BPFO, ball pass frequency of the outer race
    inner: Annotated[float, Field(gt=0)]  # BPFI, of the inner race
    ball: Annotated[float, Field(gt=0)]  # BSF, spin of a rolling element; a defect on it strikes twice a turn
    cage: Annotated[float, Field(gt=0)]  # FTF, fundamental train frequency
    shaft_hz: Annotated[float, Field(gt=0)] | None = None  # where the speed is always the same
    speed: SignalName | None = None  # or the channel that gives it, in rpm

    @model_validator(mode="before")
    @classmethod
    def _of_geometry(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "n_balls" not in given:
            return given
        try:
            n, ratio = int(given["n_balls"]), given["ball_diameter"] / given["pitch_diameter"]
            tilt = math.cos(math.radians(given.get("contact_deg", 0.0)))
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as exc:
            raise ValueError("geometry needs n_balls, ball_diameter and pitch_diameter") from exc
        near = ratio * tilt
        orders = {
            "outer": n / 2 * (1 - near),
            "inner": n / 2 * (1 + near),
            "ball": (1 - near**2) / (2 * ratio) if ratio else 0.0,
            "cage": (1 - near) / 2,
        }
        return orders | {name: value for name, value in given.items() if name in cls.model_fields}

    @model_validator(mode="after")
    def _turns(self) -> Self:
        if (self.shaft_hz is None) == (self.speed is None):
            raise ValueError("how fast does the shaft turn? Give either shaft_hz, or speed, the channel with the rpm")
        return self


class Signal(Message):
    """One channel. Values outside [low, high] are not believable and count as a sensor fault."""

    name: SignalName
    unit: Annotated[Text, Field(max_length=20)] = "1"
    low: float | None = None
    high: float | None = None
    bearing: Bearing | None = None  # of a vibration channel: features at its fault frequencies are computed too


class WindowSpec(Message):
    """A window is `n_samples` in a row at `rate_hz`; the next one starts `hop` samples later.

    "In a row" forgives up to `max_gap_samples` missing samples between two: a slow logger skips one now and then. More
    are a gap, which no window spans.
    """

    rate_hz: Annotated[float, Field(gt=0, le=1e6)]
    n_samples: Annotated[int, Field(ge=4, le=2**18)]
    hop: Annotated[int, Field(ge=1, le=2**18)]
    max_gap_samples: Annotated[int, Field(ge=0, le=1000)] = 3
