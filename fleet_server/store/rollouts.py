"""Rollouts, the orders they give to devices, and every step that devices took."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import Connection
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from models.contract.messages import RolloutStatus, Step

# A step later in this order is the later one, whatever the device's clock says.
RANK: Final = (
    Step.OFFERED,
    Step.FETCHING,
    Step.CHECKING,
    Step.SHADOW,
    Step.TRIAL,
    Step.ACTIVE,
    Step.SHADOWED,
    Step.REJECTED,
    Step.ROLLED_BACK,
    Step.INCONSISTENT,
)


@dataclass(frozen=True)
class RolloutRow:
    """`state` is running, paused, done or stopped; `wave` is the one that runs, from 1."""

    rollout_id: str
    sha256: str
    name: str
    version: int
    mode: str
    state: str
    wave: int
    n_waves: int
    started_at: datetime
    wave_done_at: datetime | None
    ended_at: datetime | None
    reason: str


@dataclass(frozen=True)
class AssignmentRow:
    """One order to one device. `superseded`: a newer one was given to it. `running`: it says that it runs this bundle,
    verified, on this order. `evidence` and `report` are the numbers that it gave with its last word."""

    device_id: str
    sequence: int
    rollout_id: str
    wave: int
    sha256: str
    mode: str
    issued_at: datetime | None
    published: bool
    step: str | None
    step_at: datetime | None
    reason: str
    cause: str | None
    superseded: bool
    running: bool
    evidence: dict[str, Any] | None = None
    report: dict[str, Any] | None = None


@dataclass(frozen=True)
class OfferRow:
    """What the retained offer of a device is made of."""

    device_id: str
    sequence: int
    sha256: str
    assignment: dict[str, Any]
    approval: dict[str, Any]


@dataclass(frozen=True)
class DeviceRow:
    """What a rollout wants to know of a device; `heartbeat` is whole."""

    device_id: str
    last_seen: datetime
    model_version: int | None
    model_sha256: str | None
    ordered_sha256: str | None
    heartbeat: dict[str, Any] | None


def insert(
    conn: Connection[Any],
    rollout_id: str,
    *,
    sha256: str,
    mode: str,
    n_waves: int,
    started_at: datetime,
    reason: str,
) -> None:
    conn.execute(
        """
        INSERT INTO rollout (rollout_id, sha256, mode, state, wave, n_waves, started_at, reason)
        VALUES (%s, %s, %s, 'running', 1, %s, %s, %s)
        """,
        (rollout_id, sha256, mode, n_waves, started_at, reason),
    )


def plan(conn: Connection[Any], rollout_id: str, device_id: str, wave: int, sha256: str, mode: str) -> None:
    """Put a device in a wave, with a sequence over every one it was ever given, or says it has seen: a database that
    was restored from a backup must not count from an old number."""
    conn.execute(
        """
        INSERT INTO assignment (device_id, sequence, rollout_id, wave, sha256, mode)
        SELECT %(device)s, 1 + greatest(
            coalesce((SELECT max(sequence) FROM assignment WHERE device_id = %(device)s), 0),
            coalesce((SELECT assignment FROM device WHERE device_id = %(device)s), 0)
        ), %(rollout)s, %(wave)s, %(sha256)s, %(mode)s
        """,
        {"device": device_id, "rollout": rollout_id, "wave": wave, "sha256": sha256, "mode": mode},
    )


def get(conn: Connection[Any], rollout_id: str) -> RolloutRow | None:
    return (
        conn.cursor(row_factory=class_row(RolloutRow))
        .execute(
            """
            SELECT r.rollout_id, r.sha256, b.name, b.version, r.mode, r.state, r.wave, r.n_waves, r.started_at,
                   r.wave_done_at, r.ended_at, r.reason
            FROM rollout r JOIN bundle b USING (sha256) WHERE r.rollout_id = %s
            """,
            (rollout_id,),
        )
        .fetchone()
    )


def listing(conn: Connection[Any], limit: int = 100) -> list[RolloutRow]:
    """The newest first."""
    return (
        conn.cursor(row_factory=class_row(RolloutRow))
        .execute(
            """
            SELECT r.rollout_id, r.sha256, b.name, b.version, r.mode, r.state, r.wave, r.n_waves, r.started_at,
                   r.wave_done_at, r.ended_at, r.reason
            FROM rollout r JOIN bundle b USING (sha256) ORDER BY r.started_at DESC, r.rollout_id LIMIT %s
            """,
            (limit,),
        )
        .fetchall()
    )


def unfinished(conn: Connection[Any]) -> list[RolloutRow]:
    """Running or paused, the oldest first, locked until the transaction ends: two who advance one would both give
    orders."""
    return (
        conn.cursor(row_factory=class_row(RolloutRow))
        .execute(
            """
            SELECT r.rollout_id, r.sha256, b.name, b.version, r.mode, r.state, r.wave, r.n_waves, r.started_at,
                   r.wave_done_at, r.ended_at, r.reason
            FROM rollout r JOIN bundle b USING (sha256)
            WHERE r.state IN ('running', 'paused') ORDER BY r.started_at, r.rollout_id FOR UPDATE OF r
            """
        )
        .fetchall()
    )


def assignments(conn: Connection[Any], rollout_id: str) -> list[AssignmentRow]:
    """All devices of a rollout, by wave and name."""
    return (
        conn.cursor(row_factory=class_row(AssignmentRow))
        .execute(
            """
            SELECT a.device_id, a.sequence, a.rollout_id, a.wave, a.sha256, a.mode, a.issued_at, a.published, a.step,
                   a.step_at, a.reason, a.cause,
                   EXISTS (SELECT FROM assignment n WHERE n.device_id = a.device_id AND n.sequence > a.sequence
                           AND (n.envelope IS NOT NULL OR a.envelope IS NULL)) AS superseded,
                   coalesce(d.assignment = a.sequence AND d.step = 'active' AND d.model_sha256 = a.sha256, false)
                       AS running,
                   s.evidence, s.report
            FROM assignment a LEFT JOIN device d USING (device_id)
            LEFT JOIN LATERAL (
                SELECT evidence, report FROM rollout_step
                WHERE device_id = a.device_id AND assignment = a.sequence AND step = a.step ORDER BY at DESC LIMIT 1
            ) s ON true
            WHERE a.rollout_id = %s ORDER BY a.wave, a.device_id
            """,
            (rollout_id,),
        )
        .fetchall()
    )


def issue(conn: Connection[Any], device_id: str, sequence: int, envelope: dict[str, Any], at: datetime) -> None:
    """The order is signed now."""
    conn.execute(
        "UPDATE assignment SET envelope = %s, issued_at = %s WHERE device_id = %s AND sequence = %s",
        (Jsonb(envelope), at, device_id, sequence),
    )


def set_wave(conn: Connection[Any], rollout_id: str, wave: int) -> None:
    conn.execute("UPDATE rollout SET wave = %s, wave_done_at = NULL WHERE rollout_id = %s", (wave, rollout_id))


def set_wave_done(conn: Connection[Any], rollout_id: str, at: datetime) -> None:
    conn.execute("UPDATE rollout SET wave_done_at = %s WHERE rollout_id = %s", (at, rollout_id))


def set_state(conn: Connection[Any], rollout_id: str, state: str, reason: str) -> None:
    """Running or paused."""
    conn.execute(
        "UPDATE rollout SET state = %s, reason = %s WHERE rollout_id = %s AND ended_at IS NULL",
        (state, reason, rollout_id),
    )


def end(conn: Connection[Any], rollout_id: str, state: str, reason: str, at: datetime) -> None:
    """Done or stopped."""
    conn.execute(
        "UPDATE rollout SET state = %s, reason = %s, ended_at = %s WHERE rollout_id = %s AND ended_at IS NULL",
        (state, reason, at, rollout_id),
    )


def record_step(conn: Connection[Any], device_id: str, status: RolloutStatus, at: datetime) -> None:
    """Keep the step, and let the order it answers know. A device that says it is active but runs something else has not
    succeeded: its order goes on waiting, with that reason."""
    conn.execute(
        """
        WITH kept AS (
            INSERT INTO rollout_step (device_id, at, assignment, step, sha256, running_sha256, reason, report, evidence,
                                      trace_id)
            VALUES (%(device)s, %(at)s, %(assignment)s, %(step)s, %(sha256)s, %(running)s, %(reason)s, %(report)s,
                    %(evidence)s, %(trace)s)
            ON CONFLICT DO NOTHING
        )
        UPDATE assignment SET step = %(counted)s, step_at = %(at)s, reason = %(why)s, cause = %(cause)s
        WHERE device_id = %(device)s AND sequence = %(assignment)s AND sha256 = %(sha256)s
          AND coalesce(array_position(%(rank)s::text[], step), 0) <= array_position(%(rank)s::text[], %(counted)s)
        """,
        {
            "device": device_id,
            "at": at,
            "assignment": status.assignment,
            "step": status.step.value,
            "sha256": status.release.sha256,
            "running": status.running.sha256,
            "reason": status.reason,
            "report": None if status.report is None else Jsonb(status.report.model_dump(mode="json")),
            "evidence": None if status.evidence is None else Jsonb(status.evidence.model_dump(mode="json")),
            "cause": None if status.evidence is None else status.evidence.cause.value,
            "trace": status.trace_id,
            "rank": [step.value for step in RANK],
            **_counted(status),
        },
    )


def _counted(status: RolloutStatus) -> dict[str, str]:
    if status.step is Step.ACTIVE and status.running.sha256 != status.release.sha256:
        return {"counted": Step.TRIAL.value, "why": f"says active, but runs {status.running.sha256[:12]}"}
    return {"counted": status.step.value, "why": status.reason}


def offers(conn: Connection[Any], *, unpublished_only: bool) -> list[OfferRow]:
    """The newest signed order of each device, with the approval it needs."""
    return (
        conn.cursor(row_factory=class_row(OfferRow))
        .execute(
            """
            SELECT a.device_id, a.sequence, a.sha256, a.envelope AS assignment, p.envelope AS approval
            FROM (
                SELECT DISTINCT ON (device_id) device_id, sequence, sha256, envelope, published
                FROM assignment WHERE envelope IS NOT NULL ORDER BY device_id, sequence DESC
            ) a JOIN approval p USING (sha256)
            WHERE NOT (%s AND a.published) ORDER BY a.device_id
            """,
            (unpublished_only,),
        )
        .fetchall()
    )


def set_published(conn: Connection[Any], device_id: str, sequence: int) -> None:
    """This order, and those before it, which nobody needs any more."""
    conn.execute(
        "UPDATE assignment SET published = true WHERE device_id = %s AND sequence <= %s AND envelope IS NOT NULL",
        (device_id, sequence),
    )


def ordered(conn: Connection[Any], device_id: str) -> str | None:
    """The bundle of the device's newest signed order."""
    row = (
        conn.cursor(row_factory=dict_row)
        .execute(
            """
            SELECT sha256 FROM assignment WHERE device_id = %s AND envelope IS NOT NULL
            ORDER BY sequence DESC LIMIT 1
            """,
            (device_id,),
        )
        .fetchone()
    )
    return None if row is None else str(row["sha256"])


