"""What proves that nothing was lost, and where everything came from: ledger, quarantine, decisions, traces, health."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response

from fleet_server.store import counters, decisions, ledger, quarantine
from fleet_server.store.pool import is_there
from fleet_server.store.trace import trace
from fleet_server.web.deps import Limit, PoolOf, SiteOf

router = APIRouter()
health = APIRouter()


@router.get("/ledger")
def show_ledger(pool: PoolOf, device: str | None = None) -> dict[str, Any]:
    """produced = stored + waiting + quarantined + evicted, by device, epoch and stream."""
    with pool.connection() as conn:
        return ledger.statement(ledger.account(conn, device))


@router.get("/quarantine")
def list_quarantine(pool: PoolOf, limit: Limit = 100) -> dict[str, Any]:
    """What could not be read or believed, and why. `rotated` had to go for newer ones."""
    with pool.connection() as conn:
        return {
            "quarantine": quarantine.listing(conn, limit),
            "count": quarantine.count(conn),
            "rotated": counters.read(conn).get("quarantine_rotated", 0),
        }


@router.get("/decisions")
def list_decisions(pool: PoolOf, kind: str | None = None, limit: Limit = 100) -> dict[str, Any]:
    """Every decision, yes and no; the newest first."""
    with pool.connection() as conn:
        return {"decisions": decisions.listing(conn, kind, limit)}


@router.get("/trace/{text:path}")
def show_trace(text: str, pool: PoolOf) -> dict[str, Any]:
    """What this was made from, and what it led to."""
    with pool.connection() as conn:
        return {"id": text, "found": [asdict(node) for node in trace(conn, text)]}


@health.get("/live")
def live() -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@health.get("/ready")
def ready(site: SiteOf, response: Response) -> dict[str, Any]:
    """Broker and database answer, too."""
    found = {"broker": site.broker_connected(), "database": True}
    try:
        with site.pool.connection(timeout=2) as conn:
            is_there(conn)
    except Exception:  # whatever it is, the answer is no
        found["database"] = False
    ok = all(found.values())
    response.status_code = 200 if ok else 503
    return {"ready": ok} | found
