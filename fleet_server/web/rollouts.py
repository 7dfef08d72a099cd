"""Rollouts, device by device. Orders are given with `fleet-server rollout` and `rollback`, by people who may."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter

from fleet_server.errors import NotFound
from fleet_server.release import shadows, waves
from fleet_server.store import rollouts
from fleet_server.store import shadows as reports
from fleet_server.store.pool import Connection
from fleet_server.store.rollouts import RolloutRow
from fleet_server.web.deps import Limit, PoolOf, SiteOf

router = APIRouter()


@router.get("/rollouts")
def list_rollouts(pool: PoolOf, site: SiteOf, limit: Limit = 20) -> dict[str, Any]:
    """The newest first."""
    with pool.connection() as conn:
        found = rollouts.listing(conn, limit)
        return {"rollouts": [view(conn, row, site.config.rollouts.deadline_s) for row in found]}


@router.get("/rollouts/{rollout_id}")
def show_rollout(rollout_id: str, pool: PoolOf, site: SiteOf) -> dict[str, Any]:
    with pool.connection() as conn:
        row = rollouts.get(conn, rollout_id)
        if row is None:
            raise NotFound(f"there is no rollout {rollout_id}")
        return view(conn, row, site.config.rollouts.deadline_s)


@router.get("/steps")
def list_steps(pool: PoolOf, limit: Limit = 100) -> dict[str, Any]:
    """What devices said of their releases, the newest first."""
    with pool.connection() as conn:
        return {"steps": rollouts.steps(conn, limit)}


def view(conn: Connection, row: RolloutRow, deadline_s: float) -> dict[str, Any]:
    """With every order and where it stands."""
    now = datetime.now(UTC)
    orders = rollouts.assignments(conn, row.rollout_id)
    return asdict(row) | {
        "counts": waves.count(orders, now, deadline_s),
        "shadow": shadows.summary(reports.of_rollout(conn, row.rollout_id)),
        "assignments": [asdict(each) | {"standing": waves.standing(each, now, deadline_s).value} for each in orders],
    }
