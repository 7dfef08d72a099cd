"""When a release on trial has done harm."""

from __future__ import annotations

from typing import Final, NamedTuple

from edge_agent.rollout.steps import Event
from models.contract.messages import TrialLimits, TrialReport
from models.contract.release import Cause, Evidence

MIN_HARM_WINDOWS: Final = 8  # clear harm is not watched for longer


class Harm(NamedTuple):
    """The limit that was crossed: in words and in numbers."""

    reason: str
    evidence: Evidence


class Sentence(NamedTuple):
    """How a trial ended."""

    event: Event
    harm: Harm | None  # None: it is healthy
    report: TrialReport


def sentence(report: TrialReport, limits: TrialLimits) -> Sentence | None:
    """None: it goes on. Enough windows and enough time are needed; windows that do not come are no proof of health."""
    spent = report.seconds or 0.0
    if found := harm(report, limits):
        return Sentence(Event.WORSE, found, report)
    if report.windows >= limits.windows and spent >= limits.min_seconds:
        return Sentence(Event.HEALTHY, None, report)
    if spent > max(limits.max_seconds, limits.min_seconds):
        reason = f"only {report.windows} of {limits.windows} windows came in {spent:.0f} s"
        return Sentence(Event.LATE, _harm(reason, Cause.TIMEOUT, None, report.windows, limits.windows), report)
    return None


def harm(report: TrialReport, limits: TrialLimits) -> Harm | None:
    """Which limit the trial has crossed; None: none so far. Nothing but scores that are no numbers is said before a
    quarter of the windows is in."""
    if report.non_finite:
        reason = f"{report.non_finite} scores were not numbers"
        return _harm(reason, Cause.NOT_FINITE, 0, report.non_finite, 0, "windows")
    if report.windows < max(MIN_HARM_WINDOWS, limits.windows // 4):
        return None
    return _alarms(report, limits) or _scores(report, limits) or _latency(report, limits)


def _alarms(report: TrialReport, limits: TrialLimits) -> Harm | None:
    candidate, previous = report.candidate_alarm_share, report.previous_alarm_share
    allowed = max(previous * limits.alarm_ratio, previous + limits.alarm_margin)
    if candidate <= allowed:
        return None
    reason = f"alarms on {candidate:.0%} of {report.windows} windows, the model before on {previous:.0%}"
    return _harm(reason, Cause.ALARMS, previous, candidate, min(1.0, allowed), "share of windows")


def _scores(report: TrialReport, limits: TrialLimits) -> Harm | None:
    shift, distance, ks = report.mean_shift, report.score_distance, report.ks
    where = "on windows that did not alarm the model before, scores"
    if shift is not None and abs(shift) > limits.mean_score_shift:
        reason = f"{where} differ by {shift:+.2f} on average from its own"
        return _harm(reason, Cause.SCORE_SHIFT, 0, shift, limits.mean_score_shift, "score")
    if distance is not None and distance > limits.score_distance:
        reason = f"{where} are spread {distance:.2f} away from its own (Wasserstein)"
        return _harm(reason, Cause.SCORE_DISTANCE, 0, distance, limits.score_distance, "score")
    if ks is not None and ks > limits.ks:
        reason = f"{where} are distributed otherwise than its own: Kolmogorov-Smirnov {ks:.2f}"
        return _harm(reason, Cause.SCORE_KS, 0, ks, limits.ks)
    if report.windows >= limits.windows and report.candidate_spread == 0:
        reason = f"the same score for each of {report.windows} windows: it looks at nothing"
        return _harm(reason, Cause.CONSTANT, None, 0, 0, "score")
    return None


def _latency(report: TrialReport, limits: TrialLimits) -> Harm | None:
    candidate, previous = report.candidate_latency_us, report.previous_latency_us
    allowed = previous * limits.latency_ratio + limits.latency_slack_us
    if candidate <= allowed:
        return None
    reason = f"takes {candidate:.0f} us a window, the model before {previous:.0f} us"
    return _harm(reason, Cause.LATENCY, previous, candidate, allowed, "us")


def _harm(reason: str, cause: Cause, before: float | None, after: float, allowed: float | None, unit: str = "") -> Harm:
    return Harm(reason, Evidence(cause=cause, before=before, after=after, allowed=allowed, unit=unit))
