"""What a request may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request

from fleet_server.config import Config
from fleet_server.store.pool import Pool
from models.form.gate import Visitor, person_of, visitor_of
from models.form.signin import SignIn


@dataclass(frozen=True)
class Site:
    """What the server lends to its web part. `broker_connected` is asked at each readiness check."""

    config: Config
    pool: Pool
    broker_connected: Callable[[], bool]
    sign_in: SignIn | None = None  # None: nobody signs in


def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


def _pool(request: Request) -> Pool:
    return _site(request).pool


SiteOf = Annotated[Site, Depends(_site)]
# The pool, not a connection: an answer that says "stored" must come after the commit, so routes end their own
# transactions.
PoolOf = Annotated[Pool, Depends(_pool)]


def _person(request: Request) -> str | None:
    return person_of(request)


def _visitor(request: Request) -> Visitor | None:
    return visitor_of(request)


# The pseudonym of who is signed in and not locked; None where nobody signs in.
PersonOf = Annotated[str | None, Depends(_person)]
VisitorOf = Annotated[Visitor | None, Depends(_visitor)]  # a locked one too
Limit = Annotated[int, Query(ge=1, le=1000)]
