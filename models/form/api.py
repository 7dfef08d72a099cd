"""What agent and fleet server both say to a technician's phone, as classes, so that they cannot say it differently.

docs/form-api.md describes the routes. Answers are JSON of these; unknown fields are to be ignored by the phone.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal, get_args
from uuid import NAMESPACE_OID, UUID, uuid5

from pydantic import AwareDatetime, Field

from models.contract.base import AssetId, Message, Score, Sha256, Text
from models.contract.events import Driver, Plot
from models.contract.labels import LABELS_VERSION, FaultKind, Severity, Taxonomy, Verdict
from models.contract.people import ATTACHMENT_BYTES, MediaType, Question

BOOTSTRAP_BYTES: Final = 96 * 1024  # of JSON; what does not fit is left out, plots first, and counted
HEADER: Final = "X-PDM-Form"  # on everything that changes something: no other site's page can send it
PIECE_BYTES: Final = 128 * 1024
UPLOAD_STATUS: Final = {
    "offset": 409,
    "too_large": 413,
    "wrong_type": 415,
    "wrong_hash": 422,
    "carries_more": 422,
    "no_room": 507,
}
POLICY: Final = "1"  # version of the text below

Where = Literal["kept", "stored"]
Role = Literal["technician", "reviewer", "operator"]  # each may what those before it may


class Taken(Message):
    """The answer to a PUT of an annotation. Names its id: a Wi-Fi login page does not."""

    annotation_id: UUID
    taken: Literal["new", "before"]
    state: Where  # kept: on the agent's disk; stored: in the fleet's database
    status: Text = ""  # of the server: accepted, held, rejected; empty: it has not judged yet
    reason: Text = ""


class Reason(Message):
    """One thing that is wrong with what was sent."""

    field: str
    reason: str


class Person(Message):
    """Who is signed in. `person` goes into an annotation's `annotator`."""

    person: Text
    name: Text
    role: Role = "technician"
    expires_at: AwareDatetime | None = None
    pin: bool = False  # one is set: the form asks for it before it opens
    locked: bool = False  # the right PIN comes first


class AssetView(Message):
    """A machine in the list."""

    id: AssetId
    kind: Text
    hall: Text
    code: Text
    device: Text
    state: Text  # waiting, learning, scoring, silent, ended; unknown: the device has not said
    alarm: bool
    score: Score | None = None
    last_sample_at: AwareDatetime | None = None
    maintenance_since: AwareDatetime | None = None
    maintenance_id: UUID | None = None


class AlarmView(Message):
    """An alarm, and why. Of a blind one: no class of the model's, nothing of what others said."""

    event_id: UUID
    trace_id: UUID
    asset: AssetId
    device: Text
    open: bool
    opened_at: AwareDatetime
    end: AwareDatetime  # as far as it is known to have gone on
    score: Score
    threshold: Score
    looks_like: Text | None = None  # the model's class, a fault's code where it is one
    why: tuple[str, ...] = ()  # sentences in the language that was asked for
    drivers: tuple[Driver, ...] = ()
    plot: Plot | None = None
    blind: bool = False
    answered: bool = False  # by the person who is signed in; without sign-in, by anybody
    acknowledged_by: Text | None = None
    assigned_to: Text | None = None
    snoozed_until: AwareDatetime | None = None
    suppressed: bool = False
    comments: int = 0
    severity: Severity | None = None
    repeats: int = 1  # times that it was raised
    muted: bool = False  # in a maintenance window
    level: int = 0  # of escalation


class QuestionView(Question):
    """A question in words."""

    text: Text


class ModelView(Message):
    """A model that learned from an annotation."""

    name: Text
    version: int
    released: bool  # it runs somewhere, or did


class OutcomeView(Message):
    """What became of one annotation. `outcome` is the furthest that it has come."""

    annotation_id: UUID
    asset: AssetId
    event_id: UUID | None = None
    verdict: Verdict
    fault: FaultKind | None = None
    made_at: AwareDatetime
    state: Where
    outcome: Literal["waiting", "accepted", "held", "refused", "kept_out", "learned"]
    reason: Text = ""
    suppressed: bool = False  # the alarm was put to rest by it, on the device
    model: ModelView | None = None
    text: Text = ""  # all of it, in words of the language that was asked for


