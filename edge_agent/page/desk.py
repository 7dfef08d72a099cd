"""What the agent lends to its pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from edge_agent.alarms.desk import AlarmDesk
from edge_agent.annotate import Journal
from edge_agent.attachments import Attachments
from models.contract.health import AssetHealth
from models.form.signin import SignIn


class Shown(Protocol):
    """What the pages ask of the agent."""

    device: str

    def status(self) -> dict[str, Any]:
        """Model, step, connection, waiting rows and assets, ready for JSON."""


@dataclass(frozen=True)
class Desk:
    """`health` is asked anew each time, `now` is the device's clock; without `sign_in` nobody signs in."""

    agent: Shown
    journal: Journal
    attachments: Attachments
    alarms: AlarmDesk
    health: Callable[[], dict[str, AssetHealth]]
    now: Callable[[], datetime]
    sign_in: SignIn | None = None
