"""The types that every message is made of. Each refuses what the system could not store, show or use as a path."""

from __future__ import annotations

import enum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints


def _printable(text: str) -> str:
    """PostgreSQL stores no NUL, and a terminal should not obey a note."""
    if any(ord(c) < 32 and c not in "\n\t" for c in text):
        raise ValueError("control characters are not allowed")
    return text


Text = Annotated[str, AfterValidator(_printable)]
DeviceId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{2,40}$")]
AssetId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,60}$")]
SignalName = Annotated[str, AfterValidator(_printable), StringConstraints(min_length=1, max_length=80)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Epoch = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]  # made with the outbox, never reused
Seq = Annotated[int, Field(ge=1, le=2**53)]
ModelVersion = Annotated[int, Field(ge=1, le=2**31 - 1)]
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,40}$")]
FeatureSet = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Score = Annotated[float, Field(ge=0, le=1)]  # 1 is most anomalous; not a number and infinity are refused
SeqRange = tuple[Seq, Seq]  # first and last, both included
TraceId = UUID  # version 7 form: for people and joins, never for order


class Stream(enum.StrEnum):
    """What travels up, each with its own sequence and its own room in the outbox."""

    ALARM = "alarm"
    ANNOTATION = "annotation"
    ATTACHMENT = "attachment"
    HEALTH = "health"
    TELEMETRY = "telemetry"
    RAW = "raw"


class TimeQuality(enum.StrEnum):
    """What the device knows of its own wall clock."""

    SYNCED = "synced"  # kept by time synchronisation
    UNSYNCED = "unsynced"
    JUMPED = "jumped"  # unsynced, and it was set within the last hour
    FLOOR = "floor"  # it stands before a time that is known to have passed: that time, carried on, is told instead
    UNKNOWN = "unknown"  # whether it is kept cannot be told


class Message(BaseModel):
    """Frozen; a newer sender's extra fields are ignored; NaN and infinity never pass."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class ModelRef(Message):
    """Which bundle: the hash is its identity, name and version are for people."""

    name: ModelName
    version: ModelVersion
    sha256: Sha256


class Protocol(Message):
    """An unknown major version is refused, an unknown field is not."""

    v: Literal[1] = 1  # raised only when old and new programs could not talk


class Body(Message):
    """What an Envelope carries."""

    trace_id: TraceId  # of the window this is about; of the message itself where there is none
    made_at: AwareDatetime  # the device's wall clock; its quality says what that is worth
    time_quality: TimeQuality = TimeQuality.UNKNOWN
