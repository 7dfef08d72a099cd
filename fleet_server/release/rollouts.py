"""A release to the fleet and back: the rules of `waves` applied to rows, in the caller's transaction."""

from __future__ import annotations

import logging
import secrets
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from fleet_server.config import Rollouts
from fleet_server.errors import NotFound, Refused
from fleet_server.release import registry, waves
from fleet_server.release.fit import Wanted, misfit
from fleet_server.release.waves import Do
from fleet_server.store import bundles, decisions, floors
from fleet_server.store import rollouts as store
from fleet_server.store.bundles import BundleRow
from fleet_server.store.pool import Connection
from fleet_server.store.rollouts import DeviceRow, RolloutRow
from models.bundle import graph
from models.bundle.files import unpack
from models.bundle.signing import SigningKey
from models.contract.messages import Assignment

log = logging.getLogger(__name__)

MAX_BARRED: Final = 500  # hashes in one order: it has to fit into a message


@dataclass(frozen=True)
class Plan:
    """Who would get the release, in which wave, and who would not and why."""

    bundle: BundleRow
    waves: list[list[str]]
    left_out: dict[str, str] = field(default_factory=dict)
    mode: str = "trial"


def preview(
    conn: Connection, bundle: BundleRow, wave_words: str, devices: Sequence[str] | None = None, mode: str = "trial"
) -> Plan:
    """The plan, without doing anything.

    Args:
        mode: "trial", or "shadow": scored beside what runs, taking nothing over.

    Raises:
        Refused: not approved, barred, below the floor, another rollout is on its way, or nobody is left.
        NotFound: a device that was never seen.
    """
    if bundle.state == "barred":
        raise Refused(f"{bundle.name} {bundle.version} is barred")
    if bundle.version < (floor := floors.current(conn)):
        raise Refused(f"{bundle.name} {bundle.version} is below the floor {floor}")
    if bundle.approved_by is None:
        raise Refused(f"{bundle.name} {bundle.version} is not approved: fleet-server release approve {bundle.version}")
    for other in store.unfinished(conn):
        if other.mode == "trial":
            raise Refused(f"rollout {other.rollout_id} ({other.name} {other.version}) is not finished: stop it first")
    fleet = {row.device_id: row for row in store.fleet(conn)}
    if unknown := [device for device in devices or () if device not in fleet]:
        raise NotFound(f"never heard of {', '.join(unknown)}")
    data = bundles.data(conn, bundle.sha256)
    assert data is not None, "registered bundles are never deleted"
    found = unpack(data)
    wanted = Wanted(found.manifest, bundle.sha256, graph.opset(found), mode)
    left_out: dict[str, str] = {}
    for device in devices or fleet:
        if why := misfit(wanted, fleet[device]):
            left_out[device] = why
    # The newest heard of first: the first wave must be able to answer.
    order = sorted(
        (fleet[d] for d in devices or fleet if d not in left_out), key=lambda row: (-_minute(row), row.device_id)
    )
    if not order:
        raise Refused("no device is left: " + "; ".join(f"{d} {why}" for d, why in left_out.items()) or "none is known")
    parts = waves.split([row.device_id for row in order], wave_words)
    covered = {device for part in parts for device in part}
    left_out |= {row.device_id: "in no wave" for row in order if row.device_id not in covered}
    return Plan(bundle, parts, left_out, mode)


def start(conn: Connection, plan: Plan, reason: str = "") -> str:
    """Write the plan down; the first wave's orders go out with the next turn of the loop. Its id."""
    rollout_id = insert(conn, plan.bundle, plan.mode, plan.waves, reason)
    decisions.record(
        conn,
        kind="rollout",
        subject=_title(plan.bundle),
        outcome="started",
        reason=reason or f"{len(plan.waves)} waves",
        inputs={"rollout": rollout_id, "mode": plan.mode, "waves": plan.waves, "left_out": plan.left_out},
    )
    return rollout_id


def find(conn: Connection, rollout_id: str | None) -> RolloutRow:
    """A rollout by its id, or the newest that is no way back. Raises NotFound."""
    row = (
        next((row for row in store.listing(conn) if row.mode in ("trial", "shadow")), None)
        if rollout_id is None
        else store.get(conn, rollout_id)
    )
    if row is None:
        raise NotFound(f"there is no rollout {rollout_id or 'yet'}")
    return row


