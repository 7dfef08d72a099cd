"""The wire as JSON Schema: `python -m models.contract.schema` writes docs/schema.json, whose diff shows in review."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from models.contract.base import Message
from models.contract.commands import COMMANDS, Command, CommandNote
from models.contract.messages import (
    BODIES,
    STREAM_OF,
    Approval,
    Assignment,
    Chunk,
    Envelope,
    Fetch,
    Offer,
    Pack,
    Receipt,
    ReceiptNote,
    Session,
    Signed,
)

FILE: Final = Path(__file__).parents[2] / "docs/schema.json"
# How each message travels. What is not in here is part of something that is.
TRAVELS: Final[dict[type[Message], str]] = {
    Envelope: "up, any stream, around a body",
    **{body: f"up/{STREAM_OF[body]}, in an envelope" for body in BODIES},
    Fetch: "up/fetch",
    Pack: "up, any stream, zlib: many records of one stream in one message",
    Session: "up/session",
    ReceiptNote: "down/receipt",
    Offer: "down/offer, retained",
    Chunk: "down/chunk",
    CommandNote: "down/command",
    Signed: "inside receipts, offers and commands, around a signed document",
    Receipt: "signed, in a receipt",
    Approval: "signed, in an offer",
    Assignment: "signed, in an offer",
    Command: "signed, in a command note",
    **dict.fromkeys(COMMANDS, "in a command"),
}


def schema() -> dict[str, Any]:
    """One document with every message under $defs."""
    _, document = models_json_schema(
        [(kind, "validation") for kind in TRAVELS], title="pdm/v1", description="What travels over MQTT."
    )
    return document | {"x-travels": {kind.__name__: how for kind, how in TRAVELS.items()}}


def as_text() -> str:
    """As it stands in the file."""
    return json.dumps(schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(as_text(), encoding="utf-8")
