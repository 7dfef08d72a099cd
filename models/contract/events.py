"""What a device found: an alarm with its reasons, and a sensor that tells nothing true."""

from __future__ import annotations

import enum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from models.contract.alarms import Family
from models.contract.base import (
    AssetId,
    FeatureSet,
    Message,
    ModelRef,
    Score,
    SignalName,
    Text,
)
from models.contract.base import (
    Body as Body,
)
from models.contract.labels import Severity
from models.contract.people import Annotation as Annotation
from models.contract.people import Attachment as Attachment
from models.contract.release import Step as Step
from models.contract.release import TrialLimits as TrialLimits
from models.contract.release import TrialReport as TrialReport


class Phase(enum.StrEnum):
    """An alarm episode's life: raised once, updated now and then, cleared once."""

    RAISED = "raised"
    UPDATED = "updated"
    CLEARED = "cleared"


class Driver(Message):
    """One feature that drove an alarm: its value, what is usual there, and how far off it is in usual spreads."""

    feature: Text
    value: float
    usual: float
    deviation: float


class Plot(Message):
    """One channel of the window that alarmed, and of an earlier one that did not, thinned for the eye: each pair of
    points is the smallest and the largest of its stretch."""

    signal: SignalName
    unit: Text = ""
    seconds: Annotated[float, Field(gt=0)]  # of one window
    values: Annotated[tuple[float, ...], Field(max_length=120)]
    normal: Annotated[tuple[float, ...], Field(max_length=120)] = ()


class RemainingLife(Message):
    """What is left of an asset's life, as the model that runs told it last. With probability `coverage` the truth, as
    far as it is below `cap`, lies between low and high."""

    unit: Annotated[Text, Field(max_length=20)]
    estimate: Annotated[float, Field(ge=0)]  # at the cap: at least so long
    low: Annotated[float, Field(ge=0)]
    high: Annotated[float, Field(ge=0)] | None = None  # None: beyond the cap, and nobody knows how far
    cap: float
    coverage: float
    at: AwareDatetime  # the end of the last window it is of
    steps: Annotated[int, Field(ge=0)] = 0  # that it was told from, since the life began


class FaultOfSensor(enum.StrEnum):
    NOT_A_NUMBER = "not_a_number"
    STUCK = "stuck"
    OUT_OF_RANGE = "out_of_range"
    GAP = "gap"
    SILENT = "silent"
    BAD_QUALITY = "bad_quality"  # its source says so
    SATURATED = "saturated"
    OFFSET = "offset"
    NOISE = "noise"
    UNIT = "unit"  # the values are in another unit than they are said to be
    DROPOUTS = "dropouts"
    SWAPPED = "swapped"  # with another signal
    SAMPLE_RATE = "sample_rate"  # samples come faster or slower than the settings say


class IllSensor(Message):
    """What is wrong with one channel: its values say nothing of the machine."""

    signal: SignalName
    fault: FaultOfSensor
    since: AwareDatetime
    value: float | None = None  # a level; of noise an unrest, of clipping and dropouts a share of samples
    usual: float | None = None  # the same as it was
    unit: Text = "1"
    looks_like: Annotated[Text, Field(max_length=80)] = ""  # the unit that the values seem to be in; the other signal


class AlarmEvent(Body):
    """One phase of an alarm episode on an asset. Stream alarm."""

    kind: Literal["alarm"] = "alarm"
    event_id: UUID  # one for the whole episode, made once, on the edge
    phase: Phase
    asset: AssetId
    window_start: AwareDatetime
    window_end: AwareDatetime
    opened_at: AwareDatetime  # start of the first window of the episode
    score: Score
    threshold: Score
    fault_class: Annotated[Text, Field(max_length=40)] | None = None
    probabilities: dict[Text, Score] = Field(default_factory=dict)
    model: ModelRef
    feature_set: FeatureSet
    features: dict[Text, float]
    drivers: tuple[Driver, ...] = ()
    trial: bool = False  # the model that says so is not verified yet on this device
    recorded: bool | None = None  # True: of a recording, with its times; None: an agent that does not say
    plot: Plot | None = None
    mode: Annotated[Text, Field(max_length=40)] = ""  # of the machine; empty: its settings tell of none
    life: RemainingLife | None = None  # where the model tells of it
    family: Family = ""  # of faults: at most one episode of it is open on an asset; empty: an older agent
    severity: Severity | None = None  # the highest of the episode so far; models.alarms has the rule
    repeats: Annotated[int, Field(ge=1)] = 1  # how many times it was raised: again within the hold time is the same one
    muted: bool = False  # raised in a maintenance window: nobody was told, and it does not train
    cleared_by: Literal["", "signal", "verdict", "source"] = ""  # what ended it: false alarm; recording at its end
    sensors: tuple[IllSensor, ...] = ()  # of the family "sensor": what is wrong; else: these were left out of the score


class SensorFault(Body):
    """A window that could not be scored, or a source that fell silent: somebody must hear of it. Stream alarm."""

    kind: Literal["sensor_fault"] = "sensor_fault"
    asset: AssetId
    signal: SignalName | None = None  # None: the whole source
    fault: FaultOfSensor
    since: AwareDatetime
    detail: Annotated[Text, Field(max_length=500)] = ""
