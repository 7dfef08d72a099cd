"""What a trial has shown: the candidate and the previous model on the same windows."""

from __future__ import annotations

import math
import statistics

from edge_agent.detect.judge import Seen
from models.contract.messages import TrialReport


class Pairs:
    """Both models over all assets."""

    def __init__(self) -> None:
        self.n = self.non_finite = self.candidate_over = self.previous_over = 0
        self.quiet_shifts: list[float] = []  # on windows that did not alarm the previous model
        self.scores: set[float] = set()  # of the candidate: the least and the largest
        self.latencies: tuple[list[float], list[float]] = ([], [])

    def add(self, candidate: Seen, previous: Seen) -> None:
        self.n += 1
        if not math.isfinite(candidate.scored.score):
            self.non_finite += 1
            return
        self.candidate_over += candidate.over
        self.previous_over += previous.over
        if not previous.over:
            self.quiet_shifts.append(candidate.scored.score - previous.scored.score)
        scores = self.scores | {candidate.scored.score}
        self.scores = {min(scores), max(scores)}
        self.latencies[0].append(candidate.latency_us)
        self.latencies[1].append(previous.latency_us)

    def report(self) -> TrialReport:
        n = max(self.n, 1)
        return TrialReport(
            windows=self.n,
            candidate_alarm_share=self.candidate_over / n,
            previous_alarm_share=self.previous_over / n,
            non_finite=self.non_finite,
            candidate_latency_us=statistics.median(self.latencies[0] or [0.0]),
            previous_latency_us=statistics.median(self.latencies[1] or [0.0]),
            candidate_spread=max(self.scores) - min(self.scores) if self.scores else None,
        )
