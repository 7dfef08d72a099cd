"""The alarms of one asset: which window raises one, carries one on, reopens one or ends one.

1. One fault is one alarm: at most one episode a family is open, and a raise within `hold_s` of an episode's end reopens
   that episode, with one more repeat.
2. "novelty" is what no class explains yet: it joins the episode that is open or has just ended, and an open novelty
   whose windows show a class for CHANGE windows takes that class's family instead of becoming a second alarm.
3. Another class's family beside an open one is another fault, once it has led for CHANGE windows. An episode whose
   family has not led for CHANGE windows while another one's has is over.
4. An episode lasts `min_open_s` at least. Times are those of the samples: a replay at any speed gives the same alarms.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from models.alarms import NOVELTY
from models.contract.events import Phase
from models.contract.ids import new_trace_id
from models.contract.labels import Severity

CHANGE: Final = 10  # windows
KEPT_VECTORS: Final = 48  # of an episode: enough to tell its pattern


@dataclass
class Episode:
    """One alarm. Instants in epoch seconds of the samples."""

    event_id: UUID
    trace: UUID
    opened_at: datetime
    family: str
    raised_at: float  # the last time
    repeats: int = 1
    severity: Severity | None = None
    muted: bool = False
    cleared_at: float | None = None
    told_score: float = 0.0
    told_at: float = 0.0  # monotonic
    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    new_vectors: bool = False
    unseen: int = 0  # windows in a row in which another class led
    seen: int = 0
    last: bool = False  # it does not reopen

    def keep(self, vector: NDArray[np.float64]) -> None:
        """One more window of it; of many, those spread over all its time."""
        self.seen += 1
        kept = vector.astype(np.float32)
        if len(self.vectors) < KEPT_VECTORS:
            self.vectors.append(kept)
        elif self.seen % (1 + self.seen // KEPT_VECTORS) == 0:
            self.vectors[self.seen % KEPT_VECTORS] = kept
        self.new_vectors = True


class Episodes:
    """Those that are open, and those that may still reopen."""

    def __init__(self, hold_s: float, min_open_s: float) -> None:
        self._hold_s, self._min_open_s = hold_s, min_open_s
        self.open: list[Episode] = []
        self.resting: list[Episode] = []
        self._leads: Counter[str] = Counter()  # windows in a row, of a family that has no open episode

    def move(
        self, at: float, raised: bool, family: str | None, opened_at: datetime, trace: UUID
    ) -> list[tuple[Phase, Episode]]:
        """One window, and what it changes.

        Args:
            at: its end.
            raised: the alarm rule says that something is wrong.
            family: what it is, by this window; None: this window does not show.
            opened_at: when it began, if it begins with this window.
        """
        self.resting = [e for e in self.resting if abs(at - (e.cleared_at or at)) <= self._hold_s]
        if not raised:
            self._leads.clear()
            return [(Phase.CLEARED, self._clear(e, at)) for e in list(self.open) if self._may_end(e, at)]
        if not self.open:
            return [(Phase.RAISED, self._raise(at, family or NOVELTY, opened_at, trace))]
        if family is None or family == NOVELTY:
            return []
        changed: list[tuple[Phase, Episode]] = []
        known = next((e for e in self.open if e.family == family), None)
        if known is None:
            self._leads[family] += 1
            for other in [name for name in self._leads if name != family]:
                del self._leads[other]
            if self._leads[family] >= CHANGE:
                self._leads.clear()
                if nameless := next((e for e in self.open if e.family == NOVELTY), None):
                    nameless.family = family
                    changed.append((Phase.UPDATED, nameless))
                    known = nameless
                else:
                    known = self._raise(at, family, opened_at, trace)
                    changed.append((Phase.RAISED, known))
        else:
            self._leads.clear()
        for e in list(self.open):
            e.unseen = 0 if e is known or known is None else e.unseen + 1
            if e.unseen >= CHANGE and self._may_end(e, at):
                changed.append((Phase.CLEARED, self._clear(e, at)))
        return changed

    def part(self) -> None:
        """What comes is in no row with what was: nothing reopens."""
        self.resting.clear()
        for episode in self.open:
            episode.last = True

    def leading(self, family: str | None) -> Episode | None:
        """The open episode that a window belongs to."""
        return next((e for e in self.open if e.family == family), self.open[-1] if self.open else None)

    def _raise(self, at: float, family: str, opened_at: datetime, trace: UUID) -> Episode:
        episode = self._recall(family)
        if episode is None:
            episode = Episode(new_trace_id(), trace, opened_at, family, at)
        else:
            self.resting.remove(episode)
            episode.family = family if episode.family == NOVELTY else episode.family
            episode.repeats, episode.raised_at, episode.cleared_at, episode.unseen = episode.repeats + 1, at, None, 0
        self.open.append(episode)
        return episode

    def _recall(self, family: str) -> Episode | None:
        newest_first = sorted(self.resting, key=lambda e: -(e.cleared_at or 0.0))
        same = next((e for e in newest_first if e.family == family), None)
        kin = (e for e in newest_first if NOVELTY in (family, e.family))
        return same or next(kin, None)

    def _may_end(self, episode: Episode, at: float) -> bool:
        return abs(at - episode.raised_at) >= self._min_open_s

    def _clear(self, episode: Episode, at: float) -> Episode:
        self.open.remove(episode)
        episode.cleared_at = at
        if not episode.last:
            self.resting.append(episode)
        return episode
