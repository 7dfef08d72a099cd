from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from fleet_server.errors import Refused
from fleet_server.learning import files
from models.contract.features import BEARING_NAMES, NAMES, vector_names
from models.contract.signals import Bearing, Signal
from models.features.bearing import bearing
from models.features.extract import Extractor, extract
from models.recordings import BadRecording, RecordingOptions, read_npz
from models.scoring import Scorer
from tests import naive

RATE, SHAFT = 12000.0, 30.0
GEOMETRY = {"n_balls": 9, "ball_diameter": 7.94, "pitch_diameter": 39.04}
OF = Bearing.model_validate(GEOMETRY | {"shaft_hz": SHAFT})
STRUCK = {"outer_race": OF.outer, "inner_race": OF.inner, "ball": 2 * OF.ball}


def shocks(fault: str, seed: int, seconds: float = 8192 / RATE, size: float = 1.0) -> np.ndarray:
    """Vibration of a machine that hums and hisses, and a defect struck at its frequency with some slip. The shocks ring
    at 3 kHz; an inner race's are loudest once a turn of the shaft, a ball's once a turn of the cage."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    x = 0.5 * np.sin(2 * np.pi * SHAFT * t) + 0.3 * rng.standard_normal(t.size)
    turn = {"outer_race": 0.0, "inner_race": SHAFT, "ball": OF.cage * SHAFT}[fault]
    when = rng.uniform(0, 0.01)
    while when < t[-1]:
        after = t[t >= when] - when
        strength = size * (1 + 0.8 * math.cos(2 * math.pi * turn * when))
        x[t >= when] += 2 * strength * np.exp(-after * 900) * np.sin(2 * np.pi * 3000 * after)
        when += 1 / (STRUCK[fault] * SHAFT) * (1 + 0.005 * rng.standard_normal())
    return x.astype(np.float32)


def signs(samples: np.ndarray, of: Bearing = OF, shaft_hz: float = SHAFT) -> dict[str, float]:
    out = np.full(len(BEARING_NAMES), np.inf)
    bearing(np.ascontiguousarray(samples, np.float32), RATE, shaft_hz, of, out)
    return dict(zip(BEARING_NAMES, out.tolist(), strict=True))


def test_geometry_gives_the_makers_numbers() -> None:
    assert (OF.outer, OF.inner, OF.ball, OF.cage) == pytest.approx((3.585, 5.415, 2.357, 0.398), abs=2e-3)


@pytest.mark.parametrize("given", [{"n_balls": 9}, GEOMETRY | {"pitch_diameter": 0}, GEOMETRY | {"ball_diameter": "x"}])
def test_half_a_geometry_is_refused_with_what_is_missing(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="n_balls, ball_diameter and pitch_diameter"):
        Bearing.model_validate(given | {"shaft_hz": 30})


@pytest.mark.parametrize("speed", [{}, {"shaft_hz": 30, "speed": "rpm"}])
def test_a_bearing_turns_at_one_speed(speed: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="how fast does the shaft turn"):
        Bearing.model_validate(GEOMETRY | speed)


@pytest.mark.parametrize(("fault", "n"), [("outer_race", 2560), ("inner_race", 2401), ("ball", 2400)])
def test_the_kernel_agrees_with_its_slow_twin(fault: str, n: int) -> None:
    samples = shocks(fault, seed=n)[:n]
    slow = naive.bearing([float(v) for v in samples], RATE, SHAFT, OF.model_dump())
    assert signs(samples) == pytest.approx(slow, abs=2e-3)


@pytest.mark.parametrize("fault", STRUCK)
def test_the_part_that_is_struck_stands_out_whatever_the_gain(fault: str) -> None:
    part = {"outer_race": "bpfo", "inner_race": "bpfi", "ball": "bsf"}[fault]
    for seed in range(5):
        found = signs(shocks(fault, seed))
        assert max(("bpfo", "bpfi", "bsf"), key=found.__getitem__) == part
        assert found[part] > 1.2
        louder = signs(1000 * shocks(fault, seed))
        assert louder == pytest.approx(found, abs=1e-3)


def test_where_nothing_can_be_told_every_sign_is_zero() -> None:
    for samples, shaft_hz in ((np.ones(8192), SHAFT), (shocks("ball", 1), 1.0), (shocks("ball", 1), math.nan)):
        assert set(signs(samples, shaft_hz=shaft_hz).values()) == {0.0}


def test_the_vector_ends_with_the_bearings_and_a_dead_sensor_is_nan() -> None:
    speed = Bearing.model_validate(GEOMETRY | {"speed": "rpm"})
    signals = (Signal(name="a", bearing=OF), Signal(name="rpm", unit="rpm"), Signal(name="b", bearing=speed))
    window = np.stack([shocks("ball", 1), np.full(8192, 60 * SHAFT, np.float32), shocks("outer_race", 2)])
    extractor = Extractor(signals, RATE)
    vector = extractor(window)
    assert extractor.names == vector_names(signals)
    n = 3 * len(NAMES)
    np.testing.assert_array_equal(vector[:n], extract(window))
    assert dict(zip(BEARING_NAMES, vector[n : n + 11], strict=True)) == signs(window[0])
    assert dict(zip(BEARING_NAMES, vector[n + 11 :], strict=True)) == pytest.approx(signs(window[2]), abs=1e-9)
    window[0, 5] = np.nan
    assert np.isnan(extractor(window)[n : n + 11]).all()
    assert np.isfinite(extractor(window)[n + 11 :]).all()
    with pytest.raises(ValueError, match="rpm: no such signal"):
        Extractor(signals[2:], RATE)


def an_archive(**arrays: object) -> io.BytesIO:
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    return file


def test_an_archive_may_say_scale_and_speed_in_numbers_of_its_own() -> None:
    options = RecordingOptions.model_validate(
        {"scale": {"DE": "DE_step"}, "signals": ["DE"], "bearings": {"DE": GEOMETRY | {"speed": "rpm"}}}
    )
    counts = np.arange(100, dtype=np.int16)
    recording = read_npz(an_archive(DE=counts, DE_step=0.5, rpm=1800.0, fs=RATE), options)
    np.testing.assert_array_equal(recording.values[0], counts * 0.5)
    (signal,) = recording.signals
    assert signal.bearing
    assert (signal.bearing.shaft_hz, signal.bearing.speed) == (30.0, None)
    with pytest.raises(BadRecording, match="no number is called 'DE_step'; there is: fs"):
        read_npz(an_archive(DE=counts, fs=RATE), options)


CONFIG = """
name = "motor"
[window]
n_samples = 8192
hop = 4096
"""
READING = '[recording.reading.bearings.vib]\nspeed = "rpm"\n' + "".join(f"{k} = {v}\n" for k, v in GEOMETRY.items())


def test_faults_of_a_size_never_seen_are_named_by_what_is_struck(tmp_path: Path) -> None:
    """Size carries over to no other machine, and is the easiest to learn: the kind of classifier is chosen by machines
    that it has not seen."""
    said = [CONFIG]
    for name, size in [("normal", 0.0), *((f, s) for f in STRUCK for s in (0.6, 1.5, 4.0))]:
        seeds = range(round(10 * size), 300 if size else 600, 10)
        parts = [shocks(name if size else "ball", seed, size=size) for seed in seeds]
        path = tmp_path / f"{name}_{size}.npz"
        np.savez(path, vib=np.concatenate(parts), fs=RATE, rpm=60 * SHAFT)
        known = f'fault = "{name}"' if size else "normal = [1, 1000000000]"
        said += ["[[recording]]", f'path = "{path.name}"', known, f"holdout = {str(size == 4.0).lower()}", READING]
    (tmp_path / "train.toml").write_text("\n".join(said))
    result = files.train(tmp_path / "train.toml")
    assert result.data.split == "as told"
    assert set(result.data.assets[result.data.holdout]) == {f"{tmp_path.name}/{name}_4.0" for name in STRUCK}
    assert "bearing signs" in result.summary["training"]["classifier"]
    named = result.summary["held_out_fault_named"]
    assert set(named) == set(STRUCK)
    assert min(named.values()) > 0.9
    assert "fault named right: ball" in files.as_text(result.summary)
    Scorer(result.bundle).check_canary()


def test_a_speed_that_no_file_gives_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", vib=shocks("ball", 1), fs=RATE)
    config = f'{CONFIG}[[recording]]\npath = "a.npz"\nnormal_rows = 100000\n{READING}'
    (tmp_path / "train.toml").write_text(config)
    with pytest.raises(Refused, match=r"a\.npz: the bearing at vib takes its speed from rpm"):
        files.train(tmp_path / "train.toml")
