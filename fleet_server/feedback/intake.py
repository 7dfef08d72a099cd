"""An annotation from anywhere: kept once, checked, and counted into its subject's label. All in the caller's
transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import NAMESPACE_OID, UUID, uuid5

from fleet_server.errors import Refused
from fleet_server.feedback.consensus import Consensus, decide
from fleet_server.feedback.validation import NOT_MEASURED, Facts, Status, judge
from fleet_server.store import annotations as spoken
from fleet_server.store import decisions, devices, events, labels, telemetry
from fleet_server.store.annotations import AnnotationRow
from fleet_server.store.labels import LabelRow
from fleet_server.store.pool import Connection
from models.contract.labels import Verdict
from models.contract.messages import Annotation


def receive(conn: Connection, said: Annotation, *, via: str, received_at: datetime) -> bool:
    """Keep an annotation and decide about its subject. False: it was here already, word for word.

    Raises:
        Refused: this id stands for other words.
    """
    digest = said.digest()
    spoken.lock_subject(conn, said.event_id or said.annotation_id)
    if not spoken.insert(conn, said, via=via, received_at=received_at, digest=digest):
        there = spoken.get(conn, said.annotation_id)
        if there is None or there.digest != digest:
            raise Refused(f"annotation {said.annotation_id} is here already, with other words")
        return False
    reconsider(conn, said.event_id or said.annotation_id, received_at)
    if said.supersedes is not None:
        earlier = spoken.get(conn, said.supersedes)
        if earlier is not None and (earlier.event_id or earlier.annotation_id) != (said.event_id or said.annotation_id):
            reconsider(conn, earlier.event_id or earlier.annotation_id, received_at)
    return True


def reconsider(conn: Connection, subject_id: UUID, at: datetime) -> None:
    """Judge everything that was said of one subject again, as if it had just come, and its label with it."""
    spoken.lock_subject(conn, subject_id)
    rows = spoken.of_subject(conn, subject_id)
    if not rows:
        return
    event = events.get(conn, subject_id)
    first = rows[0]
    facts = Facts(
        event.asset_id if event else None,
        devices.asset_exists(conn, first.asset_id),
        # An alarm is proof enough of a machine that ran.
        first.event_id is not None or telemetry.was_measured(conn, first.asset_id, first.start_at, first.end_at),
    )
    if first.event_id is None:  # a free stretch of time: its subject is itself, but people say things twice there too
        rows = spoken.same_stretch(conn, first.asset_id, first.annotator, first.start_at, first.end_at)
    outcomes = judge(rows, facts)
    for row in rows:
        outcome = outcomes[row.annotation_id]
        if (row.status, row.reason) != (outcome.status, outcome.reason):
            spoken.set_status(conn, row.annotation_id, outcome.status.value, outcome.reason)
            inputs = {"annotator": row.annotator, "asset": row.asset_id, "verdict": row.verdict, "fault": row.fault}
            reason = outcome.reason or "no rule speaks against it"
            decisions.record(conn, "validation", str(row.annotation_id), outcome.status.value, reason, inputs)
    valid = [row for row in rows if outcomes[row.annotation_id].status is Status.ACCEPTED and row.learn]
    if rows[0].event_id is not None:
        _label(conn, subject_id, rows, valid, event, at)
    else:
        for row in rows:
            _label(conn, row.annotation_id, [row], [each for each in valid if each is row], None, at)


def measured_since(conn: Connection, at: datetime) -> int:
    """Judge again what was held because nothing was measured, where windows have come late; how many."""
    late = spoken.held_but_measured(conn, NOT_MEASURED)
    for subject_id in late:
        reconsider(conn, subject_id, at)
    return len(late)


def _label(
    conn: Connection,
    subject_id: UUID,
    rows: Sequence[AnnotationRow],
    valid: Sequence[AnnotationRow],
    event: events.EventRow | None,
    at: datetime,
) -> None:
    before = labels.get(conn, subject_id)
    found = decide(valid)
    if found is None:
        if before is None:
            return  # nothing to say, and nothing was said before
        found = Consensus(
            before.verdict, before.fault, 0.0, before.provenance, Status.HELD, "no valid annotation is left", ()
        )
    last = rows[-1]
    row = LabelRow(
        label_id=uuid5(NAMESPACE_OID, f"label {subject_id}"),
        subject_id=subject_id,
        event_id=event.event_id if event else None,
        trace_id=event.trace_id if event else last.trace_id,
        asset_id=event.asset_id if event else last.asset_id,
        start_at=event.opened_at if event else last.start_at,
        end_at=(event.cleared_at or event.updated_at) if event else last.end_at,
        verdict=found.verdict,
        fault=found.fault if found.verdict == Verdict.FAULT else None,
        weight=found.weight,
        provenance=found.provenance,
        annotations=list(found.annotations),
        status=found.status.value,
        reason=found.reason,
        decided_at=at,
    )
    labels.put(conn, row)
    if before is None or _decision(before) != _decision(row):
        inputs = {
            "annotations": [str(each) for each in row.annotations],
            "weight": row.weight,
            "subject": str(subject_id),
        }
        reason = f"{row.verdict}{' ' + row.fault if row.fault else ''}: {row.reason}"
        decisions.record(conn, "consensus", str(row.label_id), row.status, reason, inputs)


def _decision(row: LabelRow) -> tuple[object, ...]:
    return row.verdict, row.fault, row.weight, row.status
