"""What is known of a recording beforehand, and what is read of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from models.contract.signals import Bearing, Signal

Floats = npt.NDArray[np.float64]


class BadRecording(ValueError):
    """This is not a recording that can be read; the text says where, and what to do.

    Attributes:
        line: of the text file, counted from 1; None if the trouble is with the file as a whole.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem if line is None else f"line {line}: {problem}")
        self.line = line


class RecordingOptions(BaseModel):
    """What is known of a file beforehand. Whatever is left out is found by looking.

    Columns go by the name in the header, with or without its unit, or c1, c2, ... where there is no header.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    delimiter: Literal[",", ";", "\t", "|"] | None = None
    decimal: Literal[".", ","] | None = None
    skip_lines: Annotated[int, Field(ge=0)] = 0  # before the header
    header: bool | None = None
    names: tuple[str, ...] = ()  # of all columns in order, instead of the header's
    time: str | None = None  # the time column
    time_format: str | None = None  # of strptime, for stamps that are not ISO 8601
    time_unit: Literal["s", "ms", "us", "ns"] | None = None  # of a numeric time column
    start_s: float = 0.0  # epoch seconds of the first row, if there is no time column
    rate_hz: Annotated[float, Field(gt=0)] | None = None
    signals: tuple[str, ...] = ()  # all numeric columns if empty
    exclude: tuple[str, ...] = ()
    label: str | None = None
    units: dict[str, str] = Field(default_factory=dict)
    # Of signals by name; what an archive says in a number of its own goes by that number's name.
    scale: dict[str, float | str] = Field(default_factory=dict)
    bearings: dict[str, Bearing] = Field(default_factory=dict)


@dataclass(frozen=True)
class Recording:
    """One source's samples. Times are as recorded: they may repeat, skip and run backwards."""

    signals: tuple[Signal, ...]
    times: Floats  # [n], epoch seconds; a stamp without a zone is taken as UTC; nan where empty
    values: npt.NDArray[np.float32]  # [n_signals, n], nan where empty
    label: npt.NDArray[np.int8] | None  # [n], -1 where empty
    rate_hz: float  # as given, or one over the median step
