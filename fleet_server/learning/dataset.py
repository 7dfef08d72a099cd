"""Rows to arrays, split into what is learned from and what is held out, and named by the hash of the content.

The split is by asset: a model that has seen one pump's quirks shall be judged on another pump. Where there are too few
assets for that, it is by time with a gap between, and says so: "time only" is weaker evidence.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from fleet_server.errors import Refused
from models.contract.features import FEATURE_SET
from models.contract.labels import NORMAL
from models.contract.signals import Signal, WindowSpec

Floats = npt.NDArray[np.float64]
Strings = npt.NDArray[np.str_]
Mask = npt.NDArray[np.bool_]

HOLDOUT_SHARE: Final = 0.35
WANTED_BLOCKS: Final = 4  # fault events held out, where there are enough: fewer tell little
EMBARGO_WINDOWS: Final = 20
MAX_EMBARGO: Final = 0.1  # of the time that the rows span


@dataclass(frozen=True)
class Row:
    """One window with what is known of it."""

    trace: str
    asset: str
    block: str  # windows that are not independent of each other: one event, or one stretch of an asset's time
    time: float  # its end, epoch seconds
    window_class: str  # NORMAL or a kind of fault
    weight: float
    vector: tuple[float, ...]
    provenance: str  # reference, explicit, implicit, ...
    label: str = ""  # the label's id
    score: float = math.nan  # as the model gave it that ran then
    version: int = 0  # of that model
    held: bool = False  # somebody wants it judged and not learned from; then nothing else is held out


@dataclass(frozen=True)
class Dataset:
    """Arrays with one entry a row, in the order of the hash."""

    sha256: str
    names: tuple[str, ...]  # of the vectors' entries
    window: WindowSpec
    signals: tuple[Signal, ...]
    split: Literal["asset", "time only", "as told"]
    vectors: Floats
    classes: Strings
    weights: Floats
    holdout: Mask
    assets: Strings
    blocks: Strings
    traces: Strings
    times: Floats
    scores: Floats
    versions: npt.NDArray[np.int64]
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def faults(self) -> tuple[str, ...]:
        return tuple(sorted({str(c) for c in self.classes} - {NORMAL}))

    @property
    def seed(self) -> int:
        """The same rows train the same model."""
        return int(self.sha256[:8], 16)


def assemble(
    rows: Sequence[Row],
    names: Sequence[str],
    window: WindowSpec,
    signals: Sequence[Signal],
    notes: dict[str, Any] | None = None,
) -> Dataset:
    """The dataset of these rows, in whatever order they come.

    Raises:
        Refused: nothing normal is among them, so nothing can be learned.
    """
    if not any(row.window_class == NORMAL for row in rows):
        raise Refused("no normal window is among the rows: there is nothing to learn what is usual from")
    ordered = sorted(rows, key=lambda row: (row.trace, row.window_class, row.asset, row.time))
    plan = _Split(ordered, _embargo_s(ordered, window))
    kept = [(row, held) for row, held in zip(ordered, plan.held, strict=True) if held is not None]
    digest = hashlib.sha256(
        json.dumps([FEATURE_SET, list(names), window.model_dump(), [s.model_dump() for s in signals]]).encode()
    )
    for row, held in kept:
        said = [row.trace, row.asset, row.block, row.time, row.window_class, round(row.weight, 9), held, row.vector]
        digest.update(json.dumps(said).encode())
    return Dataset(
        sha256=digest.hexdigest(),
        names=tuple(names),
        window=window,
        signals=tuple(signals),
        split=plan.by,
        vectors=np.array([row.vector for row, _ in kept], dtype=np.float64).reshape(len(kept), len(names)),
        classes=np.array([row.window_class for row, _ in kept]),
        weights=np.array([row.weight for row, _ in kept]),
        holdout=np.array([held for _, held in kept], dtype=np.bool_),
        assets=np.array([row.asset for row, _ in kept]),
        blocks=np.array([row.block for row, _ in kept]),
        traces=np.array([row.trace for row, _ in kept]),
        times=np.array([row.time for row, _ in kept]),
        scores=np.array([row.score for row, _ in kept]),
        versions=np.array([row.version for row, _ in kept], dtype=np.int64),
        summary=_summary(kept, plan, len(ordered) - len(kept)) | (notes or {}),
    )


def _embargo_s(rows: Sequence[Row], window: WindowSpec) -> float:
    """Time left out before what is held out, so that no two windows of one moment are on both sides. Never less than a
    window; a short recording would otherwise be nothing but a gap."""
    window_s = window.n_samples / window.rate_hz
    span_s = max(row.time for row in rows) - min(row.time for row in rows)
    return max(window_s, min(EMBARGO_WINDOWS * window_s, MAX_EMBARGO * span_s))


def dump(data: Dataset) -> bytes:
    """As a NumPy archive, readable with nothing of ours."""
    head = {
        "sha256": data.sha256,
        "names": list(data.names),
        "window": data.window.model_dump(),
        "signals": [signal.model_dump() for signal in data.signals],
        "split": data.split,
        "summary": data.summary,
        "feature_set": FEATURE_SET,
    }
    buffer = io.BytesIO()
    arrays = {name: getattr(data, name) for name in _ARRAYS}
    np.savez_compressed(buffer, head=np.array(json.dumps(head)), **arrays)
    return buffer.getvalue()


def load(content: bytes) -> Dataset:
    """What `dump` wrote."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        head = json.loads(str(archive["head"]))
        arrays = {name: archive[name] for name in _ARRAYS}
    return Dataset(
        sha256=head["sha256"],
        names=tuple(head["names"]),
        window=WindowSpec.model_validate(head["window"]),
        signals=tuple(Signal.model_validate(signal) for signal in head["signals"]),
        split=head["split"],
        summary=head["summary"],
        **arrays,
    )