def fleet(conn: Connection[Any]) -> list[DeviceRow]:
    """All devices ever seen, with the bundle that each was ordered last."""
    return (
        conn.cursor(row_factory=class_row(DeviceRow))
        .execute(
            """
            SELECT d.device_id, d.last_seen, d.model_version, d.model_sha256, a.sha256 AS ordered_sha256, d.heartbeat
            FROM device d LEFT JOIN (
                SELECT DISTINCT ON (device_id) device_id, sha256 FROM assignment WHERE envelope IS NOT NULL
                ORDER BY device_id, sequence DESC
            ) a USING (device_id) ORDER BY d.device_id
            """
        )
        .fetchall()
    )


def last_good(conn: Connection[Any], bad: str, floor: int) -> dict[str, str]:
    """Device to the bundle it verified last before, other than the bad one, what is barred and what is below the
    floor."""
    rows = (
        conn.cursor(row_factory=dict_row)
        .execute(
            """
            SELECT DISTINCT ON (a.device_id) a.device_id, a.sha256
            FROM assignment a JOIN bundle b USING (sha256)
            WHERE a.step = 'active' AND a.sha256 <> %s AND b.state <> 'barred' AND b.version >= %s
            ORDER BY a.device_id, a.sequence DESC
            """,
            (bad, floor),
        )
        .fetchall()
    )
    return {row["device_id"]: row["sha256"] for row in rows}


def steps(conn: Connection[Any], limit: int = 500) -> list[dict[str, Any]]:
    """What devices said of their releases, the newest first."""
    return (
        conn.cursor(row_factory=dict_row)
        .execute(
            """
            SELECT device_id, at, assignment, step, sha256, running_sha256, reason, report, evidence, trace_id
            FROM rollout_step ORDER BY at DESC LIMIT %s
            """,
            (limit,),
        )
        .fetchall()
    )
