"""What the server may tell a device to do: a signed Command with one of COMMANDS inside, over `down/command`.

A command is kept by the server until the device has said what came of it, is done once, and never after its deadline.
Of commands about the same state only the newest counts; what a person said (a label) has no such key and is never
overtaken.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError

from models.contract.alarms import Actor, AlarmAction, Maintenance
from models.contract.base import DeviceId, Message, Protocol, Text
from models.contract.messages import Annotation, Signed
from models.contract.people import Question, Verdicted


class CommandBody(Message):
    """What is to be done."""

    def state(self) -> str | None:
        """The state this sets, of which only the newest word counts; None: every command of this kind counts."""
        return None


class RequestReport(CommandBody):
    """Send a heartbeat now."""

    kind: Literal["request_report"] = "request_report"


class SendAgain(CommandBody):
    """Send everything that waits at once, without its patience: the server has lost what it had not confirmed."""

    kind: Literal["send_again"] = "send_again"


class SetBudget(CommandBody):
    """How much the device may send from now on; None lifts a limit. Stays over restarts."""

    kind: Literal["set_budget"] = "set_budget"
    bytes_per_day: Annotated[int, Field(ge=10_000)] | None = None
    bytes_per_month: Annotated[int, Field(ge=100_000)] | None = None
    kbit_per_s: Annotated[float, Field(gt=0)] | None = None

    def state(self) -> str | None:
        return "budget"


class FormNews(CommandBody):
    """What the server made of what was said on this device, and what it would like to know: for the form there."""

    kind: Literal["form_news"] = "form_news"
    outcomes: Annotated[tuple[Verdicted, ...], Field(max_length=50)] = ()
    questions: Annotated[tuple[Question, ...], Field(max_length=20)] = ()

    def state(self) -> str | None:
        return "form_news"


class TakeAction(CommandBody):
    """Somebody did something about an alarm of this device's, on the server."""

    kind: Literal["take_action"] = "take_action"
    action: AlarmAction


class TakeVerdict(CommandBody):
    """Somebody said on the server what an alarm of this device's was: a false alarm is quiet from now on, a fault is
    not. The annotation itself is the server's already, and does not travel back."""

    kind: Literal["take_verdict"] = "take_verdict"
    annotation: Annotation


class SetMaintenance(CommandBody):
    """A maintenance window was planned, started, changed or ended on the server."""

    kind: Literal["set_maintenance"] = "set_maintenance"
    window: Maintenance


class LiftSuppression(CommandBody):
    """Alarm again where somebody had said false alarm."""

    kind: Literal["lift_suppression"] = "lift_suppression"
    suppression_id: UUID
    by: Actor


COMMANDS: Final[tuple[type[CommandBody], ...]] = (
    RequestReport,
    SendAgain,
    SetBudget,
    TakeAction,
    TakeVerdict,
    SetMaintenance,
    LiftSuppression,
    FormNews,
)
AnyCommand = Annotated[
    RequestReport | SendAgain | SetBudget | TakeAction | TakeVerdict | SetMaintenance | LiftSuppression | FormNews,
    Field(discriminator="kind"),
]
_body: TypeAdapter[Any] = TypeAdapter(AnyCommand)


class Command(Message):
    """Signed by the server's online key. The body is read apart, so that a device refuses what it does not know yet,
    with a reason, instead of hearing nothing."""

    device: DeviceId
    command_id: UUID
    sequence: Annotated[int, Field(ge=1, le=2**53)]  # rising per device: the order in which they were given
    issued_at: AwareDatetime
    deadline: AwareDatetime
    latest: Annotated[Text, Field(max_length=200)] | None = None
    body: dict[str, Any]


class CommandNote(Protocol):
    """Down: a signed Command."""

    kind: Literal["command"] = "command"
    command: Signed


def read_body(raw: dict[str, Any]) -> CommandBody:
    """What a command carries. Raises ValueError: unknown, or not filled in as it must be."""
    try:
        body: CommandBody = _body.validate_python(raw)
    except ValidationError as exc:
        raise ValueError("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors()[:3])) from exc
    return body
