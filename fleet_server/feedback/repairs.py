"""Did it help? Once enough windows were scored after maintenance, their share of alarms is held against that of as many
before it. Feedback that nobody had to give: stored as automated, never a label by itself."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import NAMESPACE_OID, uuid5

from fleet_server.store import feedback, maintenance
from fleet_server.store.pool import Connection
from models.contract.ids import new_trace_id
from models.contract.labels import Provenance
from models.contract.people import Feedback

WINDOWS: Final = 20  # on either side
ILL: Final = 0.25  # at least this share of alarms before, or there was nothing to mend
HELPED: Final = 0.25  # of the share before, at most
SINCE: Final = timedelta(days=30)


def look(conn: Connection, now: datetime) -> int:
    """Judge every repair that can be judged now; how many those were."""
    found = maintenance.repairs(conn, since=now - SINCE, until=now, windows=WINDOWS, ill=ILL)
    for repair in found:
        helped = repair.after <= HELPED * repair.before
        said = Feedback(
            trace_id=new_trace_id(),
            made_at=now,
            feedback_id=uuid5(NAMESPACE_OID, f"repair {repair.maintenance_id}"),
            signal="repair_helped" if helped else "repair_did_not_help",
            asset=repair.asset_id,
            event_id=repair.event_id,
            value=repair.after - repair.before,
            detail=f"alarms in {repair.before:.0%} of {WINDOWS} windows before, in {repair.after:.0%} after",
            about=repair.maintenance_id,
            provenance=Provenance.AUTOMATED,
        )
        feedback.insert(conn, said, via="server", received_at=now)
    return len(found)
