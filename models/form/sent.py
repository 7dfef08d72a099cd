"""What the phone sends, read: the same on agent and server."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from pydantic import ValidationError

from models.contract.codec import Unreadable, load
from models.contract.ids import new_trace_id
from models.contract.messages import Annotation
from models.contract.people import Feedback, Signal
from models.form.api import Reason


def read_annotation(annotation_id: str, payload: bytes) -> Annotation:
    """The annotation of a PUT to its address. Raises Unreadable."""
    said = load(Annotation, payload)
    if str(said.annotation_id) != annotation_id:
        raise Unreadable(f"annotation_id: {said.annotation_id} is not the one in the address")
    return said


def wrong_fields(exc: Unreadable) -> list[Reason]:
    """What is wrong, field by field, where it is known."""
    cause = exc.__cause__
    if not isinstance(cause, ValidationError):
        return [Reason(field="", reason=str(exc))]
    return [Reason(field=".".join(map(str, e["loc"])), reason=e["msg"]) for e in cause.errors()[:10]]


def implicit(
    signal: Signal,
    feedback_id: UUID,
    *,
    person: str = "",
    asset: str | None = None,
    event_id: UUID | None = None,
    value: float | None = None,
    detail: str = "",
    about: UUID | None = None,
    made_at: datetime | None = None,
) -> Feedback:
    """Feedback as it is sent. Raises ValueError: a name that is none."""
    return Feedback(
        trace_id=new_trace_id(),
        made_at=made_at or datetime.now(UTC),
        feedback_id=feedback_id,
        signal=signal,
        asset=asset,
        event_id=event_id,
        person=person,
        value=value,
        detail=detail,
        about=about,
    )
