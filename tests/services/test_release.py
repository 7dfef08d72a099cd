"""Approval, waves, harm and the way back, on a real database, with devices that say what they are told to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fleet_server.cli import main
from fleet_server.config import Rollouts
from fleet_server.errors import Refused
from fleet_server.release import floors, registry, rollouts, shadows
from fleet_server.release.fit import Wanted, misfit
from fleet_server.release.lead import Lead
from fleet_server.release.publisher import Publisher
from fleet_server.store import bundles, decisions
from fleet_server.store import rollouts as rows
from fleet_server.store import shadows as reports
from fleet_server.store.bundles import BundleRow
from fleet_server.store.migrate import migrate
from fleet_server.store.pool import Connection, Pool, connect, open_pool
from models import baseline
from models.bundle.files import Bundle, pack, unpack
from models.bundle.signing import PublicKeys, SigningKey
from models.contract.base import ModelRef
from models.contract.codec import load
from models.contract.features import FEATURE_SET
from models.contract.ids import new_trace_id
from models.contract.messages import (
    Approval,
    Assignment,
    Chunk,
    Offer,
    Receipt,
    RolloutStatus,
    ShadowReport,
    Step,
    Stream,
)
from models.contract.release import Cause, Evidence
from models.paired import Paired
from tests import fleet_rows

DEVICES = tuple(f"plant1.gw{i}" for i in range(1, 6))
RULES = Rollouts(soak_s=0)


class Fleet:
    """Five devices, the server's rows, and a broker that remembers what was retained."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.key, self.approver = SigningKey.generate(), SigningKey.generate()
        self.keys = PublicKeys([self.approver.public])
        self.now = datetime.now(UTC)
        self.connected = True
        self.retained: dict[str, Offer] = {}
        self.chunks: list[Chunk] = []
        self.publisher = Publisher(pool, self._publish)
        with pool.connection() as conn:
            self.shipped = registry.register_shipped(conn)
            for device in DEVICES:
                conn.execute(
                    "INSERT INTO device (device_id, first_seen, last_seen, model_sha256) VALUES (%s, %s, %s, %s)",
                    (device, self.now, self.now, self.shipped.sha256),
                )

    def _publish(self, topic: str, payload: bytes, *, retain: bool) -> bool:
        if self.connected and retain:
            self.retained[topic.split("/")[2]] = load(Offer, payload)
        elif self.connected:
            self.chunks.append(load(Chunk, payload))
        return self.connected

    def release(self, version: int) -> BundleRow:
        """A candidate that passed its gate, approved."""
        with self.pool.connection() as conn:
            row = registry.register(conn, a_bundle(version), state="candidate", gate={"verdict": "pass", "summary": ""})
            registry.approve(conn, self.approver.sign(registry.document(row, "Olga", "")), self.keys)
            found = bundles.get(conn, row.name, version)
        assert found is not None
        return found

    def roll_out(self, release: BundleRow, waves: str = "1,4") -> str:
        with self.pool.connection() as conn:
            return rollouts.start(conn, rollouts.preview(conn, release, waves))

    def turn(self, later_s: float = 0.0) -> None:
        """As the loop does, until nothing is left to do."""
        self.now += timedelta(seconds=later_s)
        for _ in range(20):
            with self.pool.connection() as conn:
                if not rollouts.advance(conn, RULES, self.key, self.now):
                    break
        self.publisher.publish_new()

    def order(self, device: str) -> Assignment | None:
        """What a device takes from its retained offer."""
        if device not in self.retained:
            return None
        offer = self.retained[device]
        assignment = PublicKeys([self.key.public]).open(Assignment, offer.assignment)
        both = (self.keys, baseline.keys())
        assert any(opens(keys, offer, assignment.model) for keys in both), "an offer carries the release's approval"
        return assignment

    def says(
        self,
        device: str,
        step: Step,
        running: ModelRef | None = None,
        reason: str = "",
        why: Evidence | None = None,
    ) -> None:
        """The device's word on its newest order."""
        order = self.order(device)
        assert order is not None
        status = RolloutStatus(
            trace_id=new_trace_id(),
            made_at=self.now,
            assignment=order.sequence,
            release=order.model,
            step=step,
            reason=reason,
            evidence=why,
            running=running or order.model,
        )
        with self.pool.connection() as conn:
            rows.record_step(conn, device, status, self.now)
            if step is Step.ACTIVE:
                conn.execute(
                    "UPDATE device SET model_sha256 = %s WHERE device_id = %s", (status.running.sha256, device)
                )

    def ordered(self, release: BundleRow) -> set[str]:
        orders = {device: self.order(device) for device in DEVICES}
        return {device for device, order in orders.items() if order and order.model.sha256 == release.sha256}

    def state(self, rollout_id: str) -> str:
        with self.pool.connection() as conn:
            row = rows.get(conn, rollout_id)
        assert row is not None
        return row.state


