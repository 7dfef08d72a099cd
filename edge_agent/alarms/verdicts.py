"""What verdicts do on the device, inside the transaction that takes them. The rules:

1. "False alarm" about an alarm of this device suppresses its pattern on its asset, once a verdict, until it expires.
2. Not where the alarm would stop a machine, where its windows are not known any more, where somebody says that it is a
   fault, or where the asset has as many suppressions as it may have: the reason is kept and shown.
3. "Fault" about the alarm lifts what its pattern suppresses, as does taking the verdict back, by its author or by
   somebody on the device or on the server. A fault reported without an alarm lifts whatever suppressed windows then.
4. It ends after so many days, or after so many hours of suppressed windows: then the alarm asks again.
5. Ended is for ever; the same pattern once more is another suppression.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import NAMESPACE_OID, UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from edge_agent.config import Alarms
from models.contract.alarms import Suppression
from models.contract.events import AlarmEvent
from models.contract.ids import new_trace_id
from models.contract.labels import Provenance, Severity, Verdict
from models.contract.messages import Annotation

KEPT_SHAPES: Final = 500
KEPT_ENDED: Final = 200
KEPT_VERDICTS: Final = 5000
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS shape (
    event_id TEXT PRIMARY KEY, names TEXT NOT NULL, n INTEGER NOT NULL, vectors BLOB NOT NULL, kept INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS suppression (
    suppression_id TEXT PRIMARY KEY, asset TEXT NOT NULL, event_id TEXT NOT NULL, annotation_id TEXT NOT NULL,
    annotator TEXT NOT NULL, since TEXT NOT NULL, until TEXT NOT NULL, ended TEXT NOT NULL DEFAULT '',
    ended_by TEXT NOT NULL DEFAULT '', windows INTEGER NOT NULL DEFAULT 0, last_at REAL NOT NULL DEFAULT 0,
    drivers TEXT NOT NULL, names TEXT NOT NULL, n INTEGER NOT NULL, vectors BLOB NOT NULL, told TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS verdict (
    annotation_id TEXT PRIMARY KEY, event_id TEXT NOT NULL, annotator TEXT NOT NULL, verdict TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS not_suppressed (annotation_id TEXT PRIMARY KEY, reason TEXT NOT NULL);
"""


class Row(NamedTuple):
    """A suppression with the windows that it was made of, float32[n, n_features]."""

    said: Suppression
    last_at: float  # of the last suppressed window, epoch seconds of the samples
    names: tuple[str, ...]  # of the vectors' entries
    vectors: NDArray[np.float32]
    told: str  # what the server was told last

    @property
    def holds(self) -> bool:
        return not self.said.ended


def act_on(db: sqlite3.Connection, said: Annotation, rules: Alarms, now: datetime) -> str | None:
    """Do what a verdict asks for. Returns why a false alarm is not suppressed; None: it is, or there was none."""
    if said.event_id is not None:
        words = (str(said.annotation_id), str(said.event_id), said.annotator, said.verdict.value)
        db.execute(
            "INSERT OR IGNORE INTO verdict (annotation_id, event_id, annotator, verdict) VALUES (?, ?, ?, ?)", words
        )
        db.execute("DELETE FROM verdict WHERE rowid <= (SELECT max(rowid) FROM verdict) - ?", (KEPT_VERDICTS,))
    if said.supersedes is not None:
        _end(db, "contradicted", said.annotator, "annotation_id = ?", str(said.supersedes))
    if said.verdict is Verdict.FAULT and said.event_id is not None:
        _end(db, "contradicted", said.annotator, "event_id = ?", str(said.event_id))
    elif said.verdict is Verdict.FAULT:
        where = "asset = ? AND last_at >= ? AND since <= ?"
        until = said.end.astimezone(UTC).isoformat()
        _end(db, "contradicted", said.annotator, where, said.asset, said.start.timestamp(), until)
    if said.verdict is not Verdict.FALSE_ALARM or said.event_id is None or said.provenance is not Provenance.EXPLICIT:
        return None
    reason = _suppress(db, said, rules, now)
    if reason:
        db.execute(
            "INSERT OR REPLACE INTO not_suppressed (annotation_id, reason) VALUES (?, ?)",
            (str(said.annotation_id), reason),
        )
    return reason


