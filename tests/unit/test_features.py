from __future__ import annotations

import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from models.contract.features import CATALOGUE, NAMES
from models.features import _jit
from models.features.extract import extract, warm_up
from tests import naive

N = len(NAMES)


def named(window: np.ndarray, channel: int = 0) -> dict[str, float]:
    vector = extract(np.ascontiguousarray(np.atleast_2d(window), np.float32))
    return dict(zip(NAMES, vector[channel * N : (channel + 1) * N].tolist(), strict=True))


def assert_same(found: dict[str, float], expected: dict[str, float], span: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = 2e-5 * max(1.0, abs(value))
        if name in {"mean", "std", "rms", "abs_mean", "peak", "peak_to_peak"}:
            tolerance = 1e-6 * max(abs(value), span)
        elif name in {"kurtosis", "spectral_kurtosis", "skewness"}:
            tolerance = 1e-4 * max(1.0, abs(value))
        elif name.startswith("band"):  # float32 in the transform: noise 12 digits of power below the whole
            tolerance = 1e-4 + math.log10(1 + 1e-9 * span**2 / 10**value)
        assert abs(found[name] - value) <= tolerance, name


@pytest.mark.parametrize("n", [4, 5, 7, 16, 60, 63, 64, 100, 511, 512, 513, 1000, 1025])
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-3, 5), (1e5, -3e5)])
def test_the_kernels_agree_with_their_slow_twins(n: int, scale: float, offset: float) -> None:
    rng = np.random.default_rng(n)
    window = (offset + scale * rng.standard_normal((2, n))).astype(np.float32)
    window[1] += scale * np.sin(0.7 * np.arange(n)).astype(np.float32)
    for channel in range(2):
        assert_same(named(window, channel), naive.features(window[channel]), float(np.ptp(window[channel])))


@settings(max_examples=60, deadline=None)
@given(
    npst.arrays(
        np.float32,
        st.integers(4, 70),
        elements=st.floats(-1000, 1000, width=32).map(lambda v: round(v, 2)),
    )
)
def test_the_kernels_agree_on_whatever_comes(samples: np.ndarray) -> None:
    assert_same(named(samples), naive.features(samples), float(np.ptp(samples)))


@pytest.mark.parametrize("value", [0.0, 1.0, -7.25, 1e6, 3e-9, 123456.789])
@pytest.mark.parametrize("n", [4, 61, 4096])
def test_a_constant_channel_is_finite_and_still(value: float, n: int) -> None:
    found = named(np.full(n, value))
    assert found["std"] == 0
    assert (found["skewness"], found["kurtosis"], found["entropy"], found["spectral_kurtosis"]) == (0, 3, 0, 1)
    assert found["mean"] == np.float32(value)
    assert found["band_1"] == found["band_5"] == -12
    assert found["crest_factor"] == pytest.approx(1 if value else 0)
    assert all(math.isfinite(v) for v in found.values())


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf, 2e36])
@pytest.mark.parametrize("n", [4, 63, 1000])
def test_a_dead_channel_is_nan_and_the_others_are_not(bad: float, n: int) -> None:
    window = np.random.default_rng(1).standard_normal((3, n)).astype(np.float32)
    whole = extract(window)
    for at in (0, n // 2, n - 1):
        broken = window.copy()
        broken[1, at] = bad
        vector = extract(broken).reshape(3, N)
        assert np.isnan(vector[1]).all()
        np.testing.assert_array_equal(vector[[0, 2]], whole.reshape(3, N)[[0, 2]])


def test_a_sine_has_the_features_of_a_sine() -> None:
    n, cycles, amplitude = 4096, 509, 3.0
    found = named(amplitude * np.sin(2 * np.pi * cycles / n * np.arange(n)))
    assert found["crest_factor"] == pytest.approx(math.sqrt(2), rel=0.01)
    assert found["shape_factor"] == pytest.approx(math.pi / (2 * math.sqrt(2)), rel=0.01)
    assert found["kurtosis"] == pytest.approx(1.5, rel=1e-3)
    assert found["centroid"] == pytest.approx(2 * cycles / n, abs=1e-3)
    assert found["spread"] < 1e-3
    assert found["entropy"] < 0.2
    powers = sum(10 ** found[f"band_{b}"] for b in range(1, 6))
    assert powers == pytest.approx(amplitude**2 / 2, rel=1e-3)  # the sum over bins is the variance


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e20])
def test_shape_features_know_no_unit(scale: float) -> None:
    x = np.random.default_rng(3).standard_normal(500)
    one, other = named(x), named(scale * x)
    for feature in CATALOGUE:
        if feature.unit == "1":
            assert other[feature.name] == pytest.approx(one[feature.name], rel=1e-4, abs=1e-5)
        elif feature.unit == "u":
            assert other[feature.name] == pytest.approx(scale * one[feature.name], rel=1e-5)


def test_a_large_offset_costs_no_digits() -> None:
    x = np.random.default_rng(4).integers(-8, 9, 4096) / 8
    still, lifted = named(x), named(x + 100_000)
    assert lifted["std"] == pytest.approx(still["std"], rel=1e-5)
    assert lifted["kurtosis"] == pytest.approx(still["kurtosis"], rel=1e-4)


def test_it_writes_into_what_it_is_given_and_reads_what_it_may_not_write() -> None:
    window = np.frombuffer(np.arange(12, dtype=np.float32).tobytes(), np.float32).reshape(2, 6)
    assert not window.flags.writeable
    out = np.zeros(2 * N)
    assert extract(window, out) is out
    np.testing.assert_array_equal(out, extract(window))


@pytest.mark.parametrize(
    "window",
    [
        np.zeros((1, 3), np.float32),
        np.zeros(10, np.float32),
        np.zeros((2, 10)),
        np.zeros((10, 8), np.float32).T,
    ],
)
def test_another_shape_or_type_is_refused(window: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"want|contiguous"):
        extract(window)
    with pytest.raises(ValueError, match="out must be"):
        extract(np.zeros((1, 10), np.float32), np.zeros(3))


def test_warm_up_takes_any_shape() -> None:
    warm_up()
    warm_up(8, 60)


def test_an_unusable_cache_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    probe = (
        "from models.features import _jit; "
        "f = _jit.kernel('float64(float64)')(lambda x: 2 * x); print(_jit.CACHED, f(21.0))"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file" / "below")}
    done = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "42.0"]


def test_the_private_cache_is_refused_if_others_can_write_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = _jit._private_temp_dir()
    assert folder is not None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert _jit._private_temp_dir() is None
