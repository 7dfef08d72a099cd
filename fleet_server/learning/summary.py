"""What is said of a bundle trained from files: how it does on what it has not seen, as data and as a table."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fleet_server.errors import Refused
from fleet_server.learning import degradation, training
from fleet_server.learning.dataset import Dataset
from fleet_server.learning.training import Fitted
from models import selfref
from models.bundle.files import Bundle
from models.contract.labels import NORMAL


def about(bundle: Bundle, data: Dataset) -> dict[str, Any]:
    """What was made, from what."""
    return {
        "name": bundle.manifest.name,
        "version": bundle.manifest.version,
        "sha256": bundle.sha256,
        "bytes": len(bundle.data),
        "window": data.window.model_dump(),
        "signals": [signal.name for signal in data.signals],
        "alarm": bundle.manifest.alarm.model_dump(),
        "dataset": data.summary,
        "learns_on_device": bundle.manifest.novelty.calibration != "trained",
    }


def relative(fitted: degradation.FittedDegradation) -> dict[str, Any]:
    said = {"training": fitted.facts | {"classifier": "none"}, "groups": []}
    return said | {"held_out_false_alarms": None, "held_out_missed": None}


def on_each(bundle: Bundle, data: Dataset) -> dict[str, Any]:
    """Figures of a bundle that learns on the device: each machine's first half teaches, its second half is judged."""
    over: list[npt.NDArray[np.bool_]] = []
    groups = []
    for machine in np.unique(data.assets):
        first, second = training.halves(data, str(machine))
        try:
            selection, reference, _ = training.self_reference(data, first)
        except Refused:  # half of it is too short to learn from; it is not judged
            continue
        alarm = selfref.score(selection.apply(data.vectors[second]), reference) >= bundle.manifest.alarm.raise_at
        over.append(alarm)
        groups.append(_group(str(machine), NORMAL, "holdout", alarm, Counter()))
    return {
        "training": {"novelty": "learned on each machine", "classifier": "none"},
        "held_out_false_alarms": _share(np.concatenate(over)) if over else None,
        "held_out_missed": None,
        "groups": groups,
    }


def _group(asset: str, kind: str, side: str, alarm: npt.NDArray[np.bool_], said: Counter[str]) -> dict[str, Any]:
    return {
        "asset": asset,
        "class": kind,
        "side": side,
        "windows": int(alarm.size),
        "over_limit": _share(alarm) or 0.0,
        "named": dict(said.most_common(4)),
    }


def held_out(data: Dataset, fitted: Fitted) -> dict[str, Any]:
    """Figures by machine and class, of what was learned from and of what was held out."""
    score = 1 / (1 + np.exp(np.clip((fitted.raw(data.vectors) - fitted.limit) / fitted.scale, -60, 60)))
    shares = fitted.probabilities(data.vectors)
    named = likeliest = np.full(len(score), "", dtype="U40")
    if shares is not None:
        is_normal = fitted.classes.index(NORMAL)
        score = np.maximum(score, 1 - shares[:, is_normal])
        classes = np.array(fitted.classes)
        named, likeliest = (
            classes[shares.argmax(axis=1)],
            np.delete(classes, is_normal)[np.delete(shares, is_normal, axis=1).argmax(axis=1)],
        )
    alarm = score >= fitted.alarm.raise_at
    held, normal = data.holdout, data.classes == NORMAL
    groups = []
    for asset in np.unique(data.assets):
        for kind in np.unique(data.classes[data.assets == asset]):
            for side, mask in (("train", ~held), ("holdout", held)):
                rows = mask & (data.assets == asset) & (data.classes == kind)
                if rows.any():
                    said = Counter(named[rows].tolist()) if shares is not None else Counter()
                    groups.append(_group(str(asset), str(kind), side, alarm[rows], said))
    return {
        "training": fitted.facts,
        "held_out_false_alarms": _share(alarm[held & normal]),
        "held_out_missed": _share(~alarm[held & ~normal]),
        # Of the windows of a fault: the fault that is named where a fault is.
        "held_out_fault_named": {
            str(kind): _share(likeliest[held & (data.classes == kind)] == kind)
            for kind in np.unique(data.classes[held & ~normal])
        },
        "groups": groups,
    }


def _share(rows: npt.NDArray[np.bool_]) -> float | None:
    return round(float(rows.mean()), 4) if rows.size else None


LEARNS_THERE: Final = (
    "normal differs more between the machines than on one of them: one limit for all would see little, so\n"
    "the bundle learns what is normal on each machine, from its own first windows (below: first half, second half)"
)


def as_text(summary: dict[str, Any]) -> str:
    """The summary as a table."""
    window, data = summary["window"], summary["dataset"]
    lines = [
        f"{summary['name']} {summary['version']}: {summary['bytes']} bytes, {summary['sha256'][:12]}",
        f"windows of {window['n_samples']} at {window['rate_hz']:g} Hz, a new one every {window['hop']} rows;"
        f" signals {', '.join(summary['signals'])}",
        f"{data['rows']} windows used, held out by {data['split']}; left out: {data['left_out'] or 'none'}",
        f"novelty: {summary['training']['novelty']}; classifier: {summary['training']['classifier']}",
        *([LEARNS_THERE] if summary["learns_on_device"] and summary["groups"] else []),
        *([f"degradation: {summary['training']}"] if "feature" in summary["training"] else []),
        *([f"remaining life: {summary['remaining_life']}"] if "remaining_life" in summary else []),
        *([f"not judged, too little of it: {', '.join(data['not_judged'])}"] if data["not_judged"] else []),
        "",
        f"{'machine':24} {'class':16} {'side':8} {'windows':>8} {'over limit':>10}  named",
    ]
    for group in summary["groups"]:
        named = ", ".join(f"{name} {n}" for name, n in group["named"].items())
        lines.append(
            f"{group['asset']:24} {group['class']:16} {group['side']:8} {group['windows']:8d} "
            f"{group['over_limit']:10.1%}  {named}".rstrip()
        )
    lines.append("")
    for key, words in (("held_out_false_alarms", "false alarms"), ("held_out_missed", "missed faults")):
        value = summary[key]
        lines.append(f"held-out windows, {words}: {'nothing to judge by' if value is None else f'{value:.2%}'}")
    if faults := summary.get("held_out_fault_named"):
        said = ", ".join(f"{kind} {share:.2%}" for kind, share in faults.items())
        lines.append(f"held-out windows of a fault, fault named right: {said}")
    return "\n".join(lines)
