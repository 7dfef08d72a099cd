"""What a trial has shown: the candidate and the previous model on the same windows."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Final

from edge_agent.detect.judge import Seen
from models.contract.messages import TrialReport
from models.paired import Paired, ks, mean_difference, wasserstein

LATENCIES: Final = 1000  # the last ones: a trial may go on for days


class Pairs:
    """Both models over all assets."""

    def __init__(self) -> None:
        self.n = self.non_finite = self.candidate_over = self.previous_over = 0
        self.quiet = Paired()  # on windows that did not alarm the previous model
        self.scores: set[float] = set()  # of the candidate: the least and the largest
        self.latencies: tuple[deque[float], deque[float]] = (deque(maxlen=LATENCIES), deque(maxlen=LATENCIES))

    def add(self, candidate: Seen, previous: Seen) -> None:
        self.n += 1
        if not math.isfinite(candidate.scored.score):
            self.non_finite += 1
            return
        self.candidate_over += candidate.over
        self.previous_over += previous.over
        if not previous.over:
            self.quiet.add(candidate.scored.score, previous.scored.score, candidate.over, previous.over)
        scores = self.scores | {candidate.scored.score}
        self.scores = {min(scores), max(scores)}
        self.latencies[0].append(candidate.latency_us)
        self.latencies[1].append(previous.latency_us)

    def report(self) -> TrialReport:
        n, quiet = max(self.n, 1), self.quiet.take()
        return TrialReport(
            windows=self.n,
            candidate_alarm_share=self.candidate_over / n,
            previous_alarm_share=self.previous_over / n,
            non_finite=self.non_finite,
            candidate_latency_us=statistics.median(self.latencies[0] or [0.0]),
            previous_latency_us=statistics.median(self.latencies[1] or [0.0]),
            candidate_spread=max(self.scores) - min(self.scores) if self.scores else None,
            mean_shift=mean_difference(quiet),
            score_distance=wasserstein(quiet),
            ks=ks(quiet),
        )
