"""How a device is: its heartbeat, and what is in it."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from models.contract.alarms import Criticality
from models.contract.base import (
    AssetId,
    Epoch,
    Message,
    ModelRef,
    Score,
    SeqRange,
    Sha256,
    Stream,
    Text,
)
from models.contract.base import (
    Body as Body,
)
from models.contract.events import IllSensor, RemainingLife
from models.contract.people import Annotation as Annotation
from models.contract.people import Attachment as Attachment
from models.contract.release import Capabilities
from models.contract.release import Step as Step
from models.contract.release import TrialLimits as TrialLimits
from models.contract.release import TrialReport as TrialReport
from models.contract.signals import Signal, WindowSpec


class StreamCount(Message):
    """The outbox of one stream, counted in one transaction: produced = gone + waiting + evicted."""

    produced: Annotated[int, Field(ge=0)] = 0  # the highest seq given out in this epoch
    waiting: tuple[SeqRange, ...] = ()
    evicted: dict[Text, tuple[SeqRange, ...]] = Field(default_factory=dict)  # by cause
    waiting_bytes: Annotated[int, Field(ge=0)] = 0


class StorageHealth(Message):
    """The disk under the outbox. short: it is full, the lowest class gives way; unusable: nothing can be written."""

    state: Literal["ok", "short", "unusable"] = "ok"
    reason: Annotated[Text, Field(max_length=300)] = ""
    free_bytes: Annotated[int, Field(ge=0)] = 0
    used_bytes: Annotated[int, Field(ge=0)] = 0  # by the outbox, with its log
    buffered: Annotated[int, Field(ge=0)] = 0  # records in memory only


class AssetHealth(Message):
    """How one asset's source is doing."""

    windows: Annotated[int, Field(ge=0)] = 0
    dropped: dict[Text, int] = Field(default_factory=dict)  # samples or windows not scored, by cause
    flagged: dict[Text, int] = Field(default_factory=dict)  # windows scored and not to be trusted, by Flag
    sensors: tuple[IllSensor, ...] = ()  # with a fault now
    last_sample_at: AwareDatetime | None = None
    state: Literal["waiting", "learning", "scoring", "silent", "ended"] = "waiting"
    mode: Annotated[Text, Field(max_length=40)] = ""  # what the machine is doing
    score: Score | None = None
    life: RemainingLife | None = None
    alarm: bool = False
    kind: Text = "machine"
    hall: Annotated[Text, Field(max_length=40)] = ""
    code: Annotated[Text, Field(max_length=12)] = ""  # on the machine's plate, for typing; empty: made from its id
    criticality: Criticality = "normal"
    maintenance_since: AwareDatetime | None = None  # alarms are muted
    maintenance_id: UUID | None = None
    suppressed: Annotated[int, Field(ge=0)] = 0  # windows that did not alarm because somebody said it is a false alarm
    window: WindowSpec | None = None  # how its windows are cut, and of which channels: a trained model must fit both
    signals: tuple[Signal, ...] = ()


class ClockReport(Message):
    """The wall clock against the monotonic one, since the agent's start."""

    offset_s: float = 0.0  # what the wall gained, jumps included
    drift_ppm: float = 0.0  # microseconds that it gains a second, without jumps
    jumps_forward: Annotated[int, Field(ge=0)] = 0
    jumps_back: Annotated[int, Field(ge=0)] = 0
    floor: AwareDatetime  # it is at least so late


class Heartbeat(Body):
    """The device says how it is. Stream health."""

    kind: Literal["heartbeat"] = "heartbeat"
    agent_version: Annotated[Text, Field(max_length=40)]
    boot: Epoch  # made at each start of the agent
    uptime_s: Annotated[float, Field(ge=0)]
    every_s: Annotated[float, Field(gt=0)] | None = None  # until the next one
    running: ModelRef
    step: Step
    assignment: Annotated[int, Field(ge=0)] = 0  # the sequence of the last assignment taken
    outbox: dict[Stream, StreamCount]
    ended: dict[Epoch, dict[Stream, StreamCount]] = Field(default_factory=dict)  # outboxes before this one
    storage: StorageHealth | None = None
    assets: dict[AssetId, AssetHealth] = Field(default_factory=dict)
    latency_us_p50: float | None = None
    latency_us_p99: float | None = None
    rss_bytes: int | None = None
    clock: ClockReport | None = None
    counters: dict[Text, int] = Field(default_factory=dict)  # refused receipts, unreadable offers, sensor restarts, ...
    capabilities: Capabilities | None = None
    floor: Annotated[int, Field(ge=0)] = 0  # no version below is taken
    denied: tuple[Sha256, ...] = ()  # were sent away here
    switch_problem: Annotated[Text, Field(max_length=500)] = ""  # what keeps models from being changed as they should
