"""Commands to devices, and what came of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from uuid import UUID

from fastapi import APIRouter

from fleet_server.errors import NotFound
from fleet_server.store import commands
from fleet_server.web.deps import Limit, PoolOf

router = APIRouter()


@router.get("/commands")
def list_commands(pool: PoolOf, device: str | None = None, limit: Limit = 100) -> dict[str, Any]:
    """The newest first."""
    with pool.connection() as conn:
        return {"commands": [asdict(row) for row in commands.listing(conn, device, limit)]}


@router.get("/commands/{command_id}")
def show_command(command_id: UUID, pool: PoolOf) -> dict[str, Any]:
    with pool.connection() as conn:
        row = commands.get(conn, command_id)
    if row is None:
        raise NotFound(f"there is no command {command_id}")
    return asdict(row)
