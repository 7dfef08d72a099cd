"""Which fault a window looks like: several kinds of classifier over "normal" and each fault with enough windows.

The kind is chosen on the training rows: the one that names the faults of machines best that it has not seen. Where a
signal has a bearing, kinds that look only at the signs of its defects stand for election too: levels and bands say how
bad this machine's fault is, and do not carry over to the next one.

The weight of "normal" is the one that costs least on held-out windows, missed faults and false alarms alike, among
those that keep normal windows quiet; if none does, there is no classifier, and novelty has to do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from fleet_server.learning.dataset import Dataset, Floats, Mask
from models.contract.features import BEARING_NAMES
from models.contract.labels import NORMAL

MIN_FAULT_ROWS: Final = 8
NORMAL_WEIGHTS: Final = (1.0, 3.0, 9.0, 27.0)  # of "normal", where all faults together weigh 1
NOISY: Final = 0.05  # share of held-out normal windows that a classifier may call a fault
CALIBRATE: Final = (100, 10)  # rows and blocks of every class, from which on probabilities are calibrated
SHRINK: Final = 0.05  # LogisticRegression's C: few machines say little about each sign

Values = npt.NDArray[np.float32]
Strings = npt.NDArray[np.str_]
Split = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]


class Kind(NamedTuple):
    """`learn` takes float32[n, m], classes[n], weights[n], a seed. Inputs that are not `seen` are 0 while it learns, so
    that it does without them ever after."""

    name: str
    seen: Mask
    learn: Callable[[Values, Strings, Floats, int], Any]

    def fit(self, values: Values, classes: Strings, weights: Floats, seed: int) -> Any:
        return self.learn(np.where(self.seen, values, np.float32(0)), classes, weights, seed)


def fit(
    data: Dataset, train: Mask, positions: npt.NDArray[np.intp], seed: int
) -> tuple[Any | None, tuple[str, ...], dict[str, Any]]:
    """A classifier of the vectors' `positions`, its classes, and what is to be said of it; None: why there is none."""
    enough = [name for name in data.faults if int((train & (data.classes == name)).sum()) >= MIN_FAULT_ROWS]
    thin = sorted(set(data.faults) - set(enough))
    if not enough:
        return None, (), {"classifier": "none: no fault has enough windows", "thin": thin}
    rows = train & np.isin(data.classes, [NORMAL, *enough])
    values, classes = data.vectors[np.ix_(rows, positions)].astype(np.float32), data.classes[rows]
    blocks, assets = data.blocks[rows], data.assets[rows]
    fault = classes != NORMAL
    kinds = _kinds([data.names[i] for i in positions])
    kind, right = _elect(
        kinds, values[fault], classes[fault], data.weights[rows][fault], blocks[fault], assets[fault], seed
    )
    # By asset where each side keeps every class, by block where faults live on too few assets for that.
    by_asset = all(len(np.unique(assets[classes == name])) >= 3 for name in enough)
    splits = list(_splits(values, classes, assets if by_asset else blocks, seed))
    tried = []
    for normal_weight in NORMAL_WEIGHTS:
        weights = _weights(data.weights[rows], classes, normal_weight)
        false, missed = _mistakes(kind, values, classes, weights, splits, seed)
        if not false > NOISY:
            tried.append((false + missed, false, normal_weight))
        if false == 0 or not missed < 1:  # more weight would only see less; nan: nothing can be held out
            break
    if not tried:
        return None, (), {"classifier": "none: it calls too many normal windows a fault", "thin": thin}
    _, wrong, normal_weight = min(tried)
    weights = _weights(data.weights[rows], classes, normal_weight)
    least_rows = min(int((classes == name).sum()) for name in np.unique(classes))
    least_blocks = min(len(np.unique(blocks[classes == name])) for name in np.unique(classes))
    # A forest's shares of trees are no probabilities; a logistic model's are.
    calibrated = (
        kind.learn is _forest and least_rows >= CALIBRATE[0] and least_blocks >= CALIBRATE[1] and len(splits) >= 3
    )
    if calibrated:
        calibration = CalibratedClassifierCV(_new_forest(seed), method="sigmoid", ensemble=False, cv=splits)
        model = calibration.fit(np.where(kind.seen, values, np.float32(0)), classes, sample_weight=weights)
    else:
        model = kind.fit(values, classes, weights, seed)
    facts = {
        "classifier": f"{kind.name} over {len(enough)} faults, {int(fault.sum())} fault windows",
        "fault_named_in_validation": right,
        "calibrated": calibrated,
        "normal_weight": normal_weight,
        "normal_called_fault": None if np.isnan(wrong) else round(wrong, 4),
        "thin": thin,
    }
    return model, tuple(str(name) for name in model.classes_), facts


