"""The state folder's format, so that a newer or an older agent may take the same folder over. The rules:

1. What is kept there is only ever added to: tables, columns with a default, fields, files. An agent names the columns
   that it writes, and leaves alone what it does not know; so the version before goes on with the folder, and so does
   the newer one when it comes back. Each addition raises FORMAT.
2. What an older agent could not live with (a new meaning, a new word in an old enumeration) raises NEEDS to FORMAT.
3. The stamp in the folder says both, and never falls. An agent whose FORMAT is below the folder's NEEDS changes nothing
   there, and says what to do.
"""

from __future__ import annotations

import json
import logging
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple

from edge_agent.errors import StateTooNew
from edge_agent.files import write_whole

log = logging.getLogger(__name__)

FORMAT: Final = 1
NEEDS: Final = 1
NAME: Final = "state.json"


class Stamp(NamedTuple):
    """What the folder says of itself: its format, the lowest FORMAT that can work on it, who ran on it last."""

    format: int
    needs: int
    agent: str


@cache
def agent_version() -> str:
    try:
        return version("pdm-loop")
    except PackageNotFoundError:  # run from a checkout
        return "0"


def read(state_dir: Path) -> Stamp | None:
    """None: there is none, or none that can be read, which bricks no device."""
    try:
        raw: dict[str, Any] = json.loads((state_dir / NAME).read_text(encoding="utf-8"))
        return Stamp(int(raw["format"]), int(raw["needs"]), str(raw["agent"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def refuse_newer(state_dir: Path) -> None:
    """Raises StateTooNew: a newer agent keeps things here that this one would spoil."""
    found = read(state_dir)
    if found and found.needs > FORMAT:
        raise StateTooNew(
            f"{state_dir} was last used by edge-agent {found.agent} and needs state format {found.needs}; this is"
            f" edge-agent {agent_version()}, which knows format {FORMAT}. Nothing was changed. Install {found.agent} or"
            " newer (deploy/install.sh), or name another state_dir to begin anew without what is kept here"
        )


def enter(state_dir: Path) -> None:
    """To be called by the agent that has the folder to itself. Raises StateTooNew."""
    refuse_newer(state_dir)
    found = read(state_dir)
    stamp = Stamp(max(FORMAT, found.format if found else 0), max(NEEDS, found.needs if found else 0), agent_version())
    if stamp == found:
        return
    try:
        write_whole(state_dir / NAME, json.dumps(stamp._asdict()).encode())
    except OSError as exc:  # a full disk is no reason not to start
        log.warning("the state folder is not stamped", extra={"reason": str(exc)})
        return
    if found and found.agent != stamp.agent:
        log.info("another version than before", extra={"before": found.agent, "now": stamp.agent})
