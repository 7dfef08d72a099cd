"""What is done about alarms: actions, maintenance windows, suppressed patterns. Each record can arrive twice, late and
in any order; models.alarms makes the same state of them on agent and server."""

from __future__ import annotations

import enum
import hashlib
import json
from typing import Annotated, Final, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, Field, model_validator

from models.contract.base import AssetId, Body, Text
from models.contract.labels import Severity

Criticality = Literal["low", "normal", "high"]  # of an asset to its site
Family = Annotated[Text, Field(max_length=40)]
Actor = Annotated[Text, Field(min_length=1, max_length=80)]
Place = Literal["machine", "server"]  # where it was said: to the agent, by page or command, or to the fleet server
Tick = Annotated[int, Field(ge=1, le=2**53)]  # one more than the highest known of this subject where it was said


class Act(enum.StrEnum):
    """What one does about an alarm."""

    ACKNOWLEDGE = "acknowledge"  # seen, somebody takes care of it
    SNOOZE = "snooze"  # quiet until a time
    ASSIGN = "assign"
    COMMENT = "comment"
    DISMISS = "dismiss"  # not worth looking at: implicit feedback, no verdict
    ESCALATE = "escalate"  # by a timer: nobody acknowledged it
    RECOVERED = "recovered"  # by the agent: the signal is back to normal after maintenance


class AlarmAction(Body):
    """One thing done about one alarm. Stream annotation. `made_at` is the clock of whoever did it, and orders nothing
    that `tick` orders."""

    kind: Literal["alarm_action"] = "alarm_action"
    action_id: UUID  # made where it was done: the same id again is the same action
    event_id: UUID
    asset: AssetId
    action: Act
    actor: Actor
    place: Place = "machine"
    tick: Tick = 1
    severity: Severity | None = None  # of the alarm then: one that has become worse since is open to everybody again
    until: AwareDatetime | None = None  # of a snooze
    to: Annotated[Text, Field(max_length=80)] = ""  # of an assignment; empty: to nobody
    text: Annotated[Text, Field(max_length=2000)] = ""  # of a comment; a reason
    level: Annotated[int, Field(ge=0, le=9)] = 0  # of an escalation
    maintenance_id: UUID | None = None  # of a recovery: after which maintenance
    part_replaced: Annotated[Text, Field(max_length=80)] = ""  # of a recovery: what was replaced then
    sent_at: AwareDatetime | None = None
    taken_at: AwareDatetime | None = None  # the clock of the agent or server that took it

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.action is Act.SNOOZE and self.until is None:
            raise ValueError("a snooze needs its end: until")
        if self.action is Act.COMMENT and not self.text.strip():
            raise ValueError("a comment needs its text")
        if self.action is Act.ESCALATE and self.level < 1:
            raise ValueError("an escalation needs its level")
        return self

    def digest(self) -> str:
        """Of what was done, not of where and when it was taken: the same id with another digest is a conflict."""
        return _digest(self, {"sent_at", "taken_at", "tick", "place", "time_quality", "severity", "trace_id"})


class Maintenance(Body):
    """A maintenance window of an asset as it stands after somebody's word on it. Stream annotation. The word with the
    highest tick counts; of two with the same, the later one, then the one with the higher digest."""

    kind: Literal["maintenance"] = "maintenance"
    maintenance_id: UUID
    asset: AssetId
    start: AwareDatetime
    end: AwareDatetime | None = None  # None: until somebody ends it
    actor: Actor
    place: Place = "machine"
    tick: Tick = 1
    cancelled: bool = False  # it did not take place
    reason: Annotated[Text, Field(max_length=500)] = ""
    part_replaced: Annotated[Text, Field(max_length=80)] = ""
    settle_s: Annotated[float, Field(ge=0, le=7 * 86400)] = 600.0  # muted and fenced for so long after the end

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        if self.end is not None and self.end < self.start:
            raise ValueError("it ends before it starts")
        return self

    def digest(self) -> str:
        return _digest(self, {"time_quality", "trace_id"})


class Suppression(Body):
    """A pattern that does not alarm on one asset, because somebody called it a false alarm. Stream health.

    Ended is for ever; the same pattern again is another suppression. So the counts only rise and the order is free.
    """

    kind: Literal["suppression"] = "suppression"
    suppression_id: UUID
    asset: AssetId
    event_id: UUID  # the alarm that showed the pattern
    annotation_id: UUID  # the verdict
    annotator: Actor
    since: AwareDatetime
    until: AwareDatetime
    ended: Literal["", "expired", "lifted", "contradicted", "capped", "evicted"] = ""
    ended_by: Annotated[Text, Field(max_length=80)] = ""
    windows: Annotated[int, Field(ge=0)] = 0  # that did not alarm because of it
    drivers: tuple[Text, ...] = ()  # the features that stand out in the pattern


def _digest(message: Body, without: set[str]) -> str:
    words = message.model_dump(mode="json", exclude=without | {"kind"}, exclude_defaults=True)
    for name in _INSTANTS & words.keys():
        words[name] = getattr(message, name).timestamp()  # the same instant in another time zone is no other word
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


_INSTANTS: Final = {"made_at", "until", "start", "end"}
