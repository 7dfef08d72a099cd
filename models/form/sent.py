"""What the phone sends, read: the same on agent and server."""

from __future__ import annotations

from pydantic import ValidationError

from models.contract.codec import Unreadable, load
from models.contract.messages import Annotation
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