def opens(keys: PublicKeys, offer: Offer, model: ModelRef) -> bool:
    try:
        return keys.open(Approval, offer.approval).model == model
    except ValueError:
        return False


def a_bundle(version: int, note: str = "") -> Bundle:
    shipped = baseline.shipped().bundle
    fields = shipped.manifest.model_dump(exclude={"files"}) | {"version": version}
    fields["origin"] = shipped.manifest.origin.model_copy(update={"note": note})
    return unpack(pack(fields, {"novelty.onnx": shipped.files["novelty.onnx"]}, shipped.canary))


@pytest.fixture
def fleet(plain_database: str) -> Iterator[Fleet]:
    migrate(connect(plain_database))
    pool = open_pool(plain_database)
    yield Fleet(pool)
    pool.close()


@pytest.fixture
def conn(fleet: Fleet) -> Iterator[Connection]:
    with fleet.pool.connection() as opened:
        yield opened


def test_a_version_never_changes(conn: Connection) -> None:
    first = registry.register(conn, a_bundle(2), state="candidate")
    assert registry.register(conn, a_bundle(2), state="candidate").sha256 == first.sha256
    with pytest.raises(Refused, match="other bytes"):
        registry.register(conn, a_bundle(2, note="not the same"), state="candidate")


def test_only_a_passed_gate_and_the_right_signature_approve(fleet: Fleet, conn: Connection) -> None:
    row = registry.register(conn, a_bundle(2), state="refused", gate={"verdict": "fail", "summary": "worse"})
    document = registry.document(row, "Olga", "")
    with pytest.raises(Refused, match="has not passed its gate"):
        registry.approve(conn, fleet.approver.sign(document), fleet.keys)
    with pytest.raises(Refused, match="not accepted"):
        registry.approve(conn, SigningKey.generate().sign(document), fleet.keys, despite_gate="I say so")
    receipt = Receipt(device="plant1.gw1", epoch="0" * 32, stream=Stream.ALARM, up_to=1)
    with pytest.raises(Refused, match="not accepted"):  # signed by the right person, but something else
        registry.approve(conn, fleet.approver.sign(receipt), fleet.keys)
    passed_off = fleet.approver.sign(receipt).model_copy(
        update={"payloadType": fleet.approver.sign(document).payloadType}
    )
    with pytest.raises(Refused, match="not accepted"):
        registry.approve(conn, passed_off, fleet.keys)
    other = document.model_copy(update={"size": document.size + 1})
    with pytest.raises(Refused, match="does not describe"):
        registry.approve(conn, fleet.approver.sign(other), fleet.keys, despite_gate="I say so")
    assert bundles.approval(conn, row.sha256) is None
    registry.approve(conn, fleet.approver.sign(document), fleet.keys, despite_gate="a test")
    assert decisions.listing(conn, "approval")[0].reason == "a test"


def test_two_must_sign_and_one_person_is_not_two(fleet: Fleet, conn: Connection) -> None:
    row = registry.register(conn, a_bundle(2), state="candidate", gate={"verdict": "pass", "summary": ""})
    second = SigningKey.generate()
    two = PublicKeys([fleet.approver.public, second.public], threshold=2)
    one = fleet.approver.sign(registry.document(row, "Olga", ""))
    for signed in (one, fleet.approver.add_to(one), SigningKey.generate().add_to(one)):
        with pytest.raises(Refused, match="not accepted"):
            registry.approve(conn, signed, two)
    doubled = one.model_copy(update={"signatures": one.signatures * 2})
    with pytest.raises(Refused, match="not accepted"):
        registry.approve(conn, doubled, two)
    registry.approve(conn, second.add_to(one), two)


def test_wave_by_wave_until_everybody_has_verified(fleet: Fleet) -> None:
    release = fleet.release(2)
    rollout = fleet.roll_out(release)
    fleet.turn()
    assert len(fleet.ordered(release)) == 1
    first = next(iter(fleet.ordered(release)))
    for step in (Step.OFFERED, Step.FETCHING, Step.CHECKING, Step.TRIAL):
        fleet.says(first, step, running=a_bundle(1).ref)
        fleet.turn()
        assert fleet.ordered(release) == {first}
    fleet.says(first, Step.ACTIVE)
    fleet.says(first, Step.TRIAL)  # a late resend takes nothing back
    fleet.turn()
    assert fleet.ordered(release) == set(DEVICES)
    for device in set(DEVICES) - {first}:
        fleet.says(device, Step.ACTIVE)
    fleet.turn()
    assert fleet.state(rollout) == "done"