def pause(conn: Connection, row: RolloutRow, reason: str = "") -> None:
    """No further wave until it is resumed; harm still stops it. Raises Refused."""
    _must_be(row, "running")
    store.set_state(conn, row.rollout_id, "paused", reason or "paused by an operator")
    _decided(conn, row, "paused", reason or "by an operator")


def resume(conn: Connection, row: RolloutRow) -> None:
    """Go on, after a pause by an operator or by the rules. Raises Refused."""
    _must_be(row, "paused")
    store.set_state(conn, row.rollout_id, "running", "")
    if row.wave < row.n_waves and row.wave_done_at is None:
        rows = [each for each in store.assignments(conn, row.rollout_id) if each.wave == row.wave]
        # It was paused because nobody of this wave answered; whoever resumes wants the next one all the same.
        if rows and all(each.issued_at is not None for each in rows) and "nobody of wave" in row.reason:
            store.set_wave(conn, row.rollout_id, row.wave + 1)
    _decided(conn, row, "resumed", "by an operator")


def stop(conn: Connection, row: RolloutRow, reason: str = "") -> None:
    """No further orders. Devices that have the release keep it: `go_back` is another decision. Raises Refused."""
    _must_be(row, "running", "paused")
    store.end(conn, row.rollout_id, "stopped", reason or "stopped by an operator", datetime.now(UTC))
    _decided(conn, row, "stopped", reason or "by an operator")


def go_back(
    conn: Connection, bad: BundleRow, reason: str, to: BundleRow | None = None, *, automatic: bool = False
) -> list[str]:
    """Bar a release and order every device that runs it, or was told to, back to the one it verified before; to the
    shipped one where there is none. The ids of the rollbacks.

    Raises:
        Refused: the shipped one is bad, or the way leads to what is not approved or barred.
    """
    registry.bar(conn, bad, reason)
    now = datetime.now(UTC)
    for row in store.unfinished(conn):
        if row.sha256 == bad.sha256:
            store.end(conn, row.rollout_id, "stopped", reason, now)
            _decided(conn, row, "stopped", reason)
    known, floor = {row.sha256: row for row in bundles.listing(conn)}, floors.current(conn)
    if to is not None and (to.sha256 == bad.sha256 or not _way_back(to, floor)):
        raise Refused(f"{_title(to)} is no way back: barred, not approved, or below the floor {floor}")
    shipped = next((row for row in known.values() if row.state == "shipped"), None)
    last_good = store.last_good(conn, bad.sha256, floor)
    back: dict[str, list[str]] = defaultdict(list)
    stranded = []
    for device in store.fleet(conn):
        if bad.sha256 not in (device.model_sha256, device.ordered_sha256):
            continue
        target = to or known.get(last_good.get(device.device_id, "")) or shipped
        if target is None or not _way_back(target, floor):
            stranded.append(device.device_id)
        else:
            back[target.sha256].append(device.device_id)
    if stranded:
        why = f"no approved release at or above the floor {floor} is known to run there"
        if to is None and not back and not automatic:
            raise Refused(f"there is no way back for {', '.join(stranded)}: {why}")
        decisions.record(conn, "rollback", _title(bad), "no way back", why, {"devices": stranded, "bad": bad.sha256})
    made = []
    for sha256, devices in back.items():
        made.append(insert(conn, known[sha256], "rollback", [devices], reason))
        decisions.record(
            conn,
            kind="rollback",
            subject=_title(bad),
            outcome=f"back to {_title(known[sha256])}",
            reason=reason,
            inputs={"rollout": made[-1], "devices": devices, "bad": bad.sha256},
        )
    return made


def bad_one(conn: Connection, version: int | None, name: str | None) -> BundleRow:
    """What `rollback` is about: the version named, or else what was rolled out last. Raises NotFound, Refused."""
    if version is not None:
        return registry.find(conn, version, name)
    newest = find(conn, None)
    row = bundles.by_sha256(conn, newest.sha256)
    assert row is not None, "a rollout's bundle is a foreign key"
    if row.state == "barred":
        raise Refused(f"{_title(row)}, the last one rolled out, is barred already; name another with --from")
    return row


