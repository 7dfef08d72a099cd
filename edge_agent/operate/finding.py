"""One thing that was looked at."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["ok", "look", "broken"]


class Finding(NamedTuple):
    """`look`: somebody should; `broken`: something is not done that should be."""

    part: str
    state: State
    says: str
    do: str = ""
