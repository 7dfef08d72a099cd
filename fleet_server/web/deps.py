"""What a request may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request

from fleet_server.config import Config
from fleet_server.store.pool import Pool


@dataclass(frozen=True)
class Site:
    """What the server lends to its web part. `broker_connected` is asked at each readiness check."""

    config: Config
    pool: Pool
    broker_connected: Callable[[], bool]


def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


def _pool(request: Request) -> Pool:
    return _site(request).pool


SiteOf = Annotated[Site, Depends(_site)]
# The pool, not a connection: an answer that says "stored" must come after the commit, so routes end their own
# transactions.
PoolOf = Annotated[Pool, Depends(_pool)]
Limit = Annotated[int, Query(ge=1, le=1000)]
