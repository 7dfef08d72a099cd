"""How long to wait before the next connection, by what became of the last one. Full jitter, so that a fleet spreads
out."""

from __future__ import annotations

import random
from typing import Final, Literal

Why = Literal["network", "busy", "refused"]
LEAST_S: Final = 1.0  # between two connections, whatever happens
STEPS: Final[dict[Why, tuple[float, float]]] = {"network": (1.0, 60.0), "busy": (5.0, 120.0)}  # first and longest
REFUSED_S: Final = 300.0  # who is not authorized or banned does not hammer
# MQTT 5 reason codes: of CONNACK and of a broker's DISCONNECT.
REFUSED: Final = frozenset({0x82, 0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x95, 0x98, 0x9D})
BUSY: Final = frozenset({0x88, 0x89, 0x8B, 0x8E, 0x93, 0x96, 0x97, 0x9F})  # also: somebody else has our client id


def why(code: int | None) -> Why:
    """A reason code's class; None: there was none."""
    return "refused" if code in REFUSED else "busy" if code in BUSY else "network"


class Backoff:
    """One device's. `dice` gives a number in [0, 1)."""

    def __init__(self, dice: random.Random | None = None) -> None:
        self._dice = dice or random.Random()  # noqa: S311 - spreads a herd
        self._failures = 0

    def worked(self) -> None:
        """The connection was of use: something was stored over it."""
        self._failures = 0

    def wait_s(self, reason: Why) -> float:
        """After one more failure."""
        self._failures += 1
        if reason == "refused":
            return REFUSED_S * (1 + self._dice.random() / 5)
        first, longest = STEPS[reason]
        return max(LEAST_S, self._dice.random() * min(longest, first * 2.0 ** min(self._failures - 1, 16)))
