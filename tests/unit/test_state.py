"""Another version of the agent on the same state folder: newer ones add, older ones go on with it or say that they can
not, and nothing that was confirmed is lost."""

from __future__ import annotations

import gc
import json
import re
import sqlite3
import uuid
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent import config, state
from edge_agent.attachments import Attachments
from edge_agent.cli import main
from edge_agent.outbox import Outbox
from edge_agent.outbox.file import suspect_mark
from edge_agent.outbox.place import BITS
from edge_agent.people import People
from models.contract.base import Stream
from tests.versions import tomorrow

ROOT = Path(__file__).parents[2]
CONFIG = """
device = "plant1.gw1"
state_dir = "state"
[form]
port = -1
[[asset]]
id = "pump1"
source = "csv"
[asset.csv]
path = "recording.csv"
[asset.window]
rate_hz = 1.0
n_samples = 10
hop = 5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = "\n".join(f"{1_772_000_000 + i},{(i * 7919) % 101}" for i in range(400))
    (tmp_path / "recording.csv").write_text(f"time,vib\n{rows}\n")
    (tmp_path / "agent.toml").write_text(CONFIG)
    return tmp_path


def agent(folder: Path, *words: str) -> int:
    code = main([*words, "--config", str(folder / "agent.toml")])
    gc.collect()  # a process of its own would have ended here, and its lock with it
    return code


def say(folder: Path, text: str) -> None:
    words = ("annotate", "--asset", "pump1", "--verdict", "unsure", "--by", "Kim", "--note", text)
    assert agent(folder, *words) == 0


def everything(folder: Path) -> dict[str, bytes]:
    """What a stopped agent has on disk, by file."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / "state").rglob("*")) if p.is_file()}


def test_what_a_newer_agent_has_added_is_left_alone_and_the_older_one_goes_on(folder: Path) -> None:
    assert agent(folder, "run", "--once") == 0
    say(folder, "before")
    state_dir = folder / "state"
    with closing(Outbox(state_dir / "outbox.db", owner=False)) as outbox:
        Attachments(state_dir / "attachments", outbox, 10**6)
        epoch, before = outbox.epoch, outbox.counts()
        rows = [outbox.after(stream, 0, 1000) for stream in Stream]
    People(state_dir / "people.db").invite("Kim", "technician", datetime.now(UTC))
    tomorrow(state_dir)

    assert agent(folder, "run", "--once") == 0
    say(folder, "after")
    for words in (["status", "--json"], ["outbox"], ["model", "list"], ["alarms", "list"], ["people"]):
        assert agent(folder, *words) == 0
    People(state_dir / "people.db").invite("Robin", "technician", datetime.now(UTC))

    with closing(Outbox(state_dir / "outbox.db", owner=False)) as outbox:
        after = outbox.counts()
        assert outbox.epoch == epoch
        for old in rows:
            assert not old or outbox.after(old[0].stream, 0, len(old)) == old
        assert after[Stream.ANNOTATION].produced == before[Stream.ANNOTATION].produced + 1
        assert after[Stream.TELEMETRY].produced > before[Stream.TELEMETRY].produced
        assert outbox.waiting()
        assert outbox.aside() == []
    for name in ("outbox.db", "rollout.db", "people.db"):
        with closing(sqlite3.connect(state_dir / name)) as db:
            assert db.execute("SELECT id FROM tomorrow").fetchall() == [("kept",)]
    with closing(sqlite3.connect(state_dir / "outbox.db")) as db:
        assert db.execute("SELECT body FROM record WHERE place = ?", (63 << BITS | 2,)).fetchone() == (b"\0",)
    stamp = state.read(state_dir)
    assert stamp == (state.FORMAT + 1, state.NEEDS, state.agent_version())  # it never falls


def test_a_file_that_a_newer_agent_has_added_to_is_salvaged_like_any_other(folder: Path) -> None:
    say(folder, "before")
    state_dir = folder / "state"
    state.enter(state_dir)
    with closing(Outbox(state_dir / "outbox.db", owner=False)) as outbox:
        (said,) = outbox.after(Stream.ANNOTATION, 0, 10)
    tomorrow(state_dir)
    suspect_mark(state_dir / "outbox.db").write_text("for a test")
    with closing(Outbox(state_dir / "outbox.db")) as outbox:
        assert outbox.after(Stream.ANNOTATION, 0, 10) == [said]
        assert "0" * 32 in outbox.ended()
    say(folder, "after")
    with closing(sqlite3.connect(state_dir / "outbox.db")) as db:
        assert db.execute("SELECT count(*) FROM said").fetchone() == (2,)


def test_a_state_that_needs_a_newer_agent_is_refused_by_every_command_and_left_as_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say(folder, "kept")
    state_dir = folder / "state"
    (state_dir / state.NAME).write_text(json.dumps({"format": 9, "needs": 9, "agent": "99.0.0"}))
    before = everything(folder)
    event = str(uuid.uuid4())
    for words in (
        ["run", "--once"], ["status"], ["outbox"], ["annotate", "--asset", "pump1", "--verdict", "unsure", "--by", "K"],
        ["model", "list"], ["rollback"], ["alarms", "list"], ["alarms", "dismiss", event, "--by", "K"], ["people"],
    ):  # fmt: skip
        capsys.readouterr()
        assert agent(folder, *words) == 2, words
        told = capsys.readouterr().err
        assert "used by edge-agent 99.0.0" in told, words
        assert "Install 99.0.0 or newer" in told, words
    assert agent(folder, "check") == 2
    assert "needs state format 9" in capsys.readouterr().out
    assert agent(folder, "doctor", "--json") == 2
    broken = [f for f in json.loads(capsys.readouterr().out)["findings"] if f["state"] == "broken"]
    assert [(f["part"], f["do"]) for f in broken] == [("state", "docs/operate.md, Another version")]
    after = everything(folder)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) <= {"state/agent.lock"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "x"}', '{"format": null, "needs": 1, "agent": ""}'])
def test_a_stamp_that_can_not_be_read_bricks_no_device(tmp_path: Path, text: str) -> None:
    (tmp_path / state.NAME).write_text(text)
    state.enter(tmp_path)
    assert state.read(tmp_path) == (state.FORMAT, state.NEEDS, state.agent_version())


def test_every_write_names_its_columns() -> None:
    for path in (ROOT / "edge_agent").rglob("*.py"):
        blind = re.findall(r"INTO [\w\"{}]+ (?:VALUES|SELECT)", path.read_text())
        assert not blind, f"{path.name}: {blind} breaks in a table that a newer agent has added a column to"


def test_the_settings_of_the_first_version_are_taken_as_they_were(tmp_path: Path) -> None:
    """Settings are added with a default and never renamed: an upgrade starts with the file that is there."""
    text = (ROOT / "tests/contract/golden/agent.toml").read_text()
    (tmp_path / "agent.toml").write_text(text)
    found = config.load(tmp_path / "agent.toml")
    assert found.device == "plant1.gw7"
    assert [asset.id for asset in found.asset] == ["pump1", "press2", "fan3", "mixer4", "mill5"]
