"""The whole system as processes, and each of them killed: broker, database, server, agents."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from simulators.demo import Demo
from simulators.outage import Outages
from tests.support import eventually

STRIKES = 8


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """Database, broker, server, five pumps, five agents and technicians, without the demo's story."""
    demo = Demo(tmp_path / "demo", seed=7)
    try:
        demo.start()
        yield demo
    finally:
        demo.stop()


@pytest.mark.timeout(300)
def test_killing_any_process_at_any_moment_loses_no_record_and_doubles_none(demo: Demo) -> None:
    demo.until("alarms and labels", lambda: demo.get("/api/summary")["labels"].get("accepted", 0) > 2)
    agents_and_server = [p for p in demo.processes if p.name.startswith(("agent", "server"))]
    outages = Outages([*agents_and_server, demo.broker, demo.postgres], seed=7)
    for _ in range(STRIKES):
        victim = outages.strike()
        time.sleep(outages.pause(1.5))  # the outage itself: how long it is down
        victim.start()
        time.sleep(outages.pause(1.5))
    before = demo.until("the server to answer", lambda: demo.get("/api/summary")["windows"])
    demo.until("scoring to go on", lambda: demo.get("/api/summary")["windows"] > before + 20)
    for process in demo.processes:  # nothing new is produced, so the account must come to rest
        if process.name in ("plant", "technicians"):
            process.stop()
    ledger = eventually(lambda: closed_and_delivered(demo), timeout=60, message="the ledger does not close")
    print(f"ledger after {STRIKES} kills: {ledger['totals']}")
    with psycopg.connect(demo.postgres.dsn) as conn:
        doubles = conn.execute(
            "SELECT trace_id, model_sha256 FROM prediction GROUP BY 1, 2 HAVING count(*) > 1"
        ).fetchall()
    assert doubles == []
    assert ledger["totals"]["quarantined"] == 0


def closed_and_delivered(demo: Demo) -> dict[str, dict[str, int]] | None:
    """The ledger, once it is closed and every alarm and annotation is with the server."""
    ledger = demo.get("/api/ledger")
    waiting = Counter({s["stream"]: s["waiting"] for s in ledger["streams"] if s["stream"] in ("alarm", "annotation")})
    return ledger if ledger["closed"] and not waiting.total() else None
