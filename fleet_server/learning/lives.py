"""Runs to failure to a model of the remaining useful life, with an interval of a stated coverage.

Inputs are those of models.life. The kind of regression is chosen by folds of machines: the one with the smaller error
on machines that it has not learned from. Remaining lives are cut at a cap, since a machine that is as new tells nothing
of how long it will last.

The interval is conformal, by machine: residuals are those of the folds, and a machine counts as one whatever the number
of its steps (hierarchical conformal prediction: Lee, Barber and Willett, Distribution-free inference with hierarchical
data, 2023, here over cross-validation folds instead of one split). By bands of the estimate, where there are enough
machines. With too few machines for the coverage asked, the interval is all there is: from 0 to beyond the cap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from pydantic import Field
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from fleet_server.config import Settings
from fleet_server.errors import Refused
from fleet_server.learning import compact
from models import life
from models.bundle.files import LifeCase
from models.bundle.manifest import Life
from models.contract.base import Text
from models.contract.signals import WindowSpec
from models.features.extract import Extractor
from models.recordings import Recording
from models.windows import Windower

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.float32]

FEWEST_RUNS: Final = 4
FOLDS: Final = 3
CAP: Final = 0.6  # of the median life, where no cap is said
MAX_CONDITIONS: Final = 10
EXPLAINED: Final = 0.99  # of the spread of what says how a machine is run, by conditions; else it is all one
BAND_RUNS: Final = 40  # machines, from which on the interval is told by bands of the estimate
N_BANDS: Final = 5
TOLERANCE: Final = 1e-5  # between estimator and ONNX, of the cap
MAX_CASES: Final = 32


class LifeSettings(Settings):
    """What to train of remaining life; `[life]` of the file."""

    unit: Annotated[Text, Field(min_length=1, max_length=20)] = "s"
    unit_s: Annotated[float, Field(gt=0)] = 1.0  # seconds of recording in one unit
    cap: Annotated[float, Field(gt=0)] | None = None  # in the unit
    every: Annotated[int, Field(ge=1)] = 1  # windows to a step
    conditions: tuple[str, ...] = ()  # signals that say how the machine is run, and not how it is
    coverage: Annotated[float, Field(gt=0, lt=1)] = 0.9


class Run(NamedTuple):
    """One machine's way, whole or in part: float64[n, width] a step, and what was left after the last one."""

    asset: str
    steps: Floats
    remaining: float
    holdout: bool


@dataclass(frozen=True)
class FittedLife:
    """A model with what a bundle says of it."""

    spec: Life
    model: HistGradientBoostingRegressor | Pipeline
    seen: Values  # some of the inputs, for golden values
    facts: dict[str, Any]

    def predict(self, values: Values) -> Floats:
        """float32[n, n_inputs] to the unit; as the device cuts it."""
        return np.asarray(np.clip(self.model.predict(values), 0, self.spec.cap), dtype=np.float64)


def steps_of(recording: Recording, window: WindowSpec, every: int) -> Floats:
    """float64[n, width]: the steps of a recording. Windows that hold what is no number make none."""
    windower, extract = Windower(window, len(recording.signals)), Extractor(recording.signals, window.rate_hz)
    steps = life.Steps([signal.name for signal in recording.signals], window)
    history = life.History(len(steps.names), every)
    done: list[Floats] = []
    for cut in windower.feed(recording.times, recording.values):
        values = steps.of(cut.values, extract(cut.values) if steps.of_features else None)
        if np.isfinite(values).all() and history.push(values):
            done.append(history.recent[-1])
    return np.array(done).reshape(len(done), len(steps.names))