_ARRAYS: Final = (
    "vectors classes weights holdout assets blocks traces times scores versions".split()  # noqa: SIM905 - a list of words
)


class _Split:
    """For each row: held out, learned from, or None for the gap between."""

    def __init__(self, rows: Sequence[Row], embargo_s: float) -> None:
        self.not_judged: list[str] = []  # classes of which nothing is held out
        self.held_assets: list[str] = []
        self.by: Literal["asset", "time only", "as told"] = "asset"
        self.held: list[bool | None] = self._as_told(rows) or self._by_asset(rows) or self._by_time(rows, embargo_s)

    def _as_told(self, rows: Sequence[Row]) -> list[bool | None] | None:
        if not any(row.held for row in rows):
            return None
        self.by = "as told"
        self.held_assets = sorted({row.asset for row in rows if row.held})
        judged = {row.window_class for row in rows if row.held}
        self.not_judged = sorted({row.window_class for row in rows} - judged)
        return [row.held for row in rows]

    def _by_asset(self, rows: Sequence[Row]) -> list[bool | None] | None:
        """None: that would leave one side without normal windows, or none of the faults judged."""
        where: dict[str, set[str]] = defaultdict(set)
        fault_blocks: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            where[row.window_class].add(row.asset)
            if row.window_class != NORMAL:
                fault_blocks[row.asset].add(row.block)
        lone = {name for name, assets in where.items() if len(assets) == 1}
        pinned = {asset for name in lone for asset in where[name]}  # what nobody else has is needed to learn from
        shared = sorted(where.keys() - lone, key=lambda name: (len(where[name]), name))
        everybody = sorted({row.asset for row in rows}, key=lambda asset: hashlib.sha256(asset.encode()).digest())
        held: set[str] = set()

        def can_go(asset: str) -> bool:
            return (
                asset not in pinned | held
                and len(held) + 1 <= len(everybody) // 2
                and all(where[name] - held - {asset} for name in shared)
            )

        def add_first(wanted: set[str]) -> bool:
            asset = next((asset for asset in everybody if asset in wanted and can_go(asset)), None)
            if asset is not None:
                held.add(asset)
            return asset is not None

        for name in shared:
            if not where[name] & held:
                add_first(where[name])
        while sum(len(fault_blocks[asset]) for asset in held) < WANTED_BLOCKS and add_first(set(fault_blocks)):
            pass
        while len(held) < round(HOLDOUT_SHARE * len(everybody)) and add_first(set(everybody)):
            pass
        judged = {name for name in where if where[name] & held}
        if NORMAL not in judged or not where[NORMAL] - held or (len(where) > 1 and not judged - {NORMAL}):
            return None
        self.not_judged = sorted(where.keys() - judged)
        self.held_assets = sorted(held)
        return [row.asset in held for row in rows]

    def _by_time(self, rows: Sequence[Row], embargo_s: float) -> list[bool | None]:
        """The newest blocks of each class are held out."""
        self.by = "time only"
        begins: dict[tuple[str, str], float] = {}
        for row in rows:
            key = (row.window_class, row.block)
            begins[key] = min(row.time, begins.get(key, math.inf))
        held: set[tuple[str, str]] = set()
        cut: dict[str, float] = {}
        for name in sorted({name for name, _ in begins}):
            blocks = sorted((key for key in begins if key[0] == name), key=lambda key: (begins[key], key[1]))
            if len(blocks) < 2:
                self.not_judged.append(name)
                continue
            n = max(1, min(len(blocks) // 2, max(WANTED_BLOCKS, round(HOLDOUT_SHARE * len(blocks)))))
            held.update(blocks[-n:])
            cut[name] = begins[blocks[-n]]
        held_blocks = {block for _, block in held}
        return [
            True
            if row.block in held_blocks
            else None
            if cut.get(row.window_class, math.inf) - embargo_s < row.time
            else False
            for row in rows
        ]


def _summary(kept: Sequence[tuple[Row, bool | None]], plan: _Split, between: int) -> dict[str, Any]:
    sides: dict[str, Counter[str]] = {"train": Counter(), "holdout": Counter()}
    for row, held in kept:
        sides["holdout" if held else "train"][row.window_class] += 1
    return {
        "rows": len(kept),
        "split": plan.by,
        "classes": {side: dict(sorted(counts.items())) for side, counts in sides.items()},
        "assets": dict(sorted(Counter(row.asset for row, _ in kept).items())),
        "held_assets": plan.held_assets,
        "provenance": dict(sorted(Counter(row.provenance for row, _ in kept).items())),
        "labels": len({row.label for row, _ in kept if row.label}),
        "not_judged": plan.not_judged,
        "between": between,
    }
