"""Every bundle ever made: registered once, never changed, approved by people, barred when it does harm."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from fleet_server.errors import NotFound, Refused
from fleet_server.store import bundles, decisions
from fleet_server.store.bundles import BundleRow
from fleet_server.store.pool import Connection
from models import baseline
from models.bundle import graph
from models.bundle.files import BadBundle, Bundle, unpack
from models.bundle.signing import NotTrusted, PublicKeys
from models.contract.messages import Approval, Signed

log = logging.getLogger(__name__)


def register(
    conn: Connection,
    bundle: Bundle,
    *,
    state: str,
    run_id: str | None = None,
    dataset: str | None = None,
    gate: dict[str, Any] | None = None,
) -> BundleRow:
    """Keep a bundle for ever. The same bytes again change nothing.

    Raises:
        Refused: this name and version stand for other bytes.
    """
    manifest = bundle.manifest
    row = BundleRow(
        name=manifest.name,
        version=manifest.version,
        sha256=bundle.sha256,
        size=len(bundle.data),
        manifest=manifest.model_dump(mode="json"),
        made_at=datetime.now(UTC),
        run_id=run_id,
        dataset=dataset,
        state=state,
        gate=gate,
        approved_by=None,
        approved_at=None,
    )
    if bundles.insert(conn, row, bundle.data):
        return row
    there = bundles.get(conn, manifest.name, manifest.version)
    if there is None or there.sha256 != bundle.sha256:
        raise Refused(f"{manifest.name} version {manifest.version} is registered with other bytes already")
    return there


def register_shipped(conn: Connection) -> BundleRow:
    """The baseline that every agent starts with, and the approval it came with. At each start of the server.

    A newer package with other bytes under the same version does not stop the server: the one registered stays the way
    back, for that is what devices in the field have on disk.
    """
    bundle, approval = baseline.shipped()
    try:
        there = bundles.by_sha256(conn, bundle.sha256) or register(conn, bundle, state="shipped")
    except Refused as exc:
        log.error("shipped baseline not registered", extra={"reason": str(exc)})
        return find(conn, bundle.manifest.version, bundle.manifest.name)
    opened = baseline.keys().open(Approval, approval)
    _must_name(opened, there)
    if there.approved_by is None:
        bundles.approve(conn, there.sha256, opened.approved_by, opened.approved_at, approval.model_dump(mode="json"))
    return there


def import_file(conn: Connection, data: bytes) -> BundleRow:
    """A bundle made elsewhere. No gate here has seen it, and it says so.

    Raises:
        Refused: not a bundle, a graph that no device takes, or its version is taken.
    """
    try:
        bundle = unpack(data)
        graph.check(bundle)
    except BadBundle as exc:
        raise Refused(str(exc)) from exc
    row = register(conn, bundle, state="candidate")
    decisions.record(
        conn,
        kind="gate",
        subject=_title(row),
        outcome="imported",
        reason="made elsewhere: no gate has judged it",
        inputs={"sha256": row.sha256, "size": row.size},
    )
    return row


def find(conn: Connection, version: int, name: str | None = None) -> BundleRow:
    """A bundle by version; by name too where several lines have that version.

    Raises:
        NotFound: also if the version alone does not say which.
    """
    found = [row for row in bundles.listing(conn) if row.version == version and name in (None, row.name)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"there is no {name or 'bundle of'} version {version}")
    raise NotFound(f"version {version} is not enough, say --model {' or '.join(row.name for row in found)}")


def current(conn: Connection) -> BundleRow | None:
    """The bundle that most devices run, which a candidate has to beat. The shipped one while nobody says anything."""
    if sha256 := bundles.most_run(conn):
        return bundles.by_sha256(conn, sha256)
    return next((row for row in bundles.listing(conn) if row.state == "shipped"), None)


def passed_gate(row: BundleRow) -> bool:
    return row.state == "shipped" or (row.gate is not None and row.gate.get("verdict") == "pass")


def document(row: BundleRow, by: str, reason: str) -> Approval:
    """What an approver signs."""
    return Approval.model_validate(
        {
            "model": {"name": row.name, "version": row.version, "sha256": row.sha256},
            "size": row.size,
            "feature_set": row.manifest["feature_set"],
            "approved_by": by,
            "approved_at": datetime.now(UTC),
            "reason": reason,
        }
    )


def approve(conn: Connection, signed: Signed, keys: PublicKeys, *, despite_gate: str | None = None) -> Approval:
    """Store an approval, once it holds. Who signed and why is on record either way.

    Raises:
        Refused: the signatures, what was signed, a barred bundle, or a gate that has not passed.
        NotFound: it names a bundle that is not here.
    """
    try:
        approval = keys.open(Approval, signed)
    except NotTrusted as exc:
        raise Refused(f"approval not accepted: {exc}") from exc
    row = bundles.by_sha256(conn, approval.model.sha256)
    if row is None:
        raise NotFound(f"the approval names {approval.model.name} version {approval.model.version}, which is not here")
    _must_name(approval, row)
    if row.state == "barred":
        raise Refused(f"{_title(row)} is barred: it did harm")
    if not passed_gate(row) and not despite_gate:
        raise Refused(f"{_title(row)} has not passed its gate ({_gate_words(row)}); --despite-gate REASON overrules it")
    bundles.approve(conn, row.sha256, approval.approved_by, approval.approved_at, signed.model_dump(mode="json"))
    if row.state != "shipped":
        bundles.set_state(conn, row.sha256, "approved")
    decisions.record(
        conn,
        kind="approval",
        subject=_title(row),
        outcome="approved despite the gate" if despite_gate else "approved",
        reason=despite_gate or approval.reason or "gate passed",
        inputs={"sha256": row.sha256, "approved_by": approval.approved_by, "gate": _gate_words(row)},
    )
    return approval


def bar(conn: Connection, row: BundleRow, reason: str) -> None:
    """Never to run again, anywhere. Orders carry it to devices. The shipped one is the last way back and stays.

    Raises:
        Refused: it is the shipped one.
    """
    if row.state == "shipped":
        raise Refused("the shipped baseline cannot be barred: it is the last way back")
    if row.state == "barred":
        return
    bundles.set_state(conn, row.sha256, "barred")
    decisions.record(
        conn, kind="rollback", subject=_title(row), outcome="barred", reason=reason, inputs={"sha256": row.sha256}
    )


def _must_name(approval: Approval, row: BundleRow) -> None:
    """The hash alone would do; an approval that says something else of the same bytes is not what a person meant."""
    said = (approval.model.name, approval.model.version, approval.model.sha256, approval.size, approval.feature_set)
    if said != (row.name, row.version, row.sha256, row.size, row.manifest["feature_set"]):
        raise Refused(f"the approval does not describe {_title(row)} as it is registered")


def _title(row: BundleRow) -> str:
    return f"{row.name} {row.version}"


def _gate_words(row: BundleRow) -> str:
    if row.gate is None:
        return "no gate has judged it"
    return f"{row.gate.get('verdict', '?')}: {row.gate.get('summary', '')}"
