"""Who this outbox is: its epoch, kept twice.

(epoch, stream, seq) names a record for ever, so no number may be given out twice. Beside the database lies a small
copy: the epoch, how often the outbox was opened, and up to which number each stream may have come. A database that is
gone, or that is behind its copy (an old backup put back), does not go on: a new epoch begins, and the copy tells how
far the old one had come, so that the server can account for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edge_agent.files import write_whole

AHEAD: Final = 1000  # numbers reserved at once: the copy is written once in so many records, not with each


@dataclass
class Identity:
    """What the copy says. `reserved`: no higher number than this was given out, by stream."""

    epoch: str
    opens: int = 0
    reserved: dict[str, int] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Raises OSError."""
        text = json.dumps({"epoch": self.epoch, "opens": self.opens, "reserved": self.reserved})
        write_whole(path, text.encode())


def copy_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.id.json")


def read(path: Path) -> Identity | None:
    """The copy beside the database at `path`; None: there is none that can be read."""
    try:
        raw = json.loads(copy_of(path).read_text(encoding="utf-8"))
        return Identity(str(raw["epoch"]), int(raw["opens"]), {str(k): int(v) for k, v in raw["reserved"].items()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
