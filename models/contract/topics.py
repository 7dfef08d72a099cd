"""The topic of each message: `pdm/v1/{device}/up/{stream}` and `pdm/v1/{device}/down/{kind}`, spelled here only."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from models.contract.base import DeviceId, Stream

ROOT: Final = "pdm/v1"
QOS: Final = 1  # everything; what must not be lost waits for a receipt on top
DOWN_KINDS: Final = ("receipt", "offer", "chunk", "command")
RETAINED: Final = frozenset({"offer"})  # an offer waits for a device that is off

Down = Literal["receipt", "offer", "chunk", "command"]
_device = TypeAdapter(DeviceId)


class Topic(NamedTuple):
    """A topic read back."""

    device: str
    direction: Literal["up", "down"]
    name: str  # a stream, "fetch", "session", or a down kind


def up(device: str, stream: Stream) -> str:
    return f"{ROOT}/{_device.validate_python(device)}/up/{stream}"


def fetch(device: str) -> str:
    return f"{ROOT}/{_device.validate_python(device)}/up/fetch"


def session(device: str) -> str:
    return f"{ROOT}/{_device.validate_python(device)}/up/session"


def down(device: str, kind: Down) -> str:
    return f"{ROOT}/{_device.validate_python(device)}/down/{kind}"


def all_up() -> str:
    """The filter for everything that devices send."""
    return f"{ROOT}/+/up/+"


def all_down(device: str) -> str:
    """The filter for everything that is meant for one device."""
    return f"{ROOT}/{_device.validate_python(device)}/down/+"


def parse(topic: str) -> Topic | None:
    """None: not one of ours."""
    parts = topic.split("/")
    if len(parts) != 5 or "/".join(parts[:2]) != ROOT:
        return None
    device, direction, name = parts[2:]
    known = (*Stream, "fetch", "session") if direction == "up" else DOWN_KINDS if direction == "down" else ()
    try:
        _device.validate_python(device)
    except ValidationError:
        return None
    if name not in known:
        return None
    return Topic(device, "up" if direction == "up" else "down", name)
