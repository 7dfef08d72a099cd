"""What the pages ask of the agent."""

from __future__ import annotations

from typing import Any, Protocol


class Shown(Protocol):
    """What the pages ask of the agent."""

    device: str

    def status(self) -> dict[str, Any]:
        """Model, step, connection, waiting rows and assets, ready for JSON."""
