"""Training runs and the bundles they made."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from fleet_server.store import bundles, datasets, floors, runs
from fleet_server.store.bundles import BundleRow
from fleet_server.web.deps import Limit, PoolOf

router = APIRouter()


@router.get("/models")
def list_models(pool: PoolOf) -> dict[str, Any]:
    """Every bundle there is, with its gate's verdict and who approved it; and the floor, below which none is sent."""
    with pool.connection() as conn:
        return {"models": [view(row) for row in bundles.listing(conn)], "floor": floors.current(conn)}


@router.get("/runs")
def list_runs(pool: PoolOf, limit: Limit = 50) -> dict[str, Any]:
    with pool.connection() as conn:
        return {"runs": runs.listing(conn, limit)}


@router.get("/datasets")
def list_datasets(pool: PoolOf) -> dict[str, Any]:
    with pool.connection() as conn:
        return {"datasets": datasets.listing(conn)}


def view(row: BundleRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "version": row.version,
        "sha256": row.sha256,
        "size": row.size,
        "made_at": row.made_at,
        "state": row.state,
        "run": row.run_id,
        "dataset": row.dataset,
        "approved_by": row.approved_by,
        "approved_at": row.approved_at,
        "gate": row.gate,
    }