def fit(runs: Sequence[Run], names: Sequence[str], said: LifeSettings, window: WindowSpec) -> FittedLife:
    """Train on the runs that are not held out, and judge on the others.

    Raises:
        Refused: too few runs, a condition that no signal gives, or nothing that varies.
    """
    train = [run for run in runs if not run.holdout and len(run.steps)]
    if len({run.asset for run in train}) < FEWEST_RUNS:
        raise Refused(f"{len(train)} runs with a known end to learn from, at least {FEWEST_RUNS} machines are needed")
    if unknown := set(said.conditions) - set(names):
        raise Refused(f"conditions: no signal is called {', '.join(sorted(unknown))}")
    step = said.every * window.hop / window.rate_hz / said.unit_s
    cap = said.cap or CAP * float(np.median([run.remaining + len(run.steps) * step for run in train]))
    spec = _scaling(np.vstack([run.steps for run in train]), names, said, cap)
    values, wanted, groups = _rows(train, names, spec, step)
    models = {"boosting": _boosting, "ridge": _ridge}
    folds = list(_folds(groups))
    unseen = {name: _out_of_fold(make, values, wanted, folds) for name, make in models.items()}
    errors = {name: _rmse(np.clip(said_, 0, cap) - wanted) for name, said_ in unseen.items()}
    kind = min(errors, key=lambda name: errors[name])
    residuals = np.clip(unseen[kind], 0, cap)
    bands, below, above = _interval(residuals, wanted, groups, cap, said.coverage)
    whole = spec.model_copy(update={"bands": bands, "below": below, "above": above})
    fitted = FittedLife(
        whole,
        models[kind](values, wanted),
        values[np.linspace(0, len(values) - 1, min(MAX_CASES, len(values))).astype(int)],
        {
            "remaining_life": kind,
            "runs": len(train),
            "steps": len(values),
            "cap": cap,
            "unit": said.unit,
            "conditions": max(1, len(spec.centers)),
            "rmse_by_folds_of_machines": {name: round(error, 3) for name, error in errors.items()},
            "coverage_asked": said.coverage,
        },
    )
    held = [run for run in runs if run.holdout and len(run.steps)]
    return FittedLife(whole, fitted.model, fitted.seen, fitted.facts | _judge(fitted, held, names, step))


