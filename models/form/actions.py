"""What the phone does besides saying what it was: docs/form-api.md, "Alarms and maintenance"."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from models.contract.alarms import Act, AlarmAction
from models.contract.base import AssetId, Message, Text
from models.contract.codec import Unreadable, load
from models.contract.ids import new_trace_id

NOBODY = "phone"  # the actor where nobody signs in and no name was given


class FormAction(Message):
    """The body of a PUT. Of an alarm's action, `event_id`; of maintenance, `asset`, and the id of the window."""

    action: Literal["acknowledge", "snooze", "assign", "comment", "dismiss", "maintenance_start", "maintenance_end"]
    at: AwareDatetime  # the phone's clock when it was done
    actor: Annotated[Text, Field(max_length=80)] = ""  # counts only where nobody signs in
    event_id: UUID | None = None
    asset: AssetId | None = None
    until: AwareDatetime | None = None
    to: Annotated[Text, Field(max_length=80)] = ""
    text: Annotated[Text, Field(max_length=2000)] = ""
    maintenance_id: UUID | None = None
    part_replaced: Annotated[Text, Field(max_length=80)] = ""

    @model_validator(mode="after")
    def _names_its_subject(self) -> Self:
        if self.action.startswith("maintenance"):
            if self.asset is None or self.maintenance_id is None:
                raise ValueError("maintenance needs asset and maintenance_id")
        elif self.event_id is None:
            raise ValueError("it needs the alarm: event_id")
        return self

    def on_alarm(self, action_id: UUID, actor: str, asset: str) -> AlarmAction:
        """As it is kept. Raises Unreadable: it lacks what it needs."""
        try:
            return AlarmAction.model_validate(
                {
                    "trace_id": new_trace_id(),
                    "made_at": self.at,
                    "action_id": action_id,
                    "event_id": self.event_id,
                    "asset": asset,
                    "action": Act(self.action),
                    "actor": actor or self.actor or NOBODY,
                    **self.model_dump(include={"until", "to", "text"}),
                }
            )
        except ValidationError as exc:
            raise Unreadable("; ".join(str(e["msg"]) for e in exc.errors())) from exc


class ActionTaken(Message):
    """The answer. Names its id: a Wi-Fi login page does not."""

    action_id: UUID
    taken: Literal["new", "before"]
    state: Literal["kept", "stored"]  # kept: on the agent's disk; stored: in the fleet's database


def read_action(payload: bytes) -> FormAction:
    """Raises Unreadable."""
    return load(FormAction, payload)