def _suppress(db: sqlite3.Connection, said: Annotation, rules: Alarms, now: datetime) -> str | None:
    key = str(said.event_id)
    row = db.execute("SELECT body FROM episode WHERE event_id = ?", (key,)).fetchone()
    if row is None:
        return "this device knows no such alarm"
    event = AlarmEvent.model_validate_json(row[0])
    if event.family == "sensor" and event.sensors:
        return "it is a sensor's: start and end maintenance, and what its values are then is usual"
    shape = db.execute("SELECT names, n, vectors FROM shape WHERE event_id = ?", (key,)).fetchone()
    if shape is None:
        return "the alarm's windows are not kept any more"
    if event.severity is Severity.STOP:
        return "the alarm's severity is stop: such a one is never kept quiet"
    if _called_a_fault(db, key):
        return "somebody says that it is a fault"
    held = db.execute("SELECT count(*) FROM suppression WHERE asset = ? AND ended = ''", (event.asset,)).fetchone()[0]
    again = db.execute("SELECT 1 FROM suppression WHERE event_id = ? AND ended = ''", (key,)).fetchone()
    if again:
        return None  # a second person says the same
    if held >= rules.suppressions:
        return f"{held} patterns are suppressed on {event.asset} already; lift one"
    db.execute(
        "INSERT OR IGNORE INTO suppression (suppression_id, asset, event_id, annotation_id, annotator, since, until,"
        " drivers, names, n, vectors) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            str(suppression_id(said.annotation_id)),
            event.asset,
            key,
            str(said.annotation_id),
            said.annotator,
            now.isoformat(),
            (now + timedelta(days=rules.suppress_days)).isoformat(),
            "\n".join(driver.feature for driver in event.drivers),
            *shape,
        ),
    )
    return None


def suppression_id(annotation_id: UUID) -> UUID:
    """One verdict makes one suppression, wherever it is heard first."""
    return uuid5(NAMESPACE_OID, f"suppression {annotation_id}")


def lift(db: sqlite3.Connection, suppression: UUID, by: str) -> bool:
    """End one. False: there is none that holds."""
    return _end(db, "lifted", by, "suppression_id = ?", str(suppression)) == 1


def age(db: sqlite3.Connection, now: datetime, max_windows: dict[str, float]) -> int:
    """End what has lasted long enough; `max_windows` of each asset. Returns how many those were."""
    n = _end(db, "expired", "", "until <= ?", now.isoformat())
    for asset, limit in max_windows.items():
        n += _end(db, "capped", "", "asset = ? AND windows >= ?", asset, limit)
    db.execute(
        "DELETE FROM suppression WHERE ended != '' AND told != '' AND suppression_id NOT IN"
        " (SELECT suppression_id FROM suppression ORDER BY since DESC LIMIT ?)",
        (KEPT_ENDED,),
    )
    return n


def keep_shape(
    db: sqlite3.Connection, names: Sequence[str], event_id: UUID, vectors: NDArray[np.float32], kept: int
) -> None:
    """The windows of an alarm, for a verdict to come. `names`: of their entries; `kept` rises, and tells the oldest."""
    db.execute(
        "INSERT OR REPLACE INTO shape (event_id, names, n, vectors, kept) VALUES (?, ?, ?, ?, ?)",
        (str(event_id), "\n".join(names), len(vectors), vectors.tobytes(), kept),
    )
    db.execute(
        "DELETE FROM shape WHERE event_id NOT IN (SELECT event_id FROM shape ORDER BY kept DESC LIMIT ?)",
        (KEPT_SHAPES,),
    )


def rows(db: sqlite3.Connection) -> list[Row]:
    """All that are kept, the newest first."""
    found = db.execute(
        "SELECT suppression_id, asset, event_id, annotation_id, annotator, since, until, ended, ended_by, windows,"
        " drivers, last_at, names, n, vectors, told FROM suppression ORDER BY since DESC"
    ).fetchall()
    return [_row(*each) for each in found]


def _row(*columns: Any) -> Row:
    keys = ("suppression_id", "asset", "event_id", "annotation_id", "annotator", "since", "until", "ended")
    *first, ended_by, windows, drivers, last_at, entries, n, vectors, told = columns
    said = Suppression.model_validate(
        dict(zip(keys, first, strict=True))
        | {"trace_id": new_trace_id(), "made_at": first[5], "ended_by": ended_by, "windows": windows}
        | {"drivers": tuple(filter(None, drivers.split("\n")))}
    )
    return Row(said, last_at, tuple(entries.split("\n")), np.frombuffer(vectors, np.float32).reshape(n, -1), told)


def _called_a_fault(db: sqlite3.Connection, event_id: str) -> bool:
    """By the last word of anybody."""
    votes = db.execute(
        "SELECT annotator, verdict FROM verdict WHERE event_id = ? ORDER BY rowid", (event_id,)
    ).fetchall()
    return Verdict.FAULT in dict(votes).values()


def _end(db: sqlite3.Connection, how: str, by: str, where: str, *values: object) -> int:
    return db.execute(
        f"UPDATE suppression SET ended = ?, ended_by = ? WHERE ended = '' AND {where}",  # noqa: S608 - where is ours
        (how, by, *values),
    ).rowcount