class History(Message):
    """One's own annotations, the newest first."""

    outcomes: tuple[OutcomeView, ...]
    more: bool


class Satisfaction(Message):
    """One question now and then; null in the bootstrap: not today."""

    ask_id: UUID
    text: Text  # to be answered with 1 (no) to 5 (yes)


class Upload(Message):
    """How far an attachment has come."""

    sha256: Sha256
    size: int
    offset: int  # where the next piece begins
    state: Literal["partial", "kept", "stored"]


class Limits(Message):
    """What is taken."""

    note: int = 2000  # characters
    piece_bytes: int = PIECE_BYTES
    attachment_bytes: int = ATTACHMENT_BYTES
    attachments: int = 4
    media_types: tuple[str, ...] = get_args(MediaType)


class Policy(Message):
    """What the person is told of the use of their word; the version goes into each annotation's `policy`."""

    version: Text
    text: Text


class Declined(Message):
    """Sent: a question that this person can not answer."""

    cannot: Annotated[Text, Field(max_length=500)] = ""


class Score5(Message):
    """Sent: 1 (no) to 5 (yes); null: not now."""

    score: Annotated[int, Field(ge=1, le=5)] | None = None
    at: AwareDatetime | None = None


class LeftOut(Message):
    """What did not fit."""

    plots: int = 0
    alarms: int = 0
    assets: int = 0


class Bootstrap(Message):
    """Everything the form needs to work without a network until the next one."""

    v: Literal[1] = 1
    host: Literal["agent", "server"]
    name: Text
    now: AwareDatetime
    sign_in: Literal["none", "enrolled"]
    me: Person | None = None
    labels_version: int = LABELS_VERSION
    taxonomy: Taxonomy | None = None  # null: the phone has this version already
    assets: tuple[AssetView, ...] = ()
    alarms: tuple[AlarmView, ...] = ()
    questions: tuple[QuestionView, ...] = ()
    outcomes: tuple[OutcomeView, ...] = ()
    satisfaction: Satisfaction | None = None
    limits: Limits = Limits()
    policy: Policy | None = None
    left_out: LeftOut = LeftOut()


ASKED_A_DAY: Final = 5  # questions, to one person
TIRED: Final = 20  # annotations that a person has made in a day: enough asked of them
SATISFACTION_AFTER: Final = 3  # annotations in a month: before that there is nothing to be satisfied with


def ask_id(host: str, person: str, at: datetime) -> UUID:
    """Of this month's question about satisfaction: one a person and month."""
    return uuid5(NAMESPACE_OID, f"satisfaction {host} {person} {at:%Y-%m}")


def asked_lately(host: str, person: str, now: datetime) -> set[UUID]:
    """This month's, and last month's: a phone may have been offline since."""
    return {ask_id(host, person, now), ask_id(host, person, now.replace(day=1) - timedelta(days=1))}


def short_code(asset: str, code: str = "") -> str:
    """What is typed on a number pad: as configured, else five digits. Two machines may share one; then both show."""
    return code or f"{int.from_bytes(hashlib.sha256(asset.encode()).digest()[:4]) % 100_000:05d}"


def fit(whole: Bootstrap, room: Annotated[int, Field(gt=0)] = BOOTSTRAP_BYTES) -> Bootstrap:
    """The same in at most `room` bytes of JSON, as far as leaving out plots, then alarms that are over, then open
    ones, then machines, the last of each first, makes it so."""
    alarms, assets, left = list(whole.alarms), list(whole.assets), [0, 0, 0]
    alarms.sort(key=lambda alarm: not alarm.open)  # stable: the open ones first

    def made() -> Bootstrap:
        left_out = LeftOut(plots=left[0], alarms=left[1], assets=left[2])
        return whole.model_copy(update={"alarms": tuple(alarms), "assets": tuple(assets), "left_out": left_out})

    over = len(made().model_dump_json().encode()) - room
    for i in range(len(alarms) - 1, -1, -1):
        if over > 0 and (plot := alarms[i].plot):
            over -= len(plot.model_dump_json().encode()) - len("null")
            alarms[i] = alarms[i].model_copy(update={"plot": None})
            left[0] += 1
    for i, rows in ((1, alarms), (2, assets)):
        while over > 0 and rows:
            over -= len(rows.pop().model_dump_json().encode()) + 1
            left[i] += 1
    return made()
