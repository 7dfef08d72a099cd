"""What people say and send, with a finger or by what they do."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, Base64Bytes, Field

from models.contract.base import AssetId, Body, Message, Score, Sha256, Text
from models.contract.labels import LABELS_VERSION, FaultKind, Provenance, Severity, Verdict

MediaType = Literal["image/jpeg", "image/png", "audio/webm", "audio/ogg", "audio/wav", "audio/mp4"]
ATTACHMENT_BYTES: Final = 8 * 2**20
PIECE_BYTES: Final = 64 * 1024  # of an attachment in one message
AttachmentSize = Annotated[int, Field(ge=1, le=ATTACHMENT_BYTES)]


class Attachment(Message):
    """A photo or sound, by the hash of its bytes, which travel apart."""

    sha256: Sha256
    media_type: MediaType
    size: AttachmentSize


class Annotation(Body):
    """What one person said about an event or a stretch of time. Stream annotation; also the body of the forms."""

    kind: Literal["annotation"] = "annotation"
    annotation_id: UUID  # made where it was written: the same id again is the same annotation
    asset: AssetId
    event_id: UUID | None = None
    start: AwareDatetime
    end: AwareDatetime
    verdict: Verdict
    fault: FaultKind | None = None  # with verdict "fault" only
    severity: Severity | None = None
    note: Annotated[Text, Field(max_length=2000)] = ""
    annotator: Annotated[Text, Field(min_length=1, max_length=80)]
    provenance: Provenance = Provenance.EXPLICIT
    labels_version: int = LABELS_VERSION
    supersedes: UUID | None = None
    answers: UUID | None = None  # the question this is the answer to
    learn: bool = True  # False: kept and counted, never in a dataset
    part_replaced: Annotated[Text, Field(max_length=80)] = ""
    attachments: Annotated[tuple[Attachment, ...], Field(max_length=4)] = ()
    interval_confidence: Score | None = None  # 1: saw it begin and end; 0.5: about then; 0: a guess
    policy: Annotated[Text, Field(max_length=40)] = ""  # version of what the person was told of the use of their word
    sent_at: AwareDatetime | None = None  # the phone's clock when it sent this, made_at being its clock at writing
    taken_at: AwareDatetime | None = None  # the clock of the agent that took it
    sent_by: Annotated[Text, Field(max_length=80)] = ""  # who was signed in then; the annotator may be a colleague

    def digest(self) -> str:
        """Of what was said, not of when it was sent: the same id with another digest is a conflict, not a resend."""
        words = self.model_dump(mode="json", include=_WORDS)
        # Only where they say something, so that what was taken before they existed keeps its digest.
        words |= self.model_dump(mode="json", include=_NEWER_WORDS, exclude_defaults=True)
        for name in ("start", "end"):
            words[name] = getattr(self, name).timestamp()  # the same instant in another time zone is no other word
        return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


_WORDS: Final = {
    *("asset", "event_id", "start", "end", "verdict", "fault", "severity", "note"),
    *("annotator", "provenance", "supersedes"),
}
_NEWER_WORDS: Final = {"learn", "part_replaced", "attachments", "interval_confidence"}


class AttachmentPiece(Body):
    """A stretch of an attachment's bytes. Stream attachment; the server puts them together and checks the hash."""

    kind: Literal["attachment_piece"] = "attachment_piece"
    sha256: Sha256  # of the whole
    media_type: MediaType
    size: AttachmentSize  # of the whole
    offset: Annotated[int, Field(ge=0, lt=ATTACHMENT_BYTES)]
    data: Annotated[Base64Bytes, Field(min_length=1)]


class Question(Message):
    """Please look at this. Few, capped by person and day; its id follows from what it is about, so it is asked once."""

    question_id: UUID
    kind: Literal["second_opinion", "uncertain", "thin_group", "disagreement", "random"]
    asset: AssetId
    event_id: UUID | None = None
    start: AwareDatetime
    end: AwareDatetime
    blind: bool = False  # nothing of the model's class and of other people's words is shown with it
    expires_at: AwareDatetime


class Verdicted(Message):
    """What the server made of an annotation: its status, and the newest model that learned from it."""

    annotation_id: UUID
    status: Literal["new", "accepted", "held", "rejected"]
    reason: Annotated[Text, Field(max_length=500)] = ""
    model: Annotated[Text, Field(max_length=40)] = ""
    version: int = 0
    released: bool = False  # it runs somewhere, or did


Signal = Literal[
    "dismissed",
    "acknowledged",
    "maintenance_started",
    "maintenance_ended",
    "part_used",
    "work_order_opened",
    "work_order_closed",
    "question_declined",
    "satisfaction",
    "repair_helped",
    "repair_did_not_help",
]


class Feedback(Body):
    """What somebody did, or thinks of the system: stored with its provenance, never a label by itself. Stream
    annotation."""

    kind: Literal["feedback"] = "feedback"
    feedback_id: UUID  # made where it happened: the same again is the same
    signal: Signal
    asset: AssetId | None = None
    event_id: UUID | None = None
    person: Annotated[Text, Field(max_length=80)] = ""
    value: float | None = None  # satisfaction: 1 to 5; acknowledged: seconds since the alarm
    detail: Annotated[Text, Field(max_length=500)] = ""
    about: UUID | None = None  # the question, the maintenance
    provenance: Provenance = Provenance.IMPLICIT
