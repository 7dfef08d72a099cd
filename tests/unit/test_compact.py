"""Compact ONNX of isolation forests and histogram boosting gives what scikit-learn gives, also on the thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, IsolationForest
from threadpoolctl import threadpool_limits

from fleet_server.learning import compact, export
from models.bundle import graph
from tests.harmful import bundle_of

Values = np.ndarray[Any, np.dtype[np.float32]]
EACH = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
compact.register()


def converted(model: Any, width: int, **options: Any) -> Any:
    return to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, width]))],
        options={id(model): options} if options else None,
        target_opset=export.OPSET,
    )


def run(onnx_model: Any, values: Values) -> list[Any]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(onnx_model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given: list[Any] = session.run(None, {"features": values})
    return given


@st.composite
def rows(draw: st.DrawFn) -> Values:
    """Coarse, so that thresholds are met; of large and small scale; sometimes with a channel that never moves."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, width = draw(st.integers(20, 120)), draw(st.integers(1, 5))
    values = rng.normal(size=(n, width)) * 10.0 ** draw(st.integers(-4, 4))
    if draw(st.booleans()):
        values[:, 0] = values[0, 0]
    digits = draw(st.sampled_from([1, 2, 6]))
    return np.array([[float(f"{v:.{digits}g}") for v in row] for row in values], np.float32)


def tried_on(values: Values, thresholds: list[float]) -> Values:
    """The rows, far away ones, and rows on each threshold, its float32 neighbours included."""
    at = np.array(thresholds or [0.0]).astype(np.float32)
    near = np.concatenate([at, np.nextafter(at, np.float32(-np.inf)), np.nextafter(at, np.float32(np.inf))])
    return np.vstack([values, 1000 * values, np.repeat(near[:300, None], values.shape[1], axis=1)])


@EACH
@given(rows(), st.integers(1, 12), st.sampled_from([1.0, 0.5]), st.sampled_from([1, 2, 0.5, "auto"]), st.booleans())
def test_an_isolation_forest_scores_as_scikit_learn_does(
    values: Values, trees: int, columns: float, samples: Any, contaminated: bool
) -> None:
    model = IsolationForest(
        n_estimators=trees,
        max_features=columns,
        max_samples=samples,
        contamination=0.1 if contaminated else "auto",
        random_state=0,
    ).fit(values)
    on = tried_on(values, [t for tree in model.estimators_ for t in tree.tree_.threshold[tree.tree_.feature >= 0]])
    label, decision, raw = run(converted(model, values.shape[1], score_samples=True), on)
    assert np.abs(raw.ravel() - model.score_samples(on)).max() <= 1e-5
    assert np.abs(decision.ravel() - model.decision_function(on)).max() <= 1e-5
    certain = np.abs(model.decision_function(on)) > 1e-6
    assert (label.ravel() == model.predict(on))[certain].all()


def boosted_thresholds(model: Any) -> list[float]:
    nodes = [tree.nodes for trees in model._predictors for tree in trees]
    return [float(t) for n in nodes for t in n["num_threshold"][n["is_leaf"] == 0] if np.isfinite(t)]


def with_gaps(values: Values, gaps: bool) -> Values:
    given = values.copy()
    given[::7, -1] = np.nan if gaps else given[::7, -1]
    return given


@EACH
@given(rows(), st.sampled_from(["squared_error", "absolute_error", "quantile", "poisson"]), st.booleans())
def test_a_boosted_value_is_scikit_learns(values: Values, loss: str, gaps: bool) -> None:
    values = with_gaps(values, gaps)
    wanted = np.abs(np.nan_to_num(values).sum(axis=1, dtype=np.float64)) / np.abs(np.nan_to_num(values)).max()
    model = HistGradientBoostingRegressor(
        loss=loss, max_iter=8, min_samples_leaf=3, quantile=0.9 if loss == "quantile" else None
    )
    with threadpool_limits(1):  # threads that wait for each other on a busy machine
        model.fit(values, wanted)
    on = tried_on(values, boosted_thresholds(model))
    (said,) = run(converted(model, values.shape[1]), on)
    with threadpool_limits(1):
        expected = model.predict(on)
    assert np.abs(said.ravel() - expected).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


@EACH
@given(rows(), st.integers(2, 4), st.booleans(), st.booleans())
def test_boosted_probabilities_are_scikit_learns(values: Values, classes: int, words: bool, gaps: bool) -> None:
    values = with_gaps(values, gaps)
    kinds: Any = np.arange(len(values)) * classes // len(values)
    kinds = np.array(["normal", "leak", "bearing", "other"])[kinds] if words else kinds
    model = HistGradientBoostingClassifier(max_iter=4, min_samples_leaf=3)
    with threadpool_limits(1):
        model.fit(values, kinds)
    on = tried_on(values, boosted_thresholds(model))
    with threadpool_limits(1):
        said = model.predict(on)
        wanted = model.predict_proba(on)
    label, shares = run(converted(model, values.shape[1], zipmap=False), on)
    assert np.abs(shares - wanted).max() <= 1e-5
    highest = np.sort(wanted, axis=1)
    certain = highest[:, -1] - highest[:, -2] > 1e-5
    assert (label == said)[certain].all()


def test_a_split_by_category_is_refused_and_not_taken_for_an_order() -> None:
    values = np.array([[i % 3] for i in range(60)], np.float32)
    model = HistGradientBoostingRegressor(max_iter=2, min_samples_leaf=3, categorical_features=[0])
    with pytest.raises(NotImplementedError, match="categorical"):
        converted(model.fit(values, values.ravel() % 2), 1)


def test_a_device_takes_a_hundred_trees() -> None:
    """As one ensemble among a handful of operators, all of them on the list."""
    values = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    model = converted(IsolationForest(n_estimators=100, random_state=0).fit(values), 3, score_samples=True)
    assert len(model.graph.node) < 12
    bundle = bundle_of(model)
    for each in model.graph.node:
        graph._check_node(each, graph._Numbers(), 3)
    assert graph.opset(bundle) <= 17
