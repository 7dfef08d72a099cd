"""Payloads of every release ever made are read for ever, and mean what they meant."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fleet_server.ingest.columns import predictions
from fleet_server.ingest.handlers import HANDLERS
from models.bundle.signing import PublicKeys
from models.contract import alarms, commands, messages, topics
from models.contract.base import Body, Message
from models.contract.codec import Unreadable, dump, load, load_body
from models.contract.commands import COMMANDS, Command, CommandNote, SetBudget
from models.contract.messages import BODIES, STREAM_OF, Assignment, Envelope, Offer, Receipt, ReceiptNote, ScoredWindows
from models.contract.schema import FILE, TRAVELS, as_text

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parents[2]


def golden(kind: type[Message]) -> Any:
    return json.loads((GOLDEN / f"{re.sub(r'(?<!^)(?=[A-Z])', '_', kind.__name__).lower()}.json").read_text())


@pytest.mark.parametrize("kind", TRAVELS, ids=lambda kind: kind.__name__)
def test_a_golden_payload_is_still_read_and_still_says_the_same(kind: type[Message]) -> None:
    said = golden(kind)
    read = json.loads(dump(load(kind, json.dumps(said).encode())))
    assert_kept(said, read)


def assert_kept(said: Any, read: Any) -> None:
    """Everything said was understood; newer fields may stand beside it."""
    if isinstance(said, dict):
        for name, value in said.items():
            assert name in read, f"{name} was lost"
            assert_kept(value, read[name])
    elif isinstance(said, list):
        assert len(said) == len(read)
        for a, b in zip(said, read, strict=True):
            assert_kept(a, b)
    else:
        assert said == read


@pytest.mark.parametrize("kind", TRAVELS, ids=lambda kind: kind.__name__)
def test_a_field_of_a_newer_sender_is_ignored(kind: type[Message]) -> None:
    said = golden(kind) | {"a_field_of_next_year": {"x": [1, 2]}}
    assert load(kind, json.dumps(said).encode()) == load(kind, json.dumps(golden(kind)).encode())


@pytest.mark.parametrize("kind", [kind for kind in TRAVELS if "v" in kind.model_fields], ids=lambda kind: kind.__name__)
def test_another_major_version_is_refused(kind: type[Message]) -> None:
    with pytest.raises(Unreadable, match="v: "):
        load(kind, json.dumps(golden(kind) | {"v": 2}).encode())


def test_every_message_class_travels_or_is_part_of_one_that_does() -> None:
    classes = {
        each
        for module in (messages, commands, alarms)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Message) and each.__module__ == module.__name__
    }
    described = json.loads(as_text())["$defs"]
    abstract = {Body, commands.CommandBody}  # only their subclasses are sent
    assert {each.__name__ for each in classes - abstract} <= set(described), "a class that nothing refers to"


def test_every_body_has_a_stream_a_topic_and_a_handler() -> None:
    assert set(BODIES) == set(Body.__subclasses__()) == set(STREAM_OF) == set(HANDLERS)
    for stream in set(STREAM_OF.values()):
        assert topics.parse(topics.up("plant1.gw7", stream)) == ("plant1.gw7", "up", stream.value)
    assert topics.parse(topics.fetch("plant1.gw7")) == ("plant1.gw7", "up", "fetch")
    assert topics.parse(topics.session("plant1.gw7")) == ("plant1.gw7", "up", "session")
    for kind in topics.DOWN_KINDS:
        assert topics.parse(topics.down("plant1.gw7", kind)) == ("plant1.gw7", "down", kind)


def test_every_golden_file_is_of_a_class_that_exists() -> None:
    names = {re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower() for kind in TRAVELS}
    assert {path.stem for path in GOLDEN.glob("*.json")} == names


def test_signatures_of_old_documents_still_hold() -> None:
    keys = PublicKeys.read([GOLDEN / "key.pub"])
    receipt = keys.open(Receipt, ReceiptNote.model_validate(golden(ReceiptNote)).receipt)
    assert (receipt.up_to, receipt.ranges) == (41, ((43, 45), (50, 50)))
    assert keys.open(Assignment, Offer.model_validate(golden(Offer)).assignment).sequence == 3
    keys = PublicKeys.read([GOLDEN / "command_key.pub"])
    command = keys.open(Command, CommandNote.model_validate(golden(CommandNote)).command)
    assert commands.read_body(command.body) == SetBudget.model_validate(golden(SetBudget))


def test_every_command_is_read_by_its_kind() -> None:
    assert set(COMMANDS) == set(commands.CommandBody.__subclasses__())
    for kind in COMMANDS:
        assert type(commands.read_body(golden(kind))) is kind


def test_an_envelope_and_its_body_are_read_apart() -> None:
    envelope = Envelope.model_validate(golden(Envelope))
    body = load_body(envelope)
    assert (envelope.seq, type(body).__name__) == (12, "Annotation")


def test_packed_columns_still_unpack_to_the_same_windows() -> None:
    first, second = predictions("plant1.gw7", ScoredWindows.model_validate(golden(ScoredWindows)))
    assert (first.score, first.alarm, first.fault_class) == (0.25, False, None)
    assert (second.score, second.alarm, second.fault_class, second.latency_us) == (0.875, True, "bearing", 210.5)
    assert second.window_end.isoformat() == "2026-03-02T08:15:30.250000+00:00"


def test_the_exported_schema_is_current() -> None:
    assert FILE.read_text(encoding="utf-8") == as_text(), "run: python -m models.contract.schema"