def advance(conn: Connection, rules: Rollouts, key: SigningKey, now: datetime | None = None) -> int:
    """One turn for every rollout that is not finished; the number of things done."""
    now = now or datetime.now(UTC)
    done = 0
    for row in store.unfinished(conn):
        fresh = store.get(conn, row.rollout_id)  # an earlier one's harm may have ended this one
        if fresh is None or fresh.ended_at is not None:
            continue
        step = waves.decide(fresh, store.assignments(conn, fresh.rollout_id), now, rules)
        if step.do is not Do.WAIT:
            log.info("rollout", extra={"rollout": row.rollout_id, "do": step.do.value, "reason": step.reason})
            _apply(conn, fresh, step, rules, key, now)
            done += 1
    return done


def _apply(
    conn: Connection, row: RolloutRow, step: waves.Next, rules: Rollouts, key: SigningKey, now: datetime
) -> None:
    match step.do:
        case Do.ISSUE:
            _issue_wave(conn, row, rules, key, now)
            _decided(conn, row, f"wave {row.wave}", step.reason)
        case Do.SOAK:
            store.set_wave_done(conn, row.rollout_id, now)
        case Do.NEXT:
            store.set_wave(conn, row.rollout_id, row.wave + 1)
        case Do.FINISH:
            store.end(conn, row.rollout_id, "done", step.reason, now)
            _decided(conn, row, "done", step.reason)
        case Do.PAUSE:
            store.set_state(conn, row.rollout_id, "paused", step.reason)
            _decided(conn, row, "paused", step.reason)
        case Do.STOP:
            store.end(conn, row.rollout_id, "stopped", step.reason, now)
            _decided(conn, row, "stopped", step.reason)
            bad = bundles.by_sha256(conn, row.sha256)
            assert bad is not None, "a rollout's bundle is a foreign key"
            go_back(conn, bad, step.reason, automatic=True)


def _issue_wave(conn: Connection, row: RolloutRow, rules: Rollouts, key: SigningKey, now: datetime) -> None:
    bundle = bundles.by_sha256(conn, row.sha256)
    assert bundle is not None, "a rollout's bundle is a foreign key"
    barred = [sha256 for sha256 in bundles.barred(conn) if sha256 != row.sha256][:MAX_BARRED]
    for each in store.assignments(conn, row.rollout_id):
        if each.wave != row.wave or each.issued_at is not None or each.superseded:
            continue
        order = Assignment.model_validate(
            {
                "device": each.device_id,
                "sequence": each.sequence,
                "rollout": row.rollout_id,
                "mode": "rollback" if row.mode == "floor" else row.mode,
                "model": {"name": bundle.name, "version": bundle.version, "sha256": bundle.sha256},
                "size": bundle.size,
                "barred": barred,
                "floor": floors.current(conn),
                "trial": rules.trial,
                "shadow": rules.shadow,
                "fetch_seconds": rules.fetch_seconds,
                "issued_at": now,
            }
        )
        store.issue(conn, each.device_id, each.sequence, key.sign(order).model_dump(mode="json"), now)


def insert(conn: Connection, bundle: BundleRow, mode: str, parts: list[list[str]], reason: str) -> str:
    rollout_id = f"{bundle.name}-{bundle.version}-{mode}-{secrets.token_hex(3)}"
    store.insert(
        conn,
        rollout_id,
        sha256=bundle.sha256,
        mode=mode,
        n_waves=len(parts),
        started_at=datetime.now(UTC),
        reason=reason,
    )
    for number, devices in enumerate(parts, start=1):
        for device in devices:
            store.plan(conn, rollout_id, device, number, bundle.sha256, mode)
    return rollout_id


def _way_back(row: BundleRow, floor: int) -> bool:
    return row.state != "barred" and row.approved_by is not None and row.version >= floor


def _must_be(row: RolloutRow, *states: str) -> None:
    if row.state not in states:
        raise Refused(f"rollout {row.rollout_id} is {row.state}")


def _decided(conn: Connection, row: RolloutRow, outcome: str, reason: str) -> None:
    inputs: dict[str, Any] = {"rollout": row.rollout_id, "wave": row.wave, "mode": row.mode}
    subject = f"{row.name} {row.version}"
    decisions.record(conn, kind="rollout", subject=subject, outcome=outcome, reason=reason, inputs=inputs)


def _title(row: BundleRow) -> str:
    return f"{row.name} {row.version}"


def _minute(row: DeviceRow) -> int:
    return int(row.last_seen.timestamp() // 60)
