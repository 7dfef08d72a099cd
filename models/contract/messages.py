"""Every MQTT payload as a frozen class, told apart by `kind`. Both programs import these, so they cannot disagree.

Up, through the outbox: an Envelope with one of BODIES inside. Up, not kept: Fetch, Session. Down: ReceiptNote, Offer,
Chunk, and the CommandNote of `commands`.
Devices stay old for months: fields are added with a default, never renamed or reused.
"""

from __future__ import annotations

import base64
import enum
from typing import Annotated, Any, Literal, Union
from uuid import UUID

from pydantic import AwareDatetime, Base64Bytes, Field

from models.contract.alarms import AlarmAction, Maintenance, Suppression
from models.contract.base import (
    AssetId,
    DeviceId,
    Epoch,
    FeatureSet,
    Message,
    ModelRef,
    Protocol,
    Score,
    Seq,
    SeqRange,
    Sha256,
    Stream,
    Text,
)
from models.contract.base import (
    Body as Body,
)
from models.contract.events import AlarmEvent, SensorFault
from models.contract.health import Heartbeat
from models.contract.people import Annotation as Annotation
from models.contract.people import Attachment as Attachment
from models.contract.people import AttachmentPiece, Feedback
from models.contract.release import Evidence, PairedScores, ShadowLimits
from models.contract.release import Step as Step
from models.contract.release import TrialLimits as TrialLimits
from models.contract.release import TrialReport as TrialReport


class Envelope(Protocol):
    """Identity and order of one record: (device, epoch, stream, seq). The body is read apart, so that a body this
    server cannot read still has an identity, is put aside once, and is not sent for ever."""

    device: DeviceId
    epoch: Epoch
    stream: Stream
    seq: Seq
    body: dict[str, Any]


class Flag(enum.IntFlag):
    """Why a scored window is not to be trusted as others are: it does not train."""

    UNCERTAIN = 1  # the source doubts a sample of it
    CLOCK = 2  # its time cannot be right
    SENSOR = 4  # scored without a channel whose sensor is ill


class RolloutStatus(Body):
    """One step of STEPS was taken. Stream health."""

    kind: Literal["rollout_status"] = "rollout_status"
    assignment: Annotated[int, Field(ge=0)]  # its sequence
    rollout: Text | None = None
    release: ModelRef
    step: Step
    reason: Annotated[Text, Field(max_length=500)] = ""
    running: ModelRef
    report: TrialReport | None = None
    evidence: Evidence | None = None


class DeviceFault(Body):
    """Something is wrong with the device's own way to the server. Once when it began, once when it ended. Stream
    alarm."""

    kind: Literal["device_fault"] = "device_fault"
    fault: Literal["never_stored"]  # the broker takes records, and the server never has them
    cleared: bool = False
    detail: Annotated[Text, Field(max_length=500)] = ""


class Outcome(enum.StrEnum):
    """What came of a command."""

    DONE = "done"
    FAILED = "failed"  # tried; the reason says what went wrong
    REFUSED = "refused"  # unknown to this device, or a rule forbids it
    EXPIRED = "expired"  # it came after its deadline
    SUPERSEDED = "superseded"  # a newer one about the same state was there before


class CommandResult(Body):
    """What a device did about a command. Stream health."""

    kind: Literal["command_result"] = "command_result"
    command_id: UUID
    command: Annotated[Text, Field(max_length=80)]  # its kind
    outcome: Outcome
    reason: Annotated[Text, Field(max_length=500)] = ""


class Column(Message):
    """n numbers of one type, little-endian, as base64: an array in a message that people can still read."""

    dtype: Literal["f4", "f8", "i8", "u1", "uuid"]
    data: str  # base64

    @classmethod
    def of(cls, dtype: Literal["f4", "f8", "i8", "u1", "uuid"], raw: bytes) -> Column:
        return cls(dtype=dtype, data=base64.b64encode(raw).decode())

    def raw(self) -> bytes:
        return base64.b64decode(self.data, validate=True)


class ScoredWindows(Body):
    """The prediction log: every scored window of one asset and one model, packed in columns. Stream telemetry."""

    kind: Literal["scored_windows"] = "scored_windows"
    asset: AssetId
    model: ModelRef
    n: Annotated[int, Field(ge=1, le=4096)]
    trace: Column  # uuid
    start_us: Column  # i8, microseconds since 1970, UTC
    end_us: Column  # i8
    score: Column  # f4
    alarm: Column  # u1, 1: at or over the threshold
    fault_class: Column  # u1, index into classes, 255: none
    latency_us: Column  # f4, window complete to decision
    classes: tuple[Text, ...] = ()
    flags: Column | None = None  # u1, of Flag; None: none is set
    mode: Column | None = None  # u1, index into modes; None: an asset without modes
    modes: tuple[Annotated[Text, Field(max_length=40)], ...] = ()


class SampledWindow(Body):
    """The features of one window sent without an alarm, so that training sees more than alarms. Stream telemetry.

    `probability` is the chance with which such a window was picked: its inverse is its weight.
    """

    kind: Literal["sampled_window"] = "sampled_window"
    asset: AssetId
    window_start: AwareDatetime
    window_end: AwareDatetime
    reason: Literal["reference", "hard"]  # reference: at random; hard: the score was close to the threshold
    suppressed_by: UUID | None = None  # a hard one: it would have alarmed, but for this suppression
    muted: bool = False  # in a maintenance window
    probability: Annotated[float, Field(gt=0, le=1)]
    score: Score
    model: ModelRef
    feature_set: FeatureSet
    mode: Annotated[Text, Field(max_length=40)] = ""
    features: dict[Text, float]
    recorded: bool | None = None


