"""A technician's word, taken on the device, with or without a network; and the last alarms, to say it of.

Both live in the outbox's file, so that an annotation and the record that it was taken are one step.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

from edge_agent.outbox import Outbox
from models.contract.base import Stream
from models.contract.codec import dump
from models.contract.commands import FormNews
from models.contract.events import AlarmEvent
from models.contract.messages import Annotation, Body
from models.contract.people import Feedback

KEEP = 500  # alarms

_SCHEMA = """
CREATE TABLE IF NOT EXISTS said (
    annotation_id TEXT PRIMARY KEY, digest TEXT NOT NULL, seq INTEGER, body TEXT
);
CREATE TABLE IF NOT EXISTS done (feedback_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS news (one INTEGER PRIMARY KEY CHECK (one = 1), body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS episode (
    event_id TEXT PRIMARY KEY, opened_at TEXT NOT NULL, cleared_at TEXT, score REAL NOT NULL, body TEXT NOT NULL
);
"""

Write = Callable[[Sequence[Body], Callable[[sqlite3.Connection], object] | None], object]
Taken = Literal["new", "again", "conflict"]


class Said(NamedTuple):
    """An annotation that was taken here."""

    annotation: Annotation
    stored: bool  # the server's receipt for it came


class Episode(NamedTuple):
    """An alarm as it is known here."""

    event: AlarmEvent  # its newest phase that was not the end
    score: float  # the highest
    cleared_at: datetime | None  # end of the window with which it ended; None: it is open

    @property
    def open(self) -> bool:
        return self.cleared_at is None

    @property
    def end(self) -> datetime:
        """As far as it is known to have gone on."""
        return max(self.cleared_at or self.event.window_end, self.event.opened_at)


class Journal:
    """What was alarmed and what was said about it, on this device."""

    def __init__(self, outbox: Outbox, write: Write | None = None) -> None:
        """`write`: instead of the outbox's own `put`, for those who must not wait for the disk."""
        self._outbox, self._write = outbox, write or outbox.put
        self._db = sqlite3.connect(outbox.path, timeout=30, isolation_level=None, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        there = {name for _, name, *_ in self._db.execute("PRAGMA table_info(said)")}
        for column in {"seq INTEGER", "body TEXT"}:  # a file of version 0.1 has neither
            if column.split()[0] not in there:
                self._db.execute(f"ALTER TABLE said ADD COLUMN {column}")

    def close(self) -> None:
        self._db.close()

    def put(self, bodies: Sequence[Body], within: Callable[[sqlite3.Connection], object] | None = None) -> None:
        """Into the outbox, and alarms into the journal with it; and what else belongs into that transaction."""
        alarms = [body for body in bodies if isinstance(body, AlarmEvent)]

        def note(db: sqlite3.Connection) -> None:
            _note(db, alarms)
            if within:
                within(db)

        self._write(bodies, note if alarms or within else None)

    def take(self, annotation: Annotation, also: Callable[[sqlite3.Connection], object] | None = None) -> Taken:
        """Confirm an annotation once: the same again is no second one, and the same id with other words is refused.
        `also` is done in the same transaction, the first time."""
        digest = annotation.digest()
        key = str(annotation.annotation_id)

        def remember(db: sqlite3.Connection) -> None:
            known = db.execute("SELECT digest FROM said WHERE annotation_id = ?", (key,)).fetchone()
            if known:
                raise _Known(known[0] == digest)
            (last,) = db.execute("SELECT produced FROM sequence WHERE stream = ?", (Stream.ANNOTATION,)).fetchone()
            db.execute(
                "INSERT INTO said (annotation_id, digest, seq, body) VALUES (?, ?, ?, ?)",
                (key, digest, last + 1, dump(annotation).decode()),
            )
            db.execute("UPDATE said SET body = NULL WHERE seq <= ?", (last + 1 - KEEP,))
            if also:
                also(db)

        try:
            self._outbox.put([annotation], within=remember)
        except _Known as known:
            return "again" if known.same else "conflict"
        return "new"

    def take_feedback(self, said: Feedback) -> bool:
        """Confirm what somebody did, once. False: it was taken before."""

        def remember(db: sqlite3.Connection) -> None:
            if db.execute("SELECT 1 FROM done WHERE feedback_id = ?", (str(said.feedback_id),)).fetchone():
                raise _Known(True)
            db.execute(
                "INSERT INTO done (feedback_id, body) VALUES (?, ?)", (str(said.feedback_id), dump(said).decode())
            )
            db.execute("DELETE FROM done WHERE rowid <= (SELECT max(rowid) FROM done) - ?", (KEEP,))

        try:
            self._outbox.put([said], within=remember)
        except _Known:
            return False
        return True

    def did(self) -> list[Feedback]:
        """What somebody did here, the newest first."""
        rows = self._db.execute("SELECT body FROM done ORDER BY rowid DESC").fetchall()
        return [Feedback.model_validate_json(body) for (body,) in rows]

    @staticmethod
    def note_news(news: FormNews, db: sqlite3.Connection) -> None:
        """What the server tells the form, in the transaction of its command."""
        db.execute("INSERT OR REPLACE INTO news (one, body) VALUES (1, ?)", (dump(news).decode(),))

    def news(self) -> FormNews:
        """What the server said last."""
        row = self._db.execute("SELECT body FROM news").fetchone()
        return FormNews.model_validate_json(row[0]) if row else FormNews()

    def is_stored(self, annotation_id: UUID) -> bool | None:
        """Whether the server's receipt for it came. None: it was not taken here."""
        row = self._db.execute("SELECT seq FROM said WHERE annotation_id = ?", (str(annotation_id),)).fetchone()
        if row is None:
            return None
        return row[0] is not None and self._outbox.confirmed(Stream.ANNOTATION, row[0])

    def author(self, annotation_id: UUID) -> str | None:
        """Who wrote it; None: not known here any more."""
        row = self._db.execute(
            "SELECT body ->> 'annotator' FROM said WHERE annotation_id = ?", (str(annotation_id),)
        ).fetchone()
        return row[0] if row else None

    def said(self, limit: int = 50, annotator: str | None = None) -> list[Said]:
        """What was taken here, or of it what this person said; the newest first."""
        rows = self._db.execute(
            "SELECT body, seq FROM said WHERE body IS NOT NULL AND (?1 IS NULL OR body ->> 'annotator' = ?1)"
            " ORDER BY seq DESC LIMIT ?2",
            (annotator, limit),
        ).fetchall()
        return [
            Said(Annotation.model_validate_json(body), self._outbox.confirmed(Stream.ANNOTATION, seq))
            for body, seq in rows
        ]

    def episodes(self, limit: int = 50) -> list[Episode]:
        """The newest first."""
        rows = self._db.execute(
            "SELECT body, score, cleared_at FROM episode ORDER BY opened_at DESC LIMIT ?", (limit,)
        ).fetchall()
        return [_episode(*row) for row in rows]

    def episode(self, event_id: UUID) -> Episode | None:
        row = self._db.execute(
            "SELECT body, score, cleared_at FROM episode WHERE event_id = ?", (str(event_id),)
        ).fetchone()
        return _episode(*row) if row else None

    def annotated(self) -> int:
        """How many annotations were taken here."""
        return int(self._db.execute("SELECT count(*) FROM said").fetchone()[0])


def _episode(body: str, score: float, cleared: str | None) -> Episode:
    return Episode(AlarmEvent.model_validate_json(body), score, datetime.fromisoformat(cleared) if cleared else None)


class _Known(Exception):
    def __init__(self, same: bool) -> None:
        self.same = same


def _note(db: sqlite3.Connection, alarms: Sequence[AlarmEvent]) -> None:
    for alarm in alarms:
        cleared = alarm.window_end.isoformat() if alarm.phase == "cleared" else None
        db.execute(
            "INSERT INTO episode (event_id, opened_at, cleared_at, score, body) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (event_id) DO UPDATE SET"
            " cleared_at = excluded.cleared_at, score = max(score, excluded.score),"
            " body = CASE WHEN excluded.cleared_at IS NULL THEN excluded.body ELSE body END",
            (str(alarm.event_id), alarm.opened_at.isoformat(), cleared, alarm.score, dump(alarm).decode()),
        )
    db.execute(
        "DELETE FROM episode WHERE cleared_at IS NOT NULL AND event_id NOT IN"
        " (SELECT event_id FROM episode ORDER BY opened_at DESC LIMIT ?)",
        (KEEP,),
    )
