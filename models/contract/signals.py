"""Sensor channels and windows: what a number means before anything is computed from it."""

from __future__ import annotations

import enum
from typing import Annotated

from pydantic import Field

from models.contract.base import Message, SignalName, Text


class Quality(enum.IntEnum):
    """What a source says of one sample. The worse one wins where samples are joined."""

    GOOD = 0
    UNCERTAIN = 1  # the number is there, and its sender doubts it: scored, and flagged
    BAD = 2  # the number says nothing: it is nan from here on, and no window with it is scored


class Signal(Message):
    """One channel. Values outside [low, high] are not believable and count as a sensor fault."""

    name: SignalName
    unit: Annotated[Text, Field(max_length=20)] = "1"
    low: float | None = None
    high: float | None = None


class WindowSpec(Message):
    """A window is `n_samples` in a row at `rate_hz`; the next one starts `hop` samples later.

    "In a row" forgives up to `max_gap_samples` missing samples between two: a slow logger skips one now and then. More
    are a gap, which no window spans.
    """

    rate_hz: Annotated[float, Field(gt=0, le=1e6)]
    n_samples: Annotated[int, Field(ge=4, le=2**18)]
    hop: Annotated[int, Field(ge=1, le=2**18)]
    max_gap_samples: Annotated[int, Field(ge=0, le=1000)] = 3