def test_active_with_another_hash_is_no_success(fleet: Fleet) -> None:
    release = fleet.release(2)
    fleet.roll_out(release)
    fleet.turn()
    (first,) = fleet.ordered(release)
    fleet.says(first, Step.ACTIVE, running=a_bundle(1).ref)
    fleet.turn()
    assert fleet.ordered(release) == {first}


def test_harm_stops_bars_and_brings_everybody_back(fleet: Fleet) -> None:
    good, bad = fleet.release(2), fleet.release(3)
    fleet.roll_out(good, "100%")
    fleet.turn()
    for device in DEVICES[1:]:  # the first one never says anything: it knows the shipped one only
        fleet.says(device, Step.ACTIVE)
    fleet.turn(later_s=RULES.deadline_s + 1)
    rollout = fleet.roll_out(bad, "2,3")
    fleet.turn()
    one, two = sorted(fleet.ordered(bad))
    fleet.says(one, Step.ACTIVE)
    fleet.says(two, Step.ROLLED_BACK, running=a_bundle(2).ref, reason="alarms on everything")
    fleet.turn()
    assert fleet.state(rollout) == "stopped"
    with fleet.pool.connection() as conn:
        row = bundles.get(conn, bad.name, 3)
        assert row is not None
        assert row.state == "barred"
        assert any("alarms on everything" in each.reason for each in decisions.listing(conn, "rollback"))
        with pytest.raises(Refused, match="barred"):
            rollouts.preview(conn, row, "100%")
    assert fleet.ordered(bad) == set()
    for device in (one, two):
        order = fleet.order(device)
        assert order is not None
        assert order.mode == "rollback"
        assert order.barred == (bad.sha256,)
        wanted = fleet.shipped if device == DEVICES[0] else good
        assert order.model.sha256 == wanted.sha256
    for device in (one, two):
        fleet.says(device, Step.ACTIVE)
    fleet.turn()
    with fleet.pool.connection() as conn:
        assert {each.state for each in rows.listing(conn) if each.mode == "rollback"} == {"done"}


def test_a_paused_rollout_still_stops_for_harm(fleet: Fleet) -> None:
    bad = fleet.release(2)
    rollout = fleet.roll_out(bad)
    fleet.turn()
    with fleet.pool.connection() as conn:
        rollouts.pause(conn, rollouts.find(conn, rollout))
    (first,) = fleet.ordered(bad)
    fleet.says(first, Step.REJECTED, running=a_bundle(1).ref, reason="canary")
    fleet.turn()
    assert fleet.state(rollout) == "stopped"


def test_a_wave_without_an_answer_pauses_and_can_be_resumed(fleet: Fleet) -> None:
    release = fleet.release(2)
    rollout = fleet.roll_out(release)
    fleet.turn()
    fleet.turn(later_s=RULES.deadline_s + 1)
    assert fleet.state(rollout) == "paused"
    with fleet.pool.connection() as conn:
        rollouts.resume(conn, rollouts.find(conn, rollout))
    fleet.turn()
    assert fleet.ordered(release) == set(DEVICES)


def test_an_operator_brings_the_fleet_back_in_the_middle_of_a_rollout(fleet: Fleet) -> None:
    release = fleet.release(2)
    rollout = fleet.roll_out(release)
    fleet.turn()
    (first,) = fleet.ordered(release)
    before = fleet.order(first)
    with fleet.pool.connection() as conn:
        rollouts.go_back(conn, rollouts.bad_one(conn, None, None), "an operator's word")
    fleet.turn()
    assert fleet.state(rollout) == "stopped"
    after = fleet.order(first)
    assert before is not None
    assert after is not None
    assert (after.sequence, after.mode, after.model.version) == (before.sequence + 1, "rollback", 1)
    # The interrupted install reports afterwards; the newer order stands.
    with fleet.pool.connection() as conn:
        assert rows.ordered(conn, first) == fleet.shipped.sha256


def test_a_restored_database_does_not_count_from_an_old_number(fleet: Fleet) -> None:
    with fleet.pool.connection() as conn:
        conn.execute("UPDATE device SET assignment = 41")
    fleet.roll_out(fleet.release(2), "100%")
    fleet.turn()
    order = fleet.order(DEVICES[0])
    assert order is not None
    assert order.sequence == 42