class ShadowReport(Body):
    """A challenger in shadow beside the model that runs, on one asset, since the report before. Stream telemetry.

    The windows scored were picked by the clock alone, never by what was in them.
    """

    kind: Literal["shadow_report"] = "shadow_report"
    assignment: Annotated[int, Field(ge=1)]  # its sequence
    rollout: Text | None = None
    asset: AssetId
    champion: ModelRef
    challenger: ModelRef
    windows: Annotated[int, Field(ge=0)]  # that the champion scored
    scores: PairedScores
    cpu_s: Annotated[float, Field(ge=0)]  # spent on the challenger, of this asset
    wall_s: Annotated[float, Field(ge=0)]
    cpu_share_cap: float


class Fetch(Protocol):
    """The device asks for pieces of a bundle. Not kept: it asks again."""

    kind: Literal["fetch"] = "fetch"
    device: DeviceId
    sha256: Sha256
    indexes: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=64)]


class Pack(Protocol):
    """Several records of one stream in one message, compressed; sent only to a server whose receipts say `packs`."""

    kind: Literal["pack"] = "pack"
    device: DeviceId
    epoch: Epoch
    stream: Stream
    records: Annotated[tuple[tuple[Seq, dict[str, Any]], ...], Field(min_length=1, max_length=1000)]


class Session(Protocol):
    """The device's connection began or ended. Not kept: whatever else comes from a device is newer truth. The broker
    sends the end for one that is cut off, as the connection's will."""

    kind: Literal["session"] = "session"
    device: DeviceId
    state: Literal["birth", "death"]
    reason: Annotated[Text, Field(max_length=80)] = ""


class Signed(Message):
    """A DSSE envelope (github.com/secure-systems-lab/dsse) as it travels: payload and signatures in base64."""

    payload: str
    payloadType: Text  # noqa: N815 - the standard's name
    signatures: tuple[dict[str, str], ...]


class ReceiptNote(Protocol):
    """Down: a signed Receipt."""

    kind: Literal["receipt"] = "receipt"
    receipt: Signed


class Offer(Protocol):
    """Down, retained: a signed Assignment and the signed Approval of the release it names."""

    kind: Literal["offer"] = "offer"
    assignment: Signed
    approval: Signed


class Chunk(Protocol):
    """Down: one piece of a bundle's bytes."""

    kind: Literal["chunk"] = "chunk"
    sha256: Sha256
    index: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=1, le=4096)]
    data: Base64Bytes


Heartbeat.model_rebuild()
BODIES = (
    AlarmEvent,
    SensorFault,
    DeviceFault,
    Annotation,
    AttachmentPiece,
    Feedback,
    AlarmAction,
    Maintenance,
    Suppression,
    Heartbeat,
    RolloutStatus,
    CommandResult,
    ScoredWindows,
    SampledWindow,
    ShadowReport,
)
AnyBody: Any = Annotated[
    Union[BODIES],  # noqa: UP007 - made of the tuple
    Field(discriminator="kind"),
]
STREAM_OF: dict[type[Body], Stream] = {
    AlarmEvent: Stream.ALARM,
    SensorFault: Stream.ALARM,
    DeviceFault: Stream.ALARM,
    Annotation: Stream.ANNOTATION,
    AttachmentPiece: Stream.ATTACHMENT,
    Feedback: Stream.ANNOTATION,
    AlarmAction: Stream.ANNOTATION,  # what people do is never evicted, as what they say
    Maintenance: Stream.ANNOTATION,
    Suppression: Stream.HEALTH,
    Heartbeat: Stream.HEALTH,
    RolloutStatus: Stream.HEALTH,
    CommandResult: Stream.HEALTH,
    ScoredWindows: Stream.TELEMETRY,
    SampledWindow: Stream.TELEMETRY,
    ShadowReport: Stream.TELEMETRY,
}


class Receipt(Message):
    """Signed by the server after its database commit: these records are stored, or put aside with a reason."""

    device: DeviceId
    epoch: Epoch
    stream: Stream
    up_to: Annotated[int, Field(ge=0)]  # everything from 1 to here
    ranges: tuple[SeqRange, ...] = ()  # and these
    packs: bool = False  # this server reads compressed messages, and several records in one


class Approval(Message):
    """ "This bundle is good." Signed with a key that the fleet server does not hold."""

    model: ModelRef
    size: Annotated[int, Field(ge=1)]
    feature_set: FeatureSet
    approved_by: Annotated[Text, Field(min_length=1, max_length=80)]
    approved_at: AwareDatetime
    reason: Annotated[Text, Field(max_length=500)] = ""


class Assignment(Message):
    """ "This device, this release, this mode." Signed by the server's online key."""

    device: DeviceId
    sequence: Annotated[int, Field(ge=1)]  # a device takes only a higher one than it has seen
    rollout: Text | None = None
    mode: Literal["trial", "rollback", "shadow"]
    model: ModelRef
    size: Annotated[int, Field(ge=1)]
    chunk_bytes: Annotated[int, Field(ge=1024, le=131072)] = 65536
    floor: Annotated[int, Field(ge=1)] = 1  # no version below, ever again
    barred: tuple[Sha256, ...] = ()  # never to run
    trial: TrialLimits = TrialLimits()
    shadow: ShadowLimits = ShadowLimits()
    fetch_seconds: Annotated[float, Field(gt=0)] = 7 * 86400.0  # of the agent running: what does not come is given up
    issued_at: AwareDatetime