def _kinds(inputs: list[str]) -> list[Kind]:
    """The first is taken where nothing speaks for another."""
    signs = np.array([name.rpartition(".")[2] in BEARING_NAMES for name in inputs])
    kinds = [Kind("forest", np.ones(len(inputs), np.bool_), _forest)]
    if signs.any():
        kinds += [Kind("forest on bearing signs", signs, _forest), Kind("logistic on bearing signs", signs, _logistic)]
    return kinds


def _elect(
    kinds: list[Kind], values: Values, classes: Strings, given: Floats, blocks: Strings, assets: Strings, seed: int
) -> tuple[Kind, dict[str, float] | None]:
    """The kind that names faults best where it has not learned them, and each one's mean recall over the faults; by
    machine if each fault was seen on two. None: there was nothing to choose, or nothing to choose by."""
    names = np.unique(classes)
    by_asset = all(len(np.unique(assets[classes == name])) >= 2 for name in names)
    splits = list(_splits(values, classes, assets if by_asset else blocks, seed))
    if len(kinds) == 1 or len(names) < 2 or not splits:
        return kinds[0], None
    recall = {}
    for kind in kinds:
        said = np.full(len(classes), "", classes.dtype)
        for fit_on, judged in splits:
            weights = _weights(given[fit_on], classes[fit_on], 1.0)
            said[judged] = kind.fit(values[fit_on], classes[fit_on], weights, seed).predict(values[judged])
        heard = said != ""
        each = [(said == classes)[heard & (classes == name)].mean() for name in names]
        recall[kind.name] = round(float(np.mean(each)), 4)
    best = max(kinds, key=lambda kind: recall[kind.name])
    return best, recall


def _new_forest(seed: int) -> RandomForestClassifier:
    return RandomForestClassifier(60, max_depth=8, min_samples_leaf=2, random_state=seed, n_jobs=1)


def _forest(values: Values, classes: Strings, weights: Floats, seed: int) -> Any:
    return _new_forest(seed).fit(values, classes, sample_weight=weights)


def _logistic(values: Values, classes: Strings, weights: Floats, seed: int) -> Any:
    """Learned on standardised inputs, then said in terms of the inputs as they are: one step less on the device."""
    scaler = StandardScaler().fit(values, sample_weight=weights)
    model = LogisticRegression(C=SHRINK, max_iter=2000, random_state=seed)
    model.fit(scaler.transform(values), classes, sample_weight=weights)
    model.coef_ = model.coef_ / scaler.scale_
    model.intercept_ = model.intercept_ - model.coef_ @ scaler.mean_
    return model


def _weights(given: Floats, classes: Strings, normal_weight: float) -> Floats:
    """Each fault weighs as much as the next, all of them together 1, "normal" as said."""
    weights = given.copy()
    names = np.unique(classes)
    faults = max(int((names != NORMAL).sum()), 1)
    for name in names:
        rows = classes == name
        weights[rows] *= (normal_weight if name == NORMAL else 1 / faults) / weights[rows].sum()
    scaled: Floats = weights / weights.mean()
    return scaled


def _splits(values: Values, classes: Strings, groups: Strings, seed: int) -> Iterator[Split]:
    n = min(5, len(np.unique(groups)), *(len(np.unique(groups[classes == name])) for name in np.unique(classes)))
    if n >= 2:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class with few members: it is checked here
            for fit_on, judged in StratifiedGroupKFold(n, shuffle=True, random_state=seed).split(
                values, classes, groups
            ):
                if len(np.unique(classes[fit_on])) == len(np.unique(classes)):
                    yield fit_on, judged


def _mistakes(
    kind: Kind, values: Values, classes: Strings, weights: Floats, splits: list[Split], seed: int
) -> tuple[float, float]:
    """Shares of held-out normal windows called a fault, and of faults that are not. nan: none can be held out."""
    p_fault = np.full(len(classes), np.nan)
    for fit_on, judged in splits:
        model = kind.fit(values[fit_on], classes[fit_on], weights[fit_on], seed)
        p_fault[judged] = 1 - model.predict_proba(values[judged])[:, list(model.classes_).index(NORMAL)]
    heard, normal = np.isfinite(p_fault), classes == NORMAL
    if not (heard & normal).any() or not (heard & ~normal).any():
        return float("nan"), float("nan")
    return float((p_fault[heard & normal] >= 0.5).mean()), float((p_fault[heard & ~normal] < 0.5).mean())