def test_offers_survive_a_broker_that_is_away_or_forgets(fleet: Fleet) -> None:
    fleet.connected = False
    release = fleet.release(2)
    fleet.roll_out(release, "100%")
    fleet.turn()
    assert not fleet.retained
    fleet.connected = True
    assert fleet.publisher.publish_new() == 5
    assert fleet.publisher.publish_new() == 0
    fleet.retained.clear()
    assert fleet.publisher.republish() == 5
    assert fleet.ordered(release) == set(DEVICES)


def test_pieces_go_to_who_was_ordered_to_run_them_only(fleet: Fleet) -> None:
    release = fleet.release(2)
    assert fleet.publisher.handle_fetch(DEVICES[0], release.sha256, [0]) == 0
    fleet.roll_out(release, "100%")
    fleet.turn()
    assert fleet.publisher.handle_fetch(DEVICES[0], release.sha256, [*range(64), 0, 10**9]) == len(fleet.chunks)
    whole = b"".join(chunk.data for chunk in sorted(fleet.chunks, key=lambda chunk: chunk.index))
    assert whole == a_bundle(2).data
    assert fleet.publisher.handle_fetch(DEVICES[0], fleet.shipped.sha256, [0]) == 0
    assert fleet.publisher.handle_fetch("plant1.stranger", release.sha256, [0]) == 0


def test_a_device_that_cannot_use_it_is_left_out(fleet: Fleet, conn: Connection) -> None:
    shipped = baseline.shipped().bundle
    picky = shipped.manifest.model_copy(update={"window": fleet_rows.WINDOW, "signals": fleet_rows.SIGNALS})
    wanted = Wanted(shipped.manifest.model_copy(update={"min_agent": "0.1"}), shipped.sha256, 17)
    can = {"feature_set": FEATURE_SET, "runtime": "1.20", "max_opset": 21}
    coarse = {"p": {"window": {"rate_hz": 10, "n_samples": 20, "hop": 1}}}
    table: list[tuple[Wanted, dict[str, Any], str | None]] = [
        (wanted, {}, None),
        (wanted, {"agent_version": "0.1.0", "capabilities": can, "floor": 1, "assets": coarse}, None),
        (replace(wanted, manifest=picky), {"assets": coarse}, "p has windows of 20 at 10 Hz"),
        (wanted, {"agent_version": "0.0.9"}, "runs agent 0.0.9, 0.1 is needed"),
        (wanted, {"capabilities": can | {"feature_set": "f" * 16}}, "computes features"),
        (replace(wanted, opset=22), {"capabilities": can}, "operators up to set 21"),
        (replace(wanted, mode="shadow"), {"capabilities": can}, "knows no shadow"),
        (replace(wanted, mode="shadow"), {"agent_version": "0.1.0"}, "knows no shadow"),
        (wanted, {"floor": 7}, "nothing below version 7"),
        (wanted, {"denied": [shipped.sha256]}, "sent it away before"),
    ]
    for release, heartbeat, word in table:
        conn.execute("UPDATE device SET heartbeat = %s WHERE device_id = %s", (json.dumps(heartbeat), DEVICES[0]))
        device = next(each for each in rows.fleet(conn) if each.device_id == DEVICES[0])
        said = misfit(release, device)
        assert (said is None) if word is None else (said is not None and word in said), heartbeat
    release = fleet.release(2)
    conn.execute("UPDATE device SET heartbeat = %s WHERE device_id = %s", (json.dumps({"floor": 7}), DEVICES[0]))
    plan = rollouts.preview(conn, release, "100%")
    assert plan.left_out == {DEVICES[0]: "takes nothing below version 7"}
    assert plan.waves == [list(DEVICES[1:])]


def test_what_shows_nothing_about_a_release_is_no_harm(fleet: Fleet) -> None:
    release = fleet.release(2)
    rollout = fleet.roll_out(release, "2,3")
    fleet.turn()
    one, two = sorted(fleet.ordered(release))
    fleet.says(one, Step.ROLLED_BACK, running=a_bundle(1).ref, why=Evidence(cause=Cause.TIMEOUT))
    fleet.says(two, Step.ACTIVE)
    fleet.turn()
    assert fleet.state(rollout) == "running"
    assert fleet.ordered(release) == set(DEVICES)  # the next wave has begun
    fleet.says(DEVICES[3], Step.INCONSISTENT, why=Evidence(cause=Cause.NO_WAY_BACK))
    fleet.turn()
    assert fleet.state(rollout) == "stopped"


