"""Candidate against current on held-out windows: pass, fail, or cannot tell; each with its reasons and numbers.

Both are asked about the same windows, through the code that devices score with. A model that learns on the device
cannot be asked here: the score that it gave to the window then, sent with the window, speaks for it.

The cost of a model is its missed-fault rate plus its false-alarm rate, at its own threshold. Windows of one event are
not independent of each other, so what is drawn again and again for the intervals is events and stretches of time.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fleet_server.learning.dataset import Dataset, Floats, Mask
from models.bundle.files import BadBundle, Bundle
from models.contract.labels import NORMAL
from models.scoring import Scorer

MAX_BYTES: Final = 8 * 2**20
MAX_LATENCY_US: Final = 2000.0  # median of one window, on the server
MIN_NORMAL_ROWS: Final = 20
MIN_FAULT_ROWS: Final = 5
MIN_FAULT_BLOCKS: Final = 3  # fewer events than this are anecdotes
MIN_GROUP_ROWS: Final = 20
DRAWS: Final = 2000
NOISE: Final = 0.05  # two-sided: an interval holds the true difference 95 times in 100


@dataclass(frozen=True)
class Verdicts:
    """What one model says of the held-out windows. Scores are nan where it has not said anything."""

    scores: Floats
    threshold: float
    how: str

    @property
    def alarms(self) -> Mask:
        return self.scores >= self.threshold


@dataclass(frozen=True)
class Interval:
    """A difference, candidate minus current, and where it may lie."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def judge(data: Dataset, candidate: Bundle, current: Bundle | None) -> dict[str, Any]:
    """The report: `verdict` is "pass", "fail" or "cannot tell"; `reasons` say why, `text` is for people."""
    failed: list[str] = []
    unclear: list[str] = []
    technical = _technical(data, candidate, failed)
    rows = np.flatnonzero(data.holdout)
    report: dict[str, Any] = {
        "candidate": candidate.ref.model_dump(),
        "current": None if current is None else current.ref.model_dump(),
        "dataset": data.sha256,
        "split": data.split,
        "not_judged": data.summary.get("not_judged", []),
        "technical": technical,
    }
    if not failed and current is not None:
        new, old = _asked(data, rows, candidate), _asked(data, rows, current)
        both = np.isfinite(old.scores) & np.isfinite(new.scores)
        fault = data.classes[rows] != NORMAL
        unheard = int(np.count_nonzero(~np.isfinite(new.scores)))
        if unheard:
            failed.append(f"the candidate gives no finite score for {unheard} windows")
        report["how"] = {"candidate": new.how, "current": old.how}
        report["counts"] = _counts(data, rows, both, fault, unclear)
        if not unclear:
            _compare(data, rows[both], _of(new, both), _of(old, both), fault[both], report, failed)
    elif current is None:
        unclear.append("there is no current model to compare with")
    report["verdict"] = "fail" if failed else "cannot tell" if unclear else "pass"
    report["reasons"] = failed or unclear or ["better than current beyond noise, and no group is worse"]
    report["summary"] = _one_line(report)
    report["text"] = as_text(report)
    return report


