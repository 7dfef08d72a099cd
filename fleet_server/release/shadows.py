"""What a challenger showed in shadow, over all devices: reports added up by pair of models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from models.contract.release import PairedScores
from models.paired import difference_quantiles, ks, mean_difference, merged, wasserstein

QUANTILES = (0.05, 0.5, 0.95)


def summary(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a pair of champion and challenger. `cpu_share` is the highest of any device, over all its assets."""
    pairs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for report in reports:
        pairs[report["champion_sha256"], report["challenger_sha256"]].append(report)
    return [_entry(champion, challenger, found) for (champion, challenger), found in sorted(pairs.items())]


def words(entry: dict[str, Any]) -> str:
    """One line for people."""
    low, middle, high = entry["difference_quantiles"]
    alone, missed = entry["only_challenger_over"], entry["only_champion_over"]
    return (
        f"shadow of {entry['champion'][:12]}: {entry['scored']} of {entry['windows']} windows on {entry['assets']}"
        f" assets; score {entry['mean_difference']:+.3f} on average (5/50/95%: {low:+.2f} {middle:+.2f} {high:+.2f}),"
        f" over the threshold {alone} times alone, {missed} times missing, {entry['not_finite']} no numbers;"
        f" {entry['cpu_share']:.2%} of a core at most, {entry['cpu_share_cap']:.0%} allowed"
    )


def _entry(champion: str, challenger: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    scores = merged(PairedScores.model_validate(report["scores"]) for report in reports)
    cpu, wall = defaultdict[str, float](float), defaultdict[tuple[str, str], float](float)
    for report in reports:
        cpu[report["device_id"]] += report["cpu_s"]
        wall[report["device_id"], report["asset_id"]] += report["wall_s"]
    lasted = {device: max(s for (d, _), s in wall.items() if d == device) for device in cpu}
    return {
        "champion": champion,
        "challenger": challenger,
        "devices": len(cpu),
        "assets": len({report["asset_id"] for report in reports}),
        "windows": sum(report["windows"] for report in reports),
        "scored": scores.n,
        "not_finite": scores.not_finite,
        "both_over": scores.both_over,
        "only_challenger_over": scores.only_challenger_over,
        "only_champion_over": scores.only_champion_over,
        "mean_difference": mean_difference(scores),
        "difference_quantiles": difference_quantiles(scores, QUANTILES),
        "wasserstein": wasserstein(scores),
        "ks": ks(scores),
        "cpu_share": max(s / lasted[device] if lasted[device] else 0.0 for device, s in cpu.items()),
        "cpu_share_cap": max(report["cpu_share_cap"] for report in reports),
        "scores": scores.model_dump(mode="json"),
    }