def test_the_floor_rises_and_nothing_below_is_sent_or_gone_back_to(
    fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second, third = fleet.release(2), fleet.release(3)
    for release in (second, third):
        fleet.roll_out(release, "100%")
        fleet.turn()
        for device in DEVICES[:4] if release is third else DEVICES:
            fleet.says(device, Step.ACTIVE)
        fleet.turn(later_s=RULES.deadline_s + 1)
    with fleet.pool.connection() as conn, pytest.raises(Refused, match="no approved release"):
        floors.raise_to(conn, 4, "")
    config = tmp_path / "server.toml"
    config.write_text(f'database = "{fleet.pool.conninfo}"\n[keys]\nserver = "none.pem"\napproval = ["none.pub"]\n')

    def operator(*words: str) -> dict[str, Any]:
        assert main(["release", "floor", *words, "--json", "--config", str(config)]) == 0
        said: dict[str, Any] = json.loads(capsys.readouterr().out)
        return said

    raised = operator("3", "--reason", "2 leaks")
    assert operator() == {"floor": 3, "behind": dict.fromkeys(DEVICES, 0)}
    with fleet.pool.connection() as conn:
        with pytest.raises(Refused, match="never falls"):
            floors.raise_to(conn, 3, "")
        with pytest.raises(Refused, match="below the floor 3"):
            rollouts.preview(conn, second, "100%")
        assert [each.outcome for each in decisions.listing(conn, "floor")] == ["raised"]
    assert raised["told"] == list(DEVICES[:4])
    assert raised["later"] == {DEVICES[4]: f"runs {second.name} 2, which is below"}
    fleet.turn()
    for device in DEVICES[:4]:
        order = fleet.order(device)
        assert order is not None
        assert (order.floor, order.mode, order.model.version) == (3, "rollback", 3)
    with pytest.raises(Refused, match="no way back"), fleet.pool.connection() as conn:
        rollouts.go_back(conn, third, "it cries")
    fourth = fleet.release(4)
    fleet.roll_out(fourth, "1,4")
    fleet.turn()
    (first,) = fleet.ordered(fourth)
    fleet.says(first, Step.ROLLED_BACK, running=third_ref(third), reason="alarms")
    fleet.turn()  # harm, and the way back is to the third, never below
    assert {order.model.version for device in DEVICES if (order := fleet.order(device))} <= {2, 3}
    order = fleet.order(first)
    assert order is not None
    assert (order.model.version, order.floor) == (3, 3)


def third_ref(row: BundleRow) -> ModelRef:
    return ModelRef(name=row.name, version=row.version, sha256=row.sha256)


def test_a_challenger_goes_to_the_shadow_in_waves_and_its_reports_add_up(fleet: Fleet) -> None:
    release = fleet.release(2)
    with fleet.pool.connection() as conn:
        rollout = rollouts.start(conn, rollouts.preview(conn, release, "1,4", mode="shadow"))
    fleet.turn()
    (first,) = fleet.ordered(release)
    order = fleet.order(first)
    assert order is not None
    assert order.mode == "shadow"
    fleet.says(first, Step.SHADOW, running=a_bundle(1).ref)
    fleet.turn()
    assert fleet.ordered(release) == set(DEVICES)
    for device in DEVICES:
        fleet.says(device, Step.SHADOW, running=a_bundle(1).ref)
    fleet.turn()
    assert fleet.state(rollout) == "done"
    pairs = Paired()
    for score in (0.2, 0.4, 0.9):
        pairs.add(score, 0.2, score > 0.5, False)
    with fleet.pool.connection() as conn:
        for device in DEVICES:
            report = ShadowReport(
                trace_id=new_trace_id(),
                made_at=fleet.now,
                assignment=1,
                rollout=rollout,
                asset=device.split(".")[1],
                champion=a_bundle(1).ref,
                challenger=order.model,
                windows=10,
                scores=pairs.take(),
                cpu_s=0.5,
                wall_s=100.0,
                cpu_share_cap=0.05,
            )
            for _ in range(2):  # told twice, counted once
                reports.insert(conn, device, report, fleet.now)
        (entry,) = shadows.summary(reports.of_rollout(conn, rollout))
    assert (entry["devices"], entry["windows"], entry["scored"], entry["only_challenger_over"]) == (5, 50, 15, 5)
    assert entry["mean_difference"] == pytest.approx(0.3)
    assert entry["cpu_share"] == pytest.approx(0.005)
    assert "15 of 50 windows on 5 assets" in shadows.words(entry)


def test_one_server_leads(fleet: Fleet, tmp_path: Path) -> None:
    first, second = Lead(fleet.pool, "a job"), Lead(fleet.pool, "a job")
    assert first.held()
    assert not second.held()
    assert first.held()
    first.give_up()
    assert second.held()
    second.give_up()
