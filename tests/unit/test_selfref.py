from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from models import selfref
from models.baseline.build import novelty_onnx
from models.contract.features import NAMES
from models.features.extract import extract

N = len(NAMES)


def slow_vectors(seed: int, n_rows: int, n: int = 20, shift: float = 0.0, hop: int = 1) -> np.ndarray:
    """A pressure and a flow that belong together, and a temperature that creeps. The last two thirds are shifted."""
    rng = np.random.default_rng(seed)
    pressure = 3 + 0.1 * rng.standard_normal(n_rows)
    flow = 30 + 5 * (pressure - 3) + 0.2 * rng.standard_normal(n_rows)
    temperature = 20 + 0.004 * np.arange(n_rows) + 0.01 * rng.standard_normal(n_rows)
    flow[n_rows // 3 :] += shift
    values = np.array([pressure, flow, temperature], np.float32)
    starts = range(0, n_rows - n + 1, hop)
    return np.array([extract(np.ascontiguousarray(values[:, i : i + n])) for i in starts])


SLOW = selfref.select(("pressure", "flow", "temperature"), 1.0)
FAST = selfref.select(("vib",), 10_000.0)


def fast_vectors(seed: int, n_windows: int, gain: float = 1.0, spikes: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = gain * rng.standard_normal((n_windows, 1, 1024))
    x[:, :, ::128] += spikes
    return np.array([extract(window) for window in x.astype(np.float32)])


def test_slow_data_are_judged_by_level_and_fast_data_by_shape() -> None:
    assert {NAMES[i % N] for i in SLOW.indexes} == {"mean", "std"}
    assert "mean" not in {NAMES[i % N] for i in FAST.indexes}
    assert "band_3" in {NAMES[i % N] for i in FAST.indexes}


def test_a_slow_machine_stays_quiet_until_it_changes() -> None:
    reference = selfref.fit(slow_vectors(1, 400), SLOW, overlap=20)
    normal = selfref.score(SLOW.apply(slow_vectors(2, 1200)), reference)
    broken = selfref.score(SLOW.apply(slow_vectors(3, 1200, shift=1.0)), reference)
    assert np.mean(normal >= 0.5) < 0.02  # although the temperature has long left the range it was learnt on
    assert np.mean(broken[420:] >= 0.5) > 0.95


def test_a_signal_that_wanders_is_left_out() -> None:
    reference = selfref.fit(slow_vectors(1, 400), SLOW, overlap=20)
    assert not reference.whiten[4:].any()
    assert reference.whiten[:4].any(axis=1).all()


def test_a_fast_machine_stays_quiet_until_it_changes() -> None:
    reference = selfref.fit(fast_vectors(1, 80), FAST)
    assert np.mean(selfref.score(FAST.apply(fast_vectors(2, 500)), reference) >= 0.5) < 0.03
    assert np.mean(selfref.score(FAST.apply(fast_vectors(3, 50, gain=1.5)), reference) >= 0.5) > 0.95
    assert np.mean(selfref.score(FAST.apply(fast_vectors(4, 50, spikes=5)), reference) >= 0.5) > 0.95


def test_a_few_anomalous_windows_while_learning_do_no_harm() -> None:
    vectors = fast_vectors(1, 80)
    vectors[[10, 40, 41]] = fast_vectors(5, 3, gain=4.0)
    reference = selfref.fit(vectors, FAST)
    assert np.mean(selfref.score(FAST.apply(fast_vectors(3, 50, gain=1.5)), reference) >= 0.5) > 0.95


def test_more_features_than_windows_is_allowed_and_too_few_windows_are_not() -> None:
    selection = selfref.select([f"s{i}" for i in range(4)], 10_000.0)
    rng = np.random.default_rng(0)
    vectors = np.array([extract(w) for w in rng.standard_normal((30, 4, 256)).astype(np.float32)])
    reference = selfref.fit(vectors, selection)
    fresh = np.array([extract(w) for w in rng.standard_normal((300, 4, 256)).astype(np.float32)])
    assert np.mean(selfref.score(selection.apply(fresh), reference) >= 0.5) < 0.05
    vectors[5:] = np.nan
    for few, overlap in ((vectors, 1), (vectors[:4], 1), (np.repeat(vectors[:5], 8, axis=0), 20)):
        with pytest.raises(selfref.TooFew):
            selfref.fit(few, selection, overlap)


def test_a_dead_or_still_signal_is_survived() -> None:
    vectors = np.array(
        [extract(np.array([np.full(20, 5), x], np.float32)) for x in np.random.default_rng(1).random((60, 20))]
    )
    selection = selfref.select(("still", "alive"), 1.0)
    reference = selfref.fit(vectors, selection)
    assert np.isfinite(reference.whiten).all()
    scores = selfref.score(selection.apply(vectors), reference)
    assert np.median(scores) < 0.5
    vectors[0, 0] = np.nan
    assert np.isnan(selfref.score(selection.apply(vectors[0]), reference))


def test_false_alarms_are_as_stated_on_normal_noise() -> None:
    """Mean of 40 machines, each learnt from 60 windows."""
    shares = []
    selection = selfref.Selection(np.arange(6), np.zeros(6, bool), np.ones(6), slow=False)
    for seed in range(40):
        x = np.random.default_rng(seed).standard_normal((2060, 6))
        reference = selfref.fit(x[:60], selection, false_alarm=0.01)
        shares.append(np.mean(selfref.score(x[60:], reference) >= 0.5))
    assert 0.003 < np.mean(shares) < 0.03


@pytest.mark.parametrize("x", [0.01, 0.2, 0.5, 0.9, 0.99])
def test_the_beta_distribution_has_its_closed_forms(x: float) -> None:
    assert selfref._beta_cdf(x, 1, 4.5) == pytest.approx(1 - (1 - x) ** 4.5)
    assert selfref._beta_cdf(x, 2.5, 1) == pytest.approx(x**2.5)
    assert selfref._beta_cdf(selfref._beta_quantile(x, 3.3, 40.0), 3.3, 40.0) == pytest.approx(x)


def test_the_graph_gives_the_formula() -> None:
    session = ort.InferenceSession(novelty_onnx(), providers=["CPUExecutionProvider"])
    for selection, learnt, seen in (
        (SLOW, slow_vectors(1, 400), slow_vectors(3, 600, shift=1.0)[::7]),
        (FAST, fast_vectors(1, 80), fast_vectors(2, 40, gain=1.2)),
    ):
        fitted = selfref.fit(learnt, selection)
        center, whiten = fitted.center.astype(np.float32), fitted.whiten.astype(np.float32)
        limit = np.array([fitted.limit], np.float32)
        exact = selfref.Reference(center.astype(float), whiten.astype(float), float(limit[0]))
        for vector in selection.apply(seen).astype(np.float32):
            feed = {"features": vector[None], "center": center, "whiten": whiten, "limit": limit}
            (found,) = session.run(["score"], feed)
            assert found.shape == (1,)
            assert found[0] == pytest.approx(float(selfref.score(vector.astype(float), exact)), abs=1e-6)
            assert found[0] == pytest.approx(float(selfref.score(vector.astype(float), fitted)), abs=1e-3)
    feed["features"] = np.full_like(feed["features"], np.nan)
    assert np.isnan(session.run(["score"], feed)[0][0])
