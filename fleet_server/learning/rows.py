"""Which of the fleet's windows may train, and as what. The rules:

1. Normal: reference windows outside every fault and every alarm that nobody has judged, with weight 1/probability, up
   to a limit; and the windows of alarms that were judged false, with the label's weight.
2. A fault: the windows of alarms with an accepted label "fault", while the alarm lasted; and windows inside a stretch
   of time that was labelled without an alarm. Reference windows are picked at random, alarmed or not, so those within
   a judged alarm take its label.
3. Nothing else: hard examples without a label, other feature sets, other channels, what was measured shortly before a
   fault was seen, and what was measured or alarmed in a maintenance window or while the machine settled after it, are
   counted and left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from pydantic import ValidationError

from fleet_server.errors import Refused
from fleet_server.learning.dataset import Row
from fleet_server.store.datasets import EpisodeRow, LabelRow, SampleRow
from models.alarms import fences
from models.contract.alarms import Maintenance
from models.contract.features import FEATURE_SET, NAMES, vector_names
from models.contract.health import AssetHealth
from models.contract.labels import NORMAL, FaultKind, Verdict
from models.contract.signals import Signal, WindowSpec

MAX_WEIGHT_RATIO: Final = 20.0  # one rare window shall not outweigh twenty others
LEAD_WINDOWS: Final = 20  # before a fault was seen it was there already, and nobody knows since when
_FOREVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Chosen:
    """Rows, what their vectors mean, and what was left out and why."""

    rows: list[Row]
    names: tuple[str, ...]
    window: WindowSpec
    signals: tuple[Signal, ...]
    left_out: dict[str, int]
    label_ids: list[UUID]


def choose(
    samples: Sequence[SampleRow],
    episodes: Sequence[EpisodeRow],
    labels: Sequence[LabelRow],
    settings: Iterable[tuple[str, str, dict[str, Any]]],
    maintenance: Iterable[Maintenance] = (),
) -> Chosen:
    """Apply the rules above.

    Raises:
        Refused: nothing usable is left, or the devices cut their windows differently.
    """
    left_out: Counter[str] = Counter()
    fence = _Fence(maintenance)
    kept = [label for label in labels if not fence.holds(label.asset_id, label.start_at, label.start_at)]
    left_out["labels given in a maintenance window"] = len(labels) - len(kept)
    labels = kept
    ours = [row for row in samples if row.feature_set == FEATURE_SET]
    left_out["another feature set"] = len(samples) - len(ours)
    health = _health(settings)
    ours, signals = _same_channels(ours, health, left_out)
    window = _same_window({(row.device_id, row.asset_id) for row in ours}, health)
    names = vector_names(signals)
    judge = _Judge(episodes, labels, timedelta(seconds=window.n_samples / window.rate_hz))
    weights = _reference_weights(ours)
    rows: dict[UUID, Row] = {}
    # A window may have been sent twice, as part of an alarm and by chance: what a person said of it counts.
    for sample in sorted(ours, key=lambda row: (row.reason != "alarm", row.trace_id, row.reason)):
        if sample.trace_id in rows:
            continue
        if fence.holds(sample.asset_id, sample.window_start, sample.window_end):
            left_out["in a maintenance window"] += 1
            continue
        window_class, label, why_not = judge.judge(sample)
        if window_class is None:
            left_out[why_not] += 1
            continue
        rows[sample.trace_id] = Row(
            trace=str(sample.trace_id),
            asset=sample.asset_id,
            block=judge.block(sample, label),
            time=sample.window_end.timestamp(),
            window_class=window_class,
            weight=label.weight if label else weights[sample.probability],
            vector=tuple(float(sample.features[name]) for name in names),
            provenance=label.provenance if label else "reference",
            label=str(label.label_id) if label else "",
            score=sample.score,
            version=sample.model_version,
        )
    if not rows:
        raise Refused(f"no window may train: {dict(+left_out)}")
    used = {row.label for row in rows.values()}
    label_ids = [label.label_id for label in labels if str(label.label_id) in used]
    return Chosen(list(rows.values()), names, window, signals, dict(+left_out), label_ids)


class _Fence:
    """Times of which nothing is learned."""

    def __init__(self, windows: Iterable[Maintenance]) -> None:
        self._of: dict[str, list[Maintenance]] = defaultdict(list)
        for window in windows:
            self._of[window.asset].append(window)

    def holds(self, asset: str, start: datetime, end: datetime) -> bool:
        return any(fences(window, start, end) for window in self._of[asset])


class _Judge:
    """What is known of a window, from labels and alarms."""

    def __init__(self, episodes: Sequence[EpisodeRow], labels: Sequence[LabelRow], window: timedelta) -> None:
        self._block_s = max(60.0, 100 * window.total_seconds())
        self._episode = {row.event_id: row for row in episodes}
        self._by_event = {label.event_id: label for label in labels if label.event_id is not None}
        self._free: dict[str, list[LabelRow]] = defaultdict(list)
        self._doubtful: dict[str, list[tuple[datetime, datetime, str]]] = defaultdict(list)
        for label in labels:
            if label.event_id is None:
                self._free[label.asset_id].append(label)
            if label.verdict == Verdict.FAULT:
                lead = max(LEAD_WINDOWS * window, label.end_at - label.start_at)
                end = max(label.end_at, self._end_of(label))
                self._doubtful[label.asset_id].append((label.start_at - lead, end, "in or before a fault"))
        self._judged: dict[str, list[tuple[datetime, datetime, LabelRow]]] = defaultdict(list)
        for row in episodes:
            if judged := self._by_event.get(row.event_id):
                if row.cleared_at is not None:
                    self._judged[row.asset_id].append((row.opened_at, row.cleared_at, judged))
            else:
                end = row.cleared_at or _FOREVER
                self._doubtful[row.asset_id].append((row.opened_at, end, "in an alarm that nobody has judged"))

    def judge(self, row: SampleRow) -> tuple[str | None, LabelRow | None, str]:
        """Its class and the label behind that, or None and why it may not train."""
        if label := self._label(row):
            if label.verdict == Verdict.FALSE_ALARM:
                return NORMAL, label, ""
            episode = self._episode.get(row.event_id) if row.event_id else None
            if episode is not None and episode.cleared_at is not None and row.window_end >= episode.cleared_at:
                return None, None, "after the alarm was over"
            return label.fault or FaultKind.OTHER.value, label, ""
        if row.reason != "reference":
            return None, None, "alarm or hard example without an accepted label"
        for start, end, why in self._doubtful[row.asset_id]:
            if row.window_start <= end and row.window_end >= start:
                return None, None, why
        return NORMAL, None, ""

    def block(self, row: SampleRow, label: LabelRow | None) -> str:
        if label is not None:
            return str(label.event_id or label.label_id)
        return f"{row.asset_id}/{int(row.window_end.timestamp() // self._block_s)}"

    def _label(self, row: SampleRow) -> LabelRow | None:
        if row.event_id is not None and (label := self._by_event.get(row.event_id)):
            return label
        stretches = [(label.start_at, label.end_at, label) for label in self._free[row.asset_id]]
        stretches += self._judged[row.asset_id]
        inside = (label for start, end, label in stretches if start <= row.window_start and row.window_end <= end)
        return next(inside, None)

    def _end_of(self, label: LabelRow) -> datetime:
        """When the labelled alarm was over: not when somebody spoke of it."""
        episode = self._episode.get(label.event_id) if label.event_id else None
        return label.end_at if episode is None else episode.cleared_at or _FOREVER


def _health(settings: Iterable[tuple[str, str, dict[str, Any]]]) -> dict[tuple[str, str], AssetHealth]:
    known: dict[tuple[str, str], AssetHealth] = {}
    for device, asset, raw in settings:
        try:
            known[device, asset] = AssetHealth.model_validate(raw)
        except ValidationError:  # a newer agent's words: the others may do
            continue
    return known


def _same_channels(
    samples: Sequence[SampleRow], health: dict[tuple[str, str], AssetHealth], left_out: Counter[str]
) -> tuple[list[SampleRow], tuple[Signal, ...]]:
    """The windows of the commonest set of channels."""
    for keys, n in Counter(frozenset(row.features) for row in samples).most_common():
        same = [row for row in samples if row.features.keys() == keys]
        # A device knows order, units, limits and bearings; what none has described may still be plain channels.
        said = [health[key].signals for key in dict.fromkeys((r.device_id, r.asset_id) for r in same) if key in health]
        plain = tuple(Signal(name=name) for name in sorted({key.rpartition(".")[0] for key in keys}))
        for signals in (*said, plain):
            if keys == set(vector_names(signals)):
                left_out["other channels"] = len(samples) - n
                return same, signals
    raise Refused(f"no window of feature set {FEATURE_SET} with all of its {len(NAMES)} features a channel")


def _same_window(used: set[tuple[str, str]], health: dict[tuple[str, str], AssetHealth]) -> WindowSpec:
    specs = {key: health[key].window for key in sorted(used) if key in health and health[key].window is not None}
    if not specs:
        raise Refused("no device has said how it cuts its windows: its heartbeat names rate, length and hop")
    different = {spec.model_dump_json() for spec in specs.values() if spec is not None}
    if len(different) > 1:
        told = "; ".join(f"{d}/{a}: {s.n_samples} at {s.rate_hz:g} Hz" for (d, a), s in specs.items() if s is not None)
        raise Refused(f"devices cut their windows differently, one model cannot fit both: {told}"[:500])
    spec = next(iter(specs.values()))
    assert spec is not None
    return spec


def _reference_weights(samples: Sequence[SampleRow]) -> dict[float, float]:
    """Probability to weight; 1 on average over the reference windows."""
    counts = Counter(row.probability for row in samples if row.reason == "reference")
    if not counts:
        return defaultdict(lambda: 1.0)
    least = min(1 / p for p in counts)
    raw = {p: min(1 / p, MAX_WEIGHT_RATIO * least) for p in counts}
    mean = sum(raw[p] * n for p, n in counts.items()) / counts.total()
    return defaultdict(lambda: 1.0, {p: weight / mean for p, weight in raw.items()})
