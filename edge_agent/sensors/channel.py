"""Settings that sources share: what a signal is called, when it is news, how it goes onto the grid."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from edge_agent.settings import Settings
from models.contract.base import SignalName, Text
from models.contract.signals import Bearing, Signal
from models.grid import Line, Method

PERIODS = 3  # so many periods without a sample, and it is missing: one may be late, and one lost


class Report(Settings):
    """When a sample of a signal is news. Between, the last one holds; what is held back is never missing.

    receive: every one is. change: it is further than `dead_band` from the last news. period: `period_s` has passed.
    change_or_period: either.
    """

    on: Literal["receive", "change", "period", "change_or_period"] = "receive"
    dead_band: Annotated[float, Field(ge=0)] = 0.0  # in the signal's unit
    period_s: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _period_where_needed(self) -> Self:
        if ("period" in self.on) != (self.period_s is not None):
            raise ValueError('period_s goes with on = "period" and on = "change_or_period"')
        return self

    @property
    def filters(self) -> bool:
        return self.on != "receive"


class Channel(Settings):
    """One signal, as every source describes it. Values outside [low, high] count as a sensor fault."""

    name: SignalName
    unit: Annotated[Text, Field(max_length=20)] = "1"
    low: float | None = None
    high: float | None = None
    bearing: Bearing | None = None
    report: Report = Report()
    method: Method = Method.HOLD
    valid_s: Annotated[float, Field(gt=0)] | None = None  # without a new sample for longer, it is missing

    @model_validator(mode="before")
    @classmethod
    def _of_a_signal(cls, value: Any) -> Any:
        return value.model_dump() if isinstance(value, Signal) else value

    @property
    def signal(self) -> Signal:
        return Signal(name=self.name, unit=self.unit, low=self.low, high=self.high, bearing=self.bearing)

    def line(self, period_s: float) -> Line:
        """How it goes onto the grid where a sample is expected every `period_s`."""
        if self.valid_s is not None:
            return Line(self.method, self.valid_s)
        if self.report.on == "change":
            return Line(self.method, math.inf)
        return Line(self.method, PERIODS * max(period_s, self.report.period_s or 0.0))


class Resample(Settings):
    """Samples of a source onto one grid of instants. `period_s`: how far apart two samples are at most, usually."""

    rate_hz: Annotated[float, Field(gt=0)]
    method: Method = Method.HOLD
    period_s: Annotated[float, Field(gt=0)] | None = None  # None: the source's own, or the grid's step
