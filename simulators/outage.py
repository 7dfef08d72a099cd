"""Takes down what a plant loses now and then: processes are killed and started again, seeded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol


class Victim(Protocol):
    """A process, a broker or a database that can be killed and started again."""

    name: str

    def kill(self) -> None: ...

    def start(self) -> object: ...


class Outages:
    """Kills one victim after the other, in an order that the seed decides."""

    def __init__(self, victims: Sequence[Victim], seed: int) -> None:
        self._victims = list(victims)
        self._dice = random.Random(seed)

    def strike(self) -> Victim:
        """Kill one (SIGKILL: it can say nothing more) and leave it down. Returns it, to be started again."""
        victim = self._dice.choice(self._victims)
        victim.kill()
        return victim

    def pause(self, up_to_s: float) -> float:
        """How long to wait until the next, in seconds."""
        return self._dice.uniform(0, up_to_s)
