"""What somebody at the device may see and decide: `edge-agent model`, on a real state folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent import cli
from models.bundle.signing import public_pem
from models.contract.messages import Step
from models.contract.release import Cause
from tests.builders import Fleet
from tests.device import NEW, NEWER, OLD, Device, report

CONFIG = """
state_dir = "state"
[trust]
approval_keys = ["approval.pub"]
[[asset]]
id = "pump1"
source = "csv"
[asset.csv]
path = "none.csv"
"""
Run = Callable[..., Any]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def device(tmp_path: Path, fleet: Fleet) -> Device:
    (tmp_path / "agent.toml").write_text(CONFIG)
    (tmp_path / "approval.pub").write_bytes(public_pem(fleet.approver.public))
    return Device(tmp_path / "state", fleet)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; what it printed as JSON, or the one line of what was wrong."""

    def run(*words: str) -> Any:
        code = cli.main([*words, "--json", "--config", str(tmp_path / "agent.toml")])
        out, err = capsys.readouterr()
        return json.loads(out) if code == 0 else err

    return run


def brought(folder: Path, fleet: Fleet, bundle: Any = NEW, approved: Any = NEW) -> str:
    """A file on a stick, with its approval beside it."""
    path = folder / "stick.bundle"
    path.write_bytes(bundle.data)
    signed = fleet.approver.sign(fleet.approval(approved))
    path.with_name("stick.bundle.approval").write_text(signed.model_dump_json())
    return str(path)


def test_a_file_is_installed_by_hand_through_the_same_steps_and_can_go_back(
    device: Device, fleet: Fleet, tmp_path: Path, run: Run
) -> None:
    assert run("model", "install", brought(tmp_path, fleet))["sha256"] == NEW.sha256
    device.rollout.turn()
    assert (device.step, device.engine.tries) == (Step.TRIAL, NEW)
    assert run("status")["step"] == "trial"
    device.engine.shown = report(40)
    device.rollout.turn()
    assert (device.step, device.engine.runs) == (Step.ACTIVE, NEW)
    assert {s.assignment for s in device.said} == {0}  # no order of the server's
    roles = {row["sha256"]: row["roles"] for row in run("model", "list")["models"]}
    assert roles == {NEW.sha256: ["current"], OLD.sha256: ["previous", "baseline"]}
    run("model", "rollback", "--reason", "it cries")
    device.rollout.turn()
    assert device.engine.runs == OLD
    status = run("status")
    assert (status["step"], status["reason"], status["denied"]) == ("rolled_back", "it cries", 1)


def test_the_same_steps_send_a_bad_file_away_with_numbers(
    device: Device, fleet: Fleet, tmp_path: Path, run: Run
) -> None:
    run("model", "install", brought(tmp_path, fleet))
    device.rollout.turn()
    device.engine.shown = report(40, candidate_alarm_share=0.9)
    device.rollout.turn()
    status = run("status")
    assert (status["step"], status["numbers"]) == ("rolled_back", "alarms: 0.05 -> 0.9, 0.25 allowed share of windows")
    assert status["evidence"]["cause"] == Cause.ALARMS
    assert "edge-agent model forgive" in run("model", "install", brought(tmp_path, fleet))


def test_a_file_without_its_approval_is_not_taken_whoever_writes_to_the_disk(
    device: Device, fleet: Fleet, tmp_path: Path, run: Run
) -> None:
    path = brought(tmp_path, fleet, NEW, approved=NEWER)
    assert "approves pump 3, not this bundle" in run("model", "install", path)
    (tmp_path / "stick.bundle.approval").unlink()
    assert "no approval in" in run("model", "install", path)
    (tmp_path / "stick.bundle").write_bytes(b"PK")
    assert "not a bundle" in run("model", "install", path)
    # Past the command: the agent looks at the approval again.
    device.rollout.store.save(NEW.data)
    for approval in (None, fleet.approver.sign(fleet.approval(NEWER)).model_dump(), {"payload": "x"}):
        device.memory.set(install={"sha256": NEW.sha256, "approval": approval})
        device.rollout.turn()
        assert (device.step, device.engine.tries) == (Step.ACTIVE, None)


def test_a_model_is_denied_and_forgiven_by_a_person(device: Device, run: Run) -> None:
    device.verify(NEW)
    assert "last way back" in run("model", "deny", OLD.sha256[:12])
    assert "no model 99" in run("model", "deny", "99")
    run("model", "deny", str(NEW.manifest.version), "--reason", "I do not like it")  # by version; it runs: it is left
    device.rollout.turn()
    assert (device.engine.runs, device.said[-1].reason) == (OLD, "I do not like it")
    denied = {row["sha256"]: row["denied"] for row in run("model", "list")["models"]}
    assert denied == {OLD.sha256: None, NEW.sha256: "I do not like it"}
    run("model", "deny", NEWER.sha256)  # not even here yet
    device.offer(NEWER)
    assert device.step is Step.REJECTED
    assert run("model", "forgive", NEW.sha256[:12])["forgiven"] == [NEW.sha256]
    assert run("model", "forgive", "all")["forgiven"] == [NEWER.sha256]
    assert "is not denied" in run("model", "forgive", NEW.sha256)
    device.to_trial(NEWER)


def test_what_is_in_shadow_or_on_its_way_can_be_denied(device: Device, run: Run) -> None:
    device.offer(NEW, mode="shadow")
    device.send(NEW)
    assert device.engine.shadows == NEW
    run("model", "deny", NEW.sha256)
    device.rollout.turn()
    assert (device.step, device.engine.shadows, device.engine.runs) == (Step.REJECTED, None, OLD)
    device.offer(NEWER)
    run("model", "deny", NEWER.sha256)
    device.send(NEWER)
    assert (device.step, device.engine.tries) == (Step.REJECTED, None)


def test_a_model_shows_what_it_is_made_of(device: Device, run: Run) -> None:
    shown = run("model", "show")
    assert (shown["sha256"], shown["roles"]) == (OLD.sha256, ["current", "previous", "baseline"])
    assert shown["manifest"]["alarm"]["raise_at"] == 0.5
    assert "no model abcdef" in run("model", "show", "abcdef")
