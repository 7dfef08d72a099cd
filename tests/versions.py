"""The state folder as a newer version of the agent may leave it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_agent import state
from edge_agent.bundles import Memory
from edge_agent.outbox.place import BITS


def tomorrow(state_dir: Path) -> None:
    """What a newer agent may leave: a column in every table, tables, streams, fields and files of its own."""
    for path in state_dir.glob("*.db"):
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                db.execute(f"ALTER TABLE \"{name}\" ADD COLUMN tomorrow TEXT NOT NULL DEFAULT 'x'")
            db.execute("CREATE TABLE tomorrow (id TEXT PRIMARY KEY)")
            db.execute("INSERT INTO tomorrow VALUES ('kept')")
    with closing(sqlite3.connect(state_dir / "outbox.db", isolation_level=None)) as db:
        db.execute("INSERT INTO sequence (stream, produced, bytes) VALUES ('tomorrow', 2, 200)")
        db.execute("INSERT INTO record (place, created, crc, body) VALUES (?, 0, 0, x'00')", (63 << BITS | 2,))
        db.execute("INSERT INTO evicted (stream, cause, first, last) VALUES ('tomorrow', 'room', 1, 1)")
        db.execute("INSERT INTO aside (stream, seq, cause, body) VALUES ('tomorrow', 1, 'room', x'00')")
        gone = json.dumps({"tomorrow": {"produced": 1, "evicted": {}}, "alarm": {"produced": 0, "evicted": {}}})
        db.execute("INSERT INTO ended (epoch, cause, counts) VALUES (?, 'test', ?)", ("0" * 32, gone))
        db.execute("INSERT INTO meta (key, value) VALUES ('tomorrow', 'kept')")
    for path in state_dir.glob("*.json"):
        found: dict[str, Any] = json.loads(path.read_text())
        path.write_text(json.dumps(found | {"tomorrow": 1}))
    with closing(Memory(state_dir)) as memory:
        memory.set(tomorrow="kept", last=(memory.get("last") or {}) | {"tomorrow": 1})
    (state_dir / "tomorrow").mkdir()
    stamp = state.read(state_dir)
    assert stamp
    newer = stamp._replace(format=state.FORMAT + 1, agent="99.0.0")
    (state_dir / state.NAME).write_text(json.dumps(newer._asdict() | {"tomorrow": 1}))
