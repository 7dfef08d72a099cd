"""The words of a release on its way: steps, limits, evidence. Parts of the messages in `messages`."""

from __future__ import annotations

import enum
from typing import Annotated, Final

from pydantic import Field

from models.contract.base import FeatureSet, Message, Text

Count = Annotated[int, Field(ge=0)]
BINS: Final = 64  # of a score in [0, 1], so values are known to 1/128
DIFFERENCE_BINS: Final = 128  # of a difference in [-1, 1], the same width


class Step(enum.StrEnum):
    """Where a device is with the release it was assigned."""

    OFFERED = "offered"  # known, and not begun: the reason says what it waits for
    FETCHING = "fetching"
    CHECKING = "checking"
    SHADOW = "shadow"  # scored beside the model that runs, and raises nothing
    TRIAL = "trial"
    ACTIVE = "active"  # verified: it ran healthily
    SHADOWED = "shadowed"  # its time in shadow is over; it took nothing over
    REJECTED = "rejected"  # never ran
    ROLLED_BACK = "rolled_back"  # ran, did harm, is gone
    INCONSISTENT = "inconsistent"  # could not go back: what runs is not what should; a person is needed


class Cause(enum.StrEnum):
    """Why a step was taken, in one word for programs. The reason says it for people."""

    NOT_FINITE = "not_finite"  # scores that are no numbers
    ALARMS = "alarms"
    SCORE_SHIFT = "score_shift"  # mean difference
    SCORE_DISTANCE = "score_distance"  # between the two distributions
    SCORE_KS = "score_ks"
    CONSTANT = "constant"
    LATENCY = "latency"
    RUNNING_HASH = "running_hash"  # what scores is not what should
    RESTART = "restart"
    KILLED = "killed"  # ended uncleanly again and again while it ran
    TIMEOUT = "timeout"
    SUPERSEDED = "superseded"
    PERSON = "person"  # somebody at the device
    GRAPH = "graph"  # not on the allow-list
    CANARY = "canary"  # golden scores missed, or the check ran out of time or memory
    UNTRUSTED = "untrusted"  # a file without the approval it needs
    FIT = "fit"  # not for this device: signals, windows, features, runtime
    UNUSABLE = "unusable"  # its file is gone or was altered
    FETCH = "fetch"
    FLOOR = "floor"
    BARRED = "barred"
    DENIED = "denied"  # was sent away on this device before
    LOOP = "loop"  # too many switches or falls; waits
    NO_WAY_BACK = "no_way_back"


class Evidence(Message):
    """The numbers behind a cause: before is the model that ran, after the release."""

    cause: Cause
    before: float | None = None
    after: float | None = None
    allowed: float | None = None
    unit: Annotated[Text, Field(max_length=40)] = ""

    def words(self) -> str:
        """For people, as far as there are numbers; else ""."""
        if self.after is None:
            return ""
        before = "" if self.before is None else f"{self.before:.4g} -> "
        allowed = "" if self.allowed is None else f", {self.allowed:.4g} allowed"
        return f"{self.cause}: {before}{self.after:.4g}{allowed} {self.unit}".rstrip()


class TrialReport(Message):
    """What a trial was decided on. Previous and candidate scored the same windows."""

    windows: int
    candidate_alarm_share: float
    previous_alarm_share: float
    non_finite: int
    candidate_latency_us: float
    previous_latency_us: float
    candidate_spread: float | None = None  # largest less smallest score
    seconds: float | None = None
    # Of scores on windows that did not alarm the previous model: where that did alarm, being quieter is often what the
    # new one is for.
    mean_shift: float | None = None
    score_distance: float | None = None  # Wasserstein-1, see models.paired
    ks: float | None = None  # two-sample Kolmogorov-Smirnov


class TrialLimits(Message):
    """When a release on trial must go. Shares are of windows; ratios compare with the previous model on the same
    windows."""

    windows: Annotated[int, Field(ge=4)] = 40  # as many must be scored before it is verified
    min_seconds: Annotated[float, Field(ge=0)] = 0.0  # and so long must it have run
    max_seconds: Annotated[float, Field(gt=0)] = 600.0  # windows that do not come are no proof of health
    alarm_ratio: Annotated[float, Field(gt=1)] = 5.0
    alarm_margin: Annotated[float, Field(ge=0, le=1)] = 0.2  # a ratio of tiny shares says nothing
    latency_ratio: Annotated[float, Field(gt=1)] = 3.0
    latency_slack_us: Annotated[float, Field(ge=0)] = 2000.0
    mean_score_shift: Annotated[float, Field(gt=0, le=1)] = 0.4
    score_distance: Annotated[float, Field(gt=0, le=1)] = 0.4
    ks: Annotated[float, Field(gt=0, le=1)] = 1.0  # 1: no limit, for a better model may well move every score a little


class ShadowLimits(Message):
    """How long and at what price a challenger is scored in shadow."""

    seconds: Annotated[float, Field(gt=0)] = 7 * 86400.0
    cpu_share: Annotated[float, Field(gt=0, le=1)] = 0.05  # of one core, over the whole time
    report_s: Annotated[float, Field(gt=0)] = 600.0


class PairedScores(Message):
    """Two models on the same windows: counts in equal bins, so adding two of these is exact. See models.paired."""

    n: Count = 0
    not_finite: Count = 0  # of the challenger; in none of the counts below
    both_over: Count = 0  # at or over each one's own threshold
    only_challenger_over: Count = 0
    only_champion_over: Count = 0
    challenger: Annotated[tuple[Count, ...], Field(min_length=BINS, max_length=BINS)] = (0,) * BINS
    champion: Annotated[tuple[Count, ...], Field(min_length=BINS, max_length=BINS)] = (0,) * BINS
    # Challenger less champion, from -1 to 1.
    difference: Annotated[tuple[Count, ...], Field(min_length=DIFFERENCE_BINS, max_length=DIFFERENCE_BINS)] = (
        0,
    ) * DIFFERENCE_BINS
    sum_difference: float = 0.0
    sum_squares: Annotated[float, Field(ge=0)] = 0.0


class Capabilities(Message):
    """What a device can run. A server that knows does not offer what could not be taken."""

    feature_set: FeatureSet
    bundle_format: int = 1
    runtime: Annotated[Text, Field(max_length=40)]  # of onnxruntime
    max_opset: int
    modes: tuple[Text, ...] = ("trial", "rollback")