def as_text(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    counts, metrics = report.get("counts", {}), report.get("metrics", {})
    lines = [f"# Gate: {report['verdict']}", "", *(f"- {reason}" for reason in report["reasons"]), ""]
    if counts:
        lines += [
            f"Held out by {report['split']}: {counts['normal_rows']} normal windows, {counts['fault_rows']} of "
            f"{counts['fault_blocks']} faults, on {counts['assets']} assets.",
            *([f"Not judged: {', '.join(report['not_judged'])}."] if report["not_judged"] else []),
            "",
        ]
    if metrics:
        lines += ["| | candidate | current |", "|---|---|---|"]
        lines += [
            f"| {name.replace('_', ' ')} | {new:.3f} | {old:.3f} |"
            for name, new in metrics["candidate"].items()
            for old in [metrics["current"][name]]
        ]
        words = {name: Interval(**value) for name, value in metrics["difference"].items()}
        lines += ["", *(f"- {name} difference: {value}" for name, value in words.items())]
        lines += [f"- {asset}: cost difference {Interval(**value)}" for asset, value in metrics["groups"].items()]
        lines += ["", f"Candidate: {report['how']['candidate']}. Current: {report['how']['current']}."]
    technical = report["technical"]
    latency = "not measured" if technical["latency_us"] is None else f"{technical['latency_us']:.0f} us a window"
    lines += ["", f"Size {technical['bytes']} bytes, {latency}."]
    return "\n".join(lines)


def _technical(data: Dataset, candidate: Bundle, failed: list[str]) -> dict[str, Any]:
    size = len(candidate.data)
    if size > MAX_BYTES:
        failed.append(f"{size} bytes are more than {MAX_BYTES}")
    latency = math.nan
    try:
        scorer = Scorer(candidate)
        scorer.check_canary()
        latency = _latency_us(scorer, data)
    except BadBundle as exc:
        failed.append(str(exc))
    if latency > MAX_LATENCY_US:
        failed.append(f"{latency:.0f} us a window is more than {MAX_LATENCY_US:.0f}")
    return {"bytes": size, "latency_us": None if math.isnan(latency) else latency}


def _latency_us(scorer: Scorer, data: Dataset) -> float:
    positions = scorer.positions(data.names)
    taken = []
    for vector in data.vectors[: min(len(data.vectors), 200)]:
        begin = time.perf_counter_ns()
        scorer.score(vector[positions])
        taken.append(time.perf_counter_ns() - begin)
    return float(np.median(taken)) / 1000


def _asked(data: Dataset, rows: npt.NDArray[np.intp], bundle: Bundle) -> Verdicts:
    threshold = bundle.manifest.alarm.raise_at
    scorer = Scorer(bundle)
    if scorer.learns_on_device or not set(bundle.manifest.inputs or ()) <= set(data.names):
        ran = data.versions[rows] == bundle.manifest.version
        scores = np.where(ran, data.scores[rows], np.nan)
        return Verdicts(scores, threshold, f"scores recorded when version {bundle.manifest.version} ran")
    positions = scorer.positions(data.names)
    scores = np.array([scorer.score(vector[positions]).score for vector in data.vectors[rows]])
    return Verdicts(scores, threshold, "scored here")


def _of(verdicts: Verdicts, rows: Mask) -> Verdicts:
    return Verdicts(verdicts.scores[rows], verdicts.threshold, verdicts.how)


def _counts(data: Dataset, rows: npt.NDArray[np.intp], both: Mask, fault: Mask, unclear: list[str]) -> dict[str, Any]:
    """How much there is to judge on, and whether that is enough."""
    n_fault, n_normal = int((both & fault).sum()), int((both & ~fault).sum())
    blocks = len(np.unique(data.blocks[rows][both & fault]))
    if n_normal < MIN_NORMAL_ROWS:
        unclear.append(f"{n_normal} held-out normal windows with both scores, {MIN_NORMAL_ROWS} are needed")
    if n_fault < MIN_FAULT_ROWS or blocks < MIN_FAULT_BLOCKS:
        wanted = f"{MIN_FAULT_ROWS} of {MIN_FAULT_BLOCKS}"
        unclear.append(f"{n_fault} held-out fault windows of {blocks} events with both scores, {wanted} are needed")
    return {
        "normal_rows": n_normal,
        "fault_rows": n_fault,
        "fault_blocks": blocks,
        "assets": len(np.unique(data.assets[rows])),
        "not_comparable": int((~both).sum()),
    }


def _compare(
    data: Dataset,
    rows: npt.NDArray[np.intp],
    new: Verdicts,
    old: Verdicts,
    fault: Mask,
    report: dict[str, Any],
    failed: list[str],
) -> None:
    weights, blocks, assets = data.weights[rows], data.blocks[rows], data.assets[rows]
    draw = np.random.default_rng(data.seed)
    cost, recall = _differences(new.alarms, old.alarms, fault, weights, blocks, draw, NOISE)
    judged = [asset for asset in np.unique(assets) if int((assets == asset).sum()) >= MIN_GROUP_ROWS]
    groups: dict[str, Interval] = {}
    for asset in judged:
        one = assets == asset
        # As many groups, as many chances to be worse by bad luck.
        groups[str(asset)], _ = _differences(
            new.alarms[one], old.alarms[one], fault[one], weights[one], blocks[one], draw, NOISE / len(judged)
        )
    report["metrics"] = {
        "candidate": _metrics(new, fault, weights),
        "current": _metrics(old, fault, weights),
        "difference": {"cost": vars(cost), "recall": vars(recall)},
        "groups": {asset: vars(value) for asset, value in groups.items()},
    }
    if not cost.high < 0:
        failed.append(f"not better than current beyond noise: cost difference {cost}")
    if recall.high < 0:
        failed.append(f"finds fewer faults than current: recall difference {recall}")
    failed += [f"worse than current on {asset}: {value}" for asset, value in groups.items() if value.low > 0]


def _metrics(verdicts: Verdicts, fault: Mask, weights: Floats) -> dict[str, float]:
    alarms = verdicts.alarms
    missed = float(np.average(~alarms[fault], weights=weights[fault]))
    false = float(np.average(alarms[~fault], weights=weights[~fault]))
    brier = float(np.average((verdicts.scores - fault) ** 2, weights=weights))
    return {"cost": missed + false, "missed_faults": missed, "false_alarms": false, "brier": brier}


def _differences(
    new: Mask,
    old: Mask,
    fault: Mask,
    weights: Floats,
    blocks: npt.NDArray[np.str_],
    draw: np.random.Generator,
    noise: float,
) -> tuple[Interval, Interval]:
    """Of cost and of recall, from the same draws. A side without windows adds nothing."""
    missed, missed_drawn = _drawn(np.subtract(~new, ~old, dtype=np.float64), weights, blocks, fault, draw)
    false, false_drawn = _drawn(np.subtract(new, old, dtype=np.float64), weights, blocks, ~fault, draw)
    return _interval(missed + false, missed_drawn + false_drawn, noise), _interval(
        0.0 - missed, 0.0 - missed_drawn, noise
    )


def _drawn(
    values: Floats, weights: Floats, blocks: npt.NDArray[np.str_], rows: Mask, draw: np.random.Generator
) -> tuple[float, Floats]:
    """The weighted mean of some rows, and the same with their blocks drawn again."""
    if not rows.any():
        return 0.0, np.zeros(DRAWS)
    _, index = np.unique(blocks[rows], return_inverse=True)
    total = np.bincount(index, weights[rows])
    wrong = np.bincount(index, weights[rows] * values[rows])
    times = draw.multinomial(len(total), np.full(len(total), 1 / len(total)), size=DRAWS)
    return float(wrong.sum() / total.sum()), (times @ wrong) / (times @ total)


def _interval(value: float, drawn: Floats, noise: float) -> Interval:
    low, high = np.quantile(drawn, [noise / 2, 1 - noise / 2])
    return Interval(value, float(low), float(high))


def _one_line(report: dict[str, Any]) -> str:
    if "metrics" not in report:
        return "; ".join(report["reasons"])
    new, old = report["metrics"]["candidate"], report["metrics"]["current"]
    return (
        f"missed faults {old['missed_faults']:.0%} to {new['missed_faults']:.0%}, false alarms "
        f"{old['false_alarms']:.0%} to {new['false_alarms']:.0%}; "
        f"cost {Interval(**report['metrics']['difference']['cost'])}"
    )