def _boosting(values: Values, wanted: Floats) -> HistGradientBoostingRegressor:
    model = HistGradientBoostingRegressor(
        max_iter=300,
        learning_rate=0.04,
        max_leaf_nodes=15,
        l2_regularization=5.0,
        min_samples_leaf=max(5, min(100, len(values) // 100)),
        early_stopping=False,
        random_state=0,
    )
    with threadpool_limits(1):  # on a busy machine its threads wait for each other ten times as long as they work
        return model.fit(values, wanted)


def _ridge(values: Values, wanted: Floats) -> Pipeline:
    return make_pipeline(StandardScaler(), Ridge(alpha=100.0)).fit(values, wanted)


def _scaling(steps: Floats, names: Sequence[str], said: LifeSettings, cap: float) -> Life:
    """Conditions, and what is usual in each."""
    settings = steps[:, [list(names).index(name) for name in said.conditions]]
    moves = np.flatnonzero(settings.std(axis=0) > 1e-9 * (1 + np.abs(settings).max(initial=0.0)))
    conditions, scales = [said.conditions[i] for i in moves], settings[:, moves].std(axis=0)
    centers, which, reach = _conditions(settings[:, moves] / scales)
    if len(centers) < 2:
        conditions, scales, centers, reach = [], scales[:0], centers[:0], 0.0
    groups = [steps[which == k] for k in np.unique(which)]
    means = np.array([group.mean(axis=0) for group in groups])
    deep = np.array([group.std(axis=0) for group in groups])
    size = np.abs(means) + 1e-12
    varies = (deep > 1e-6 * size).any(axis=0)
    channels = [i for i, name in enumerate(names) if varies[i] and name not in said.conditions]
    if not channels:
        raise Refused("remaining life: no channel varies over the runs")
    spreads = np.maximum(deep, 1e-4 * size)[:, channels]
    return Life(
        unit=said.unit,
        cap=cap,
        every=said.every,
        channels=tuple(names[i] for i in channels),
        conditions=tuple(conditions),
        condition_scales=tuple(scales.tolist()),
        centers=tuple(map(tuple, centers.tolist())),
        reach=reach,
        means=tuple(map(tuple, means[:, channels].tolist())),
        spreads=tuple(map(tuple, spreads.tolist())),
        coverage=said.coverage,
        below=(cap,),
        above=(cap,),
    )


def _conditions(settings: Floats) -> tuple[Floats, npt.NDArray[np.intp], float]:
    """As few centres as explain nearly all of the spread; one, if no small number does."""
    n = len(settings)
    alone = np.zeros((1, settings.shape[1])), np.zeros(n, np.intp), 0.0
    if not settings.shape[1]:
        return alone
    total = float(((settings - settings.mean(axis=0)) ** 2).sum())
    for k in range(2, MAX_CONDITIONS + 1):
        found = KMeans(k, n_init=3, random_state=0).fit(settings)
        if found.inertia_ <= (1 - EXPLAINED) * total:
            away = np.linalg.norm(settings - found.cluster_centers_[found.labels_], axis=1)
            return found.cluster_centers_, found.labels_.astype(np.intp), 2 * float(away.max()) + 1e-6
    return alone


def _rows(
    runs: Sequence[Run], names: Sequence[str], spec: Life, step: float, last: bool = False
) -> tuple[Values, Floats, npt.NDArray[np.intp]]:
    """Inputs, remaining life cut at the cap, and whose they are: of each step, or of each run's last one."""
    values: list[Floats] = []
    wanted: list[float] = []
    groups: list[int] = []
    assets = sorted({run.asset for run in runs})
    for run in runs:
        scaled, n = life.scaled(run.steps, names, spec), len(run.steps)
        if len(scaled) < n:  # in a condition nobody trained on: of a run that is judged
            n = len(scaled)
        for age in range(n if last else 1, n + 1):
            values.append(life.compose(scaled[:age], age))
            wanted.append(min(spec.cap, run.remaining + (n - age) * step))
            groups.append(assets.index(run.asset))
    return np.array(values, np.float32), np.array(wanted), np.array(groups)


def _folds(groups: npt.NDArray[np.intp]) -> Iterator[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    order = np.random.default_rng(0).permutation(int(groups.max()) + 1)
    part = order[groups] % FOLDS
    for fold in range(FOLDS):
        yield part != fold, part == fold


def _out_of_fold(make: Any, values: Values, wanted: Floats, folds: Sequence[tuple[Any, Any]]) -> Floats:
    said = np.zeros(len(wanted))
    for fit_on, judged in folds:
        said[judged] = make(values[fit_on], wanted[fit_on]).predict(values[judged])
    return said


def _interval(
    said: Floats, wanted: Floats, groups: npt.NDArray[np.intp], cap: float, coverage: float
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Where bands end, and how far the truth may lie below and above the estimate in each."""
    n = N_BANDS if len(np.unique(groups)) >= BAND_RUNS else 1
    edges = tuple(cap * k / n for k in range(1, n))
    band = np.searchsorted(np.array(edges), said, side="right")
    level = 1 - (1 - coverage) / 2
    tables: tuple[list[float], list[float]] = ([], [])
    for k in range(n):
        rows = band == k
        for table, over in zip(tables, (said - wanted, wanted - said), strict=True):
            table.append(min(cap, max(0.0, _by_machine(over[rows], groups[rows], level))))
    return edges, tuple(tables[0]), tuple(tables[1])


def _by_machine(over: Floats, groups: npt.NDArray[np.intp], level: float) -> float:
    """The quantile of values in which each machine weighs 1 / (K + 1), and the one to come, that much at infinity."""
    machines, counts = np.unique(groups, return_counts=True)
    weights = 1 / ((len(machines) + 1) * counts[np.searchsorted(machines, groups)])
    order = np.argsort(over)
    reached = np.flatnonzero(np.cumsum(weights[order]) >= level - 1e-12)
    return float(over[order[reached[0]]]) if reached.size else float("inf")


def _judge(fitted: FittedLife, held: Sequence[Run], names: Sequence[str], step: float) -> dict[str, Any]:
    """How the held out machines' last steps are told."""
    if not held:
        return {}
    values, wanted, _ = _rows(held, names, fitted.spec, step, last=True)
    said = fitted.predict(values)
    each = [life.estimate(value, fitted.spec) for value in said]
    inside = [e.low <= y <= e.high for e, y in zip(each, wanted, strict=True)]
    off = said - wanted
    return {
        "held_out": {
            "machines": len(held),
            "rmse_cut": round(_rmse(off), 3),
            "rmse_as_given": round(_rmse(said - np.array([run.remaining for run in held])), 3),
            "nasa_score_cut": round(float(np.where(off < 0, np.exp(-off / 13), np.exp(off / 10)).sum() - len(off)), 1),
            "inside_interval": round(float(np.mean(inside)), 4),
            "median_width": round(float(np.median([min(e.high, fitted.spec.cap) - e.low for e in each])), 2),
        }
    }


def _rmse(off: Floats) -> float:
    return float(np.sqrt(np.mean(off**2)))


def to_bundle(fitted: FittedLife) -> tuple[bytes, tuple[LifeCase, ...]]:
    """The ONNX model, and golden values that the estimator gave. Raises Refused: they differ from the model's."""
    compact.register()
    model = to_onnx(
        fitted.model,
        initial_types=[("features", FloatTensorType([None, life.n_inputs(fitted.spec)]))],
        target_opset={"": 17, "ai.onnx.ml": 1},
    )
    (given,) = [output.name for output in model.graph.output]
    model.graph.node.append(helper.make_node("Reshape", [given, "column"], ["life"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 1], np.int64), "column"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("life", TensorProto.FLOAT, [None, 1]))
    model.producer_name = model.producer_version = model.domain = model.doc_string = ""
    model.ir_version = min(model.ir_version, 8)
    onnx.checker.check_model(model)
    values = fitted.model.predict(fitted.seen)
    cases = [
        LifeCase(inputs=tuple(map(float, row)), value=float(value))
        for row, value in zip(fitted.seen, values, strict=True)
    ]
    return bytes(model.SerializeToString(deterministic=True)), tuple(cases)
