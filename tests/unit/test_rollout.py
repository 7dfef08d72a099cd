"""What a device takes, tries, keeps and sends away; and that a cut at any step leaves it with a good model."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.bundles import BundleStore
from edge_agent.clock import Clock
from edge_agent.config import Asset
from edge_agent.detect import Detector, Pipeline
from edge_agent.rollout.download import FETCH_TRIES, Download
from edge_agent.rollout.machine import Rollout
from edge_agent.rollout.steps import STEPS, Event
from edge_agent.rollout.trial import harm
from models.bundle.files import Bundle
from models.bundle.signing import PublicKeys, SigningKey
from models.contract.events import AlarmEvent
from models.contract.messages import Body, Chunk, Offer, RolloutStatus, Step, TrialLimits
from models.contract.release import Cause
from tests.builders import DEVICE, SIGNALS, SPEC, Fleet, a_bundle
from tests.device import NEW, NEWER, OLD, Device, chunks, report

FINAL = (Step.ACTIVE, Step.SHADOWED, Step.REJECTED, Step.ROLLED_BACK, Step.INCONSISTENT)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def device(tmp_path: Path, fleet: Fleet) -> Device:
    return Device(tmp_path, fleet)


# What is taken


def test_a_release_is_fetched_checked_tried_and_verified(device: Device) -> None:
    device.offer(NEW)
    assert device.step is Step.FETCHING
    assert device.asked == [(NEW.sha256, (0, 1))]
    device.send(NEW)
    assert device.step is Step.TRIAL
    assert (device.engine.runs, device.engine.tries) == (OLD, NEW)
    assert device.rollout.running == OLD.ref  # activated is not verified
    device.engine.shown = report(16)
    device.rollout.turn()
    assert device.rollout.running == NEW.ref
    assert device.engine.runs == NEW
    assert [s.step for s in device.said] == [Step.FETCHING, Step.CHECKING, Step.TRIAL, Step.ACTIVE]
    assert {s.assignment for s in device.said} == {1}
    device.restart()
    assert device.engine.runs == NEW


def test_a_harmful_release_goes_back_without_a_server_and_is_not_taken_again(device: Device) -> None:
    device.to_trial(NEW)
    device.engine.shown = report(8, candidate_alarm_share=1.0)  # of 16: clear harm is not watched to the end
    device.rollout.turn()
    assert device.step is Step.ROLLED_BACK
    assert (device.engine.runs, device.engine.tries) == (OLD, None)
    assert "alarms on 100%" in device.said[-1].reason
    evidence = device.said[-1].evidence
    assert evidence is not None
    assert (evidence.cause, evidence.before, evidence.after, evidence.allowed) == (Cause.ALARMS, 0.05, 1.0, 0.25)
    assert device.said[-1].report is not None
    assert device.said[-1].report.model_copy(update={"seconds": None}) == device.engine.shown
    device.offer(NEW)
    assert device.step is Step.REJECTED
    assert device.said[-1].reason == "it was sent away on this device before"


def test_windows_that_do_not_come_are_no_proof_of_health(device: Device) -> None:
    device.to_trial(NEW)
    device.engine.shown = report(15)
    device.rollout.turn()
    assert device.step is Step.TRIAL
    device.wait(21)
    assert device.step is Step.ROLLED_BACK
    device.to_trial(NEW)  # nor of harm: it is not denied


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"non_finite": 1, "windows": 1}, "not numbers"),
        ({"candidate_alarm_share": 0.6}, "alarms"),
        ({"mean_shift": 0.5}, "differ"),
        ({"mean_shift": -0.5}, "differ"),
        ({"score_distance": 0.5}, "Wasserstein"),
        ({"ks": 0.95}, "Kolmogorov"),
        ({"candidate_spread": 0.0}, "looks at nothing"),
        ({"candidate_latency_us": 9000.0}, "us a window"),
        ({"candidate_alarm_share": 0.2}, None),  # five times a tiny share is still a tiny share
        ({"candidate_alarm_share": 0.9, "previous_alarm_share": 0.6}, None),  # the machine is broken
        ({"candidate_latency_us": 900.0}, None),  # many times nearly nothing is nearly nothing
        ({"candidate_alarm_share": 1.0, "windows": 7}, None),  # too early to tell
        ({"mean_shift": 0.3, "score_distance": 0.3, "ks": 0.8}, None),
    ],
)
def test_each_limit_of_a_trial(changes: dict[str, Any], word: str | None) -> None:
    said = harm(report(**{"windows": 40} | changes), TrialLimits(ks=0.9))
    assert (said is None) if word is None else (said is not None and word in said.reason)
    if said is not None:
        after, allowed = said.evidence.after, said.evidence.allowed
        assert after is not None
        assert allowed is not None
        assert abs(after) > allowed or said.evidence.cause is Cause.CONSTANT


# What is refused


def forged(fleet: Fleet) -> Iterator[tuple[str, Offer]]:
    stranger, other = SigningKey.generate(), Fleet("plant1.gw2")
    good = fleet.offer(NEW)
    approval, assignment = fleet.approval(NEW), fleet.assignment(NEW)
    yield "assignment by a stranger", good.model_copy(update={"assignment": stranger.sign(assignment)})
    yield "approval by a stranger", good.model_copy(update={"approval": stranger.sign(approval)})
    yield "the server approves", good.model_copy(update={"approval": fleet.server.sign(approval)})
    yield "the approver assigns", good.model_copy(update={"assignment": fleet.approver.sign(assignment)})
    yield "documents swapped", Offer(assignment=good.approval, approval=good.assignment)
    elsewhere = fleet.server.sign(fleet.assignment(NEW, device=other.device))
    yield "for another device", good.model_copy(update={"assignment": elsewhere})
    yield "about another release", good.model_copy(update={"approval": fleet.approver.sign(fleet.approval(NEWER))})
    larger = fleet.approver.sign(fleet.approval(NEW, size=len(NEW.data) + 1))
    yield "of another size", good.model_copy(update={"approval": larger})
    renamed = good.approval.model_copy(update={"payloadType": good.assignment.payloadType})
    yield "another type's name", good.model_copy(update={"approval": renamed})
    payload = good.assignment.payload
    other_letter = "A" if payload[9] != "A" else "B"
    changed = good.assignment.model_copy(update={"payload": payload[:9] + other_letter + payload[10:]})
    yield "a changed character", good.model_copy(update={"assignment": changed})
    yield "no signature", good.model_copy(update={"assignment": good.assignment.model_copy(update={"signatures": ()})})


def test_a_forged_offer_is_not_taken_and_burns_no_sequence(device: Device, fleet: Fleet) -> None:
    for n, (what, offer) in enumerate(forged(fleet), start=1):
        device.rollout.turn(offer)
        assert device.step is Step.ACTIVE, what
        assert device.rollout.refused_offers == n, what
        assert device.rollout.memory.get("sequence", 0) == 0, what
    assert device.said == []
    device.offer(NEW)
    assert device.step is Step.FETCHING


def test_two_different_approvers_must_have_signed_when_two_are_wanted(tmp_path: Path, fleet: Fleet) -> None:
    second = SigningKey.generate()
    device = Device(tmp_path, fleet, fleet.approver, second)
    once = fleet.offer(NEW)
    twice_the_same = once.model_copy(update={"approval": fleet.approver.add_to(once.approval)})
    for offer in (once, twice_the_same):
        device.rollout.turn(offer)
        assert device.step is Step.ACTIVE
    device.rollout.turn(once.model_copy(update={"approval": second.add_to(once.approval)}))
    assert device.step is Step.FETCHING


def test_an_older_or_repeated_assignment_changes_nothing(device: Device, fleet: Fleet) -> None:
    old_offer, new_offer = fleet.offer(NEW), fleet.offer(NEWER)
    device.rollout.turn(new_offer)
    said = len(device.said)
    for again in (old_offer, new_offer):
        device.rollout.turn(again)
    device.restart()
    device.rollout.turn(old_offer)
    assert len(device.said) == said
    assignment = device.rollout.assignment
    assert assignment is not None
    assert assignment.model == NEWER.ref


def test_the_floor_holds_though_either_copy_of_it_is_lost(device: Device) -> None:
    device.offer(NEWER, floor=3)
    device.send(NEWER)
    for name in ("floors.json", "rollout.db"):
        device.rollout.memory.close()
        (device.folder / name).write_bytes(b"")
        for beside in device.folder.glob("rollout.db-*"):
            beside.unlink()
        device.restart()
        assert json.loads((device.folder / "floors.json").read_text())["floor"] == 3  # before the other one is lost too
        assert device.engine.runs is not None
        device.offer(NEW)
        assert device.step is Step.REJECTED
        assert "floor 3" in device.said[-1].reason
        device.rollout.memory.set(step="active")


def test_what_is_barred_does_not_run(device: Device) -> None:
    device.offer(NEWER, barred=[NEW.sha256])
    device.offer(NEW)
    assert (device.step, device.said[-1].reason) == (Step.REJECTED, "it is barred")


def test_a_release_that_does_not_fit_or_misses_its_scores_never_runs(device: Device) -> None:
    device.engine.bad = frozenset({NEW.sha256})
    device.offer(NEW)
    device.send(NEW)
    assert device.step is Step.REJECTED
    assert "canary" in device.said[-1].reason
    assert device.engine.tries is None


# Fetching


def test_pieces_may_come_twice_in_any_order_among_rubbish_and_across_a_restart(device: Device) -> None:
    big = a_bundle(4, limit=0.8, origin={"trained_on": "files", "note": "x" * 500})
    every = chunks(big, 1024)
    device.offer(big)
    count = len(every)
    assert count >= 2
    wrong = [
        every[0].model_copy(update={"index": count}),
        every[0].model_copy(update={"index": 10**6}),
        every[0].model_copy(update={"data": b"short"}),
        every[0].model_copy(update={"data": b"x" * 100_000}),
        every[0].model_copy(update={"sha256": NEW.sha256}),
    ]
    for chunk in [*wrong, every[-1], every[-1]]:
        device.rollout.turn(chunk)
    assert device.step is Step.FETCHING
    assert sum(path.stat().st_size for path in device.folder.glob("parts/*/*")) <= len(big.data)
    device.restart()
    device.asked.clear()
    device.rollout.turn()
    assert device.asked == [(big.sha256, tuple(range(count - 1)))]  # the last one is here
    device.send(big, range(count - 1))
    assert device.step is Step.TRIAL


def test_altered_pieces_are_fetched_again_and_not_for_ever(device: Device) -> None:
    device.offer(NEW)
    bad = [c.model_copy(update={"data": bytes([c.data[0] ^ 1]) + c.data[1:]}) for c in chunks(NEW)]
    for tries in range(1, FETCH_TRIES + 1):
        for chunk in bad:
            device.rollout.turn(chunk)
        device.rollout.turn()
        assert device.step is (Step.FETCHING if tries < FETCH_TRIES else Step.REJECTED)
    assert device.engine.runs == OLD
    assert not list(device.folder.glob("parts/*/*"))


def test_one_altered_download_is_forgiven(device: Device) -> None:
    device.offer(NEW)
    for chunk in chunks(NEW):
        device.rollout.turn(chunk.model_copy(update={"data": bytes([chunk.data[0] ^ 1]) + chunk.data[1:]}))
    device.send(NEW)
    assert device.step is Step.TRIAL


def test_a_full_disk_stops_the_download_and_nothing_else(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    device.offer(NEW)
    with monkeypatch.context() as patch:
        patch.setattr("edge_agent.rollout.download.write_whole", full)
        device.send(NEW)
        assert device.step is Step.FETCHING
    device.send(NEW)
    assert device.step is Step.TRIAL


# Back


def test_a_rollback_to_what_was_verified_here_needs_no_download_and_no_trial(device: Device) -> None:
    device.verify(NEW)
    device.asked.clear()
    device.offer(OLD, mode="rollback", barred=[NEW.sha256])
    assert device.step is Step.ACTIVE
    assert device.engine.runs == OLD
    assert device.asked == []
    device.restart()
    assert device.engine.runs == OLD


def test_a_rollback_ends_a_trial(device: Device) -> None:
    device.to_trial(NEW)
    device.offer(OLD, mode="rollback")
    assert device.step is Step.ACTIVE
    assert (device.engine.runs, device.engine.tries) == (OLD, None)


def test_somebody_at_the_device_goes_back_and_the_one_left_stays_away(device: Device) -> None:
    device.verify(NEW)
    device.rollout.memory.set(go_back="it cries")  # as `edge-agent rollback` does, beside a running agent
    device.rollout.turn()
    assert (device.step, device.engine.runs) == (Step.ROLLED_BACK, OLD)
    assert (device.said[-1].release, device.said[-1].running, device.said[-1].reason) == (NEW.ref, OLD.ref, "it cries")
    device.offer(NEW)
    assert device.step is Step.REJECTED


def test_going_back_asked_for_while_the_agent_was_off_runs_the_one_left_not_once_more(device: Device) -> None:
    device.verify(NEW)
    device.rollout.memory.set(go_back="it takes the agent down")
    device.bad = frozenset({NEW.sha256})
    device.restart()
    assert (device.step, device.engine.runs) == (Step.ROLLED_BACK, OLD)
    assert (device.said[-1].release, device.said[-1].reason) == (NEW.ref, "it takes the agent down")
    device.bad = frozenset()
    device.offer(NEW)
    assert device.step is Step.REJECTED


def test_going_back_during_a_trial_sends_only_the_candidate_away(device: Device) -> None:
    device.verify(NEW)
    for how in (device.rollout.turn, device.restart):
        fresh = a_bundle(device.fleet.sequence + 10)
        device.to_trial(fresh)
        device.rollout.memory.set(go_back="no")
        how()
        device.rollout.turn()
        assert (device.step, device.engine.runs, device.engine.tries) == (Step.ROLLED_BACK, NEW, None)
        assert device.rollout.running == NEW.ref
        device.offer(fresh)
        assert device.step is Step.REJECTED


def test_going_back_with_nothing_before_stays(device: Device) -> None:
    device.rollout.memory.set(go_back="why not")
    device.rollout.turn()
    assert device.engine.runs == OLD
    assert device.rollout.memory.get("go_back") is None


def test_going_back_over_a_damaged_file_finds_the_baseline(device: Device) -> None:
    device.verify(NEW)
    device.verify(NEWER)
    (device.folder / "bundles" / f"{NEW.sha256}.bundle").write_bytes(b"gone bad")
    device.rollout.memory.set(go_back="it cries")
    device.rollout.turn()
    assert device.engine.runs == OLD


def test_a_damaged_current_bundle_gives_way_to_the_one_before(device: Device) -> None:
    device.verify(NEW)
    device.verify(NEWER)
    path = device.folder / "bundles" / f"{NEWER.sha256}.bundle"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    device.restart()
    assert device.engine.runs == NEW
    assert device.rollout.running == NEW.ref
    assert "altered" in device.said[-1].reason
    for path in device.folder.glob("bundles/*.bundle"):
        path.write_bytes(b"")
    device.restart()
    assert device.engine.runs == OLD


def test_a_newer_baseline_replaces_the_older_one_and_nothing_that_was_verified(device: Device) -> None:
    device.rollout.start_up(NEW)
    assert device.engine.runs == NEW
    device.verify(NEWER)
    device.rollout.start_up(OLD)
    assert device.engine.runs == NEWER


def test_the_disk_holds_few_bundles(device: Device) -> None:
    for version in range(2, 8):
        device.verify(a_bundle(version, limit=0.5 + version / 100))
    assert len(list(device.folder.glob("bundles/*"))) == 3  # current, previous, baseline


# With the detector itself


def test_a_harmful_release_is_watched_doing_harm_and_goes_with_no_server_there(tmp_path: Path, fleet: Fleet) -> None:
    asset = Asset.model_validate(
        {"id": "pump1", "source": "mqtt", "mqtt": {"topic": "t", "rate_hz": SPEC.rate_hz, "signals": SIGNALS}}
    )
    said: list[Body] = []
    detector = Detector([Pipeline(asset, SIGNALS, SPEC, None)], said.extend)
    keys = PublicKeys([fleet.approver.public]), PublicKeys([fleet.server.public])
    rollout = Rollout(DEVICE, tmp_path, *keys, detector, said.extend, lambda *_: None)
    rollout.start_up(OLD)
    harmful, good = a_bundle(2, limit=0.01), a_bundle(3, limit=0.45)
    dice, start = np.random.default_rng(1), 0.0
    for bundle, end, runs in ((harmful, Step.ROLLED_BACK, OLD), (good, Step.ACTIVE, good)):
        rollout.turn(fleet.offer(bundle))
        for chunk in chunks(bundle):
            rollout.turn(chunk)
        rollout.turn()
        for _ in range(20):
            quiet = 0.1 * dice.standard_normal((1, SPEC.n_samples)).astype(np.float32)
            detector.feed("pump1", start + np.arange(SPEC.n_samples) / SPEC.rate_hz, quiet)
            start += SPEC.n_samples / SPEC.rate_hz
            rollout.turn()
        assert (rollout.step, rollout.running) == (end, runs.ref)
    sent_away = next(s for s in said if isinstance(s, RolloutStatus) and s.step is Step.ROLLED_BACK)
    assert sent_away.report is not None
    assert sent_away.report.windows < 16  # of the 16 that a good one needs
    alarms = [body for body in said if isinstance(body, AlarmEvent)]
    assert [(a.phase, a.trial) for a in alarms] == [("raised", True), ("cleared", False)]


# The table


def test_no_way_leads_out_of_the_final_steps_and_every_other_step_has_an_end() -> None:
    assert not {step for step, _ in STEPS} & {*FINAL}
    for step in {*Step} - {*FINAL}:
        reached, todo = set(), [step]
        while todo:
            here = todo.pop()
            reached.add(here)
            todo += [to for (at, _), to in STEPS.items() if at is here and to not in reached]
        assert reached & {*FINAL}, step
    assert STEPS[Step.TRIAL, Event.RESTARTED] is Step.ROLLED_BACK


def _act(device: Device, step: Step) -> None:
    """What brings a device into this step."""
    if step in (Step.FETCHING, Step.CHECKING, Step.TRIAL, Step.ACTIVE, Step.ROLLED_BACK):
        device.offer(NEW)
    if step is Step.REJECTED:
        device.offer(NEW, barred=[NEW.sha256])
    if step in (Step.CHECKING, Step.TRIAL, Step.ACTIVE, Step.ROLLED_BACK):
        device.send(NEW)
    if step in (Step.ACTIVE, Step.ROLLED_BACK):
        device.engine.shown = report(16, non_finite=int(step is Step.ROLLED_BACK))
        device.rollout.turn()


def _until_killed(folder: Path, fleet: Fleet, step: Step, when: str) -> None:
    """In a child: come into the step and die there, before or after it was told."""
    device = Device(folder, fleet)
    if when == "before it was told":
        os.environ["PDM_CRASH_AT"] = f"rollout.{step}"
    else:
        tell = device.rollout._record._put

        def die(bodies: list[Body]) -> None:
            tell(bodies)
            if any(isinstance(body, RolloutStatus) and body.step is step for body in bodies):
                os.kill(os.getpid(), signal.SIGKILL)

        device.rollout._record._put = die
    _act(device, step)


@pytest.mark.parametrize(
    ("step", "when"),
    [
        *product(
            [s for s in Step if s not in (Step.OFFERED, Step.SHADOW, Step.SHADOWED, Step.INCONSISTENT)],
            ["before it was told", "after it was told"],
        )
    ],
)
def test_a_cut_at_every_step_leaves_a_good_model_and_the_way_goes_on(
    tmp_path: Path, fleet: Fleet, step: Step, when: str
) -> None:
    child = multiprocessing.get_context("fork").Process(target=_until_killed, args=(tmp_path, fleet, step, when))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    fleet.sequence += 1  # the child's order counted in the child
    device = Device(tmp_path, fleet)
    expected = {Step.FETCHING: OLD, Step.CHECKING: OLD, Step.TRIAL: OLD, Step.ACTIVE: NEW}.get(step, OLD)
    assert device.engine.runs == expected
    assert device.engine.tries is None
    assert device.step is (Step.ROLLED_BACK if step is Step.TRIAL else step)
    assert step in [s.step for s in device.said]  # told, at the latest now
    if step in (Step.FETCHING, Step.CHECKING):
        device.send(NEW)
        assert device.step is Step.TRIAL
    device.verify(NEWER)
    assert device.rollout.running == NEWER.ref


def test_a_check_that_takes_the_agent_down_does_so_twice_at_most(tmp_path: Path, fleet: Fleet) -> None:
    device = Device(tmp_path, fleet)

    def fall(_: Bundle) -> None:
        raise SystemExit  # as a crash in native code would: nothing after it runs

    def with_a_fall(act: Callable[[], None]) -> None:
        device.engine.check = fall  # type: ignore[method-assign, assignment]
        with pytest.raises(SystemExit):
            act()
        device.restart()
        assert device.engine.runs == OLD

    device.offer(NEW)
    with_a_fall(lambda: device.send(NEW))
    with_a_fall(device.rollout.turn)
    device.rollout.turn()
    assert device.step is Step.REJECTED


def test_a_floors_copy_that_is_no_object_is_survived(device: Device) -> None:
    for rubbish in ("[]", "7", '{"floor": null}', json.dumps("x")):
        (device.folder / "floors.json").write_text(rubbish)
        device.restart()
        device.rollout.memory.get("floor", 0)
        device.rollout.memory.set(floor=0)


def test_pieces_that_come_twice_are_no_reason_to_ask_again(tmp_path: Path, fleet: Fleet) -> None:
    asked: list[tuple[int, ...]] = []
    download = Download(tmp_path / "parts", BundleStore(tmp_path), lambda _, indexes: asked.append(indexes), Clock())
    bundle = a_bundle(2)
    assignment = fleet.assignment(bundle).model_copy(update={"size": 20 * 1024, "chunk_bytes": 1024})
    pieces = [Chunk(sha256=bundle.sha256, index=i, count=20, data=base64.b64encode(bytes(1024))) for i in range(20)]
    download.turn(assignment)
    for piece in pieces[:8]:
        for _ in range(5):
            download.take(assignment, piece)
            download.turn(assignment)
    assert asked == [tuple(range(8)), tuple(range(8, 16))]
