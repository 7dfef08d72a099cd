from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_agent.cli import main
from models.recordings import (
    BadRecording,
    RecordingOptions,
    iter_csv_blocks,
    iter_parquet_blocks,
    read_csv,
    read_npz,
    read_parquet,
)
from tests.services.sources.probing import Probed

T0 = datetime(2020, 3, 9, 10, 14, 33, tzinfo=UTC).timestamp()


def read(text: str, **options: object) -> object:
    return read_csv(io.StringIO(text), RecordingOptions.model_validate(options))


def test_what_a_file_says_of_itself_is_found() -> None:
    found = read_csv(
        [
            "datetime;Pressure [bar];Flow (l/min);remark;anomaly\n",
            "2020-03-09 10:14:33;0.5;32.0;ok;0.0\n",
            "2020-03-09 10:14:34;;31.5;;1.0\n",
            "\n",
            "2020-03-09 10:14:35;0.7;NaN;ok;\n",
        ],
        RecordingOptions(label="anomaly"),
    )
    assert [(s.name, s.unit) for s in found.signals] == [("Pressure", "bar"), ("Flow", "l/min")]
    np.testing.assert_array_equal(found.times, [T0, T0 + 1, T0 + 2])
    np.testing.assert_array_equal(found.values, np.array([[0.5, np.nan, 0.7], [32, 31.5, np.nan]], np.float32))
    assert found.values.dtype == np.float32
    assert found.label is not None
    assert found.label.tolist() == [0, 1, -1]
    assert found.rate_hz == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "t;x;y\n0;1,5;2\n0,5;2,5;3\n1;-3,5e0;4\n",  # decimal commas
        "t\tx\ty\n0\t1.5\t2\n0.5\t2.5\t3\n1\t-3.5\t4\n",
        "t|x|y\n0|1.5|2\n0.5|2.5|3\n1|-3.5|4\n",
        '\ufefft,"x",y\r\n0,"1.5",2\r\n0.5,2.5,3\r\n1,-3.5,4\r\n',
        "t,x,y,\n0,1.5,2,\n0.5,2.5,3,\n1,-3.5,4,\n",  # a delimiter too many
        "t,x,y\n0,1.5,2,\n0.5,2.5,3,\n1,-3.5,4,\n",  # the same, but not in the header
    ],
)
def test_delimiters_and_decimals(text: str) -> None:
    found = read(text, time="t", signals=("x", "y"))
    np.testing.assert_array_equal(found.times, [0, 0.5, 1])
    np.testing.assert_array_equal(found.values, [[1.5, 2.5, -3.5], [2, 3, 4]])
    assert found.rate_hz == 2.0


@pytest.mark.parametrize(
    ("stamps", "options"),
    [
        (["2020-03-09T10:14:33Z", "2020-03-09T10:14:34Z"], {}),
        (["2020-03-09 11:14:33+01:00", "2020-03-09 11:14:34+01:00"], {}),
        ([f"{T0:.0f}", f"{T0 + 1:.0f}"], {}),
        ([f"{T0 * 1e3:.0f}", f"{(T0 + 1) * 1e3:.0f}"], {}),
        ([f"{T0 * 1e9:.0f}", f"{(T0 + 1) * 1e9:.0f}"], {}),
        (["09.03.2020 10:14:33", "09.03.2020 10:14:34"], {"time": "c1", "time_format": "%d.%m.%Y %H:%M:%S"}),
    ],
)
@pytest.mark.parametrize("header", ["", "when,x\n"])
def test_times_are_found_however_they_are_written(stamps: list[str], options: dict[str, str], header: str) -> None:
    options = {**options, "time": "when"} if header and options else options
    found = read(header + "".join(f"{stamp},{i}.5\n" for i, stamp in enumerate(stamps)), **options)
    np.testing.assert_allclose(found.times, [T0, T0 + 1], atol=1e-6)
    assert [s.name for s in found.signals] == (["x"] if header else ["c2"])


def test_no_header_and_no_time() -> None:
    found = read("1.0 \n2\n3\n", rate_hz=100, start_s=50)
    assert [s.name for s in found.signals] == ["c1"]
    np.testing.assert_allclose(found.times, [50, 50.01, 50.02])
    named = read("1,2\n3,4\n", rate_hz=1, names=("a [g]", "b"), units={"b": "A"})
    assert [(s.name, s.unit) for s in named.signals] == [("a", "g"), ("b", "A")]


def test_names_that_come_twice_are_told_apart() -> None:
    found = read("T (C),T (F),T\n1,2,3\n4,5,6\n", rate_hz=1, exclude=("T_3",))
    assert [(s.name, s.unit) for s in found.signals] == [("T", "C"), ("T_2", "F")]


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("", {}, "empty"),
        ("\n \n", {}, "empty"),
        ("a,b\n", {"rate_hz": 1}, "no rows"),
        ("a,b\n1,2\n3,4\n", {}, "give rate_hz"),
        ("a,b\n1,2\n3,4\n", {"rate_hz": 1, "signals": ("c",)}, "no column 'c'; there are a, b"),
        ("a,b\n1,2\n3,4\n5\n", {"rate_hz": 1}, "line 4: 1 cells where 2"),
        ("a,b\n1,2\n3,4,5\n", {"rate_hz": 1}, "line 3: 3 cells where 2"),
        ("a,b\nx,y\n", {"rate_hz": 1}, "no column of numbers"),
        ("time,b\n2020-01-01,2\nyesterday,4\n", {"time": "time"}, "line 3: 'yesterday' is no time"),
        ("time,b\n2020-01-01,2\n2020-01-01,4\n", {}, "do not rise"),
        ("a,b\n1,2\n", {"rate_hz": 1, "label": "b", "exclude": ("a",)}, "no column of numbers"),
        ("a,b\n1,0.5\n", {"rate_hz": 1, "label": "b"}, "whole number"),
        ("x" * 100 + "\n1\n", {"rate_hz": 1}, "cannot be a signal"),
        ("skip\na,b\n1,2\n1\n", {"rate_hz": 1, "skip_lines": 1}, "line 4"),
    ],
)
def test_a_bad_recording_says_where_and_what_to_do(text: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(BadRecording, match=says):
        read(text, **options)


def test_a_word_far_down_is_found_with_its_line() -> None:
    text = "a,b\n" + "1,2\n" * 5000 + "1,broken\n"
    with pytest.raises(BadRecording, match="'broken' in column 'b'") as caught:
        read(text, rate_hz=1)
    assert caught.value.line == 5002


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(BadRecording, match="UTF-8"):
        read_csv(io.TextIOWrapper(io.BytesIO(b"a,b\n\xff\xfe,1\n"), encoding="utf-8"))


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="seperator"):
        RecordingOptions.model_validate({"seperator": ";"})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=60), st.integers(1, 70))
def test_blocks_hold_what_the_whole_holds(values: list[float], block_rows: int) -> None:
    text = "time,x,bad\n" + "".join(f"{i / 4},{v!r},{i % 2}\n" for i, v in enumerate(values))
    options = RecordingOptions(label="bad", rate_hz=4)
    whole = read_csv(io.StringIO(text), options)
    np.testing.assert_array_equal(whole.values[0], np.array(values, np.float32))
    blocks = list(iter_csv_blocks(io.StringIO(text), options, block_rows))
    assert all(block.times.size <= block_rows for block in blocks)
    np.testing.assert_array_equal(np.concatenate([b.times for b in blocks]), whole.times)
    np.testing.assert_array_equal(np.concatenate([b.values for b in blocks], axis=1), whole.values)
    np.testing.assert_array_equal(np.concatenate([b.label for b in blocks]), whole.label)  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='01.,;"\n\t -ae:', max_size=60))
def test_any_text_is_a_recording_or_a_bad_one(text: str) -> None:
    try:
        found = read_csv(text.splitlines(keepends=True), RecordingOptions(rate_hz=1))
    except BadRecording:
        return
    assert found.values.shape == (len(found.signals), found.times.size)


def test_archives_of_arrays() -> None:
    file = io.BytesIO()
    np.savez(file, vib=np.arange(20.0).reshape(10, 2), temp=np.ones(10), fs=100, bad=np.arange(10) > 5, words=["a"])
    file.seek(0)
    found = read_npz(file, RecordingOptions(label="bad", units={"temp": "C"}))
    assert [(s.name, s.unit) for s in found.signals] == [("vib_1", "1"), ("vib_2", "1"), ("temp", "C")]
    assert found.rate_hz == 100
    np.testing.assert_array_equal(found.values[0], np.arange(0, 20, 2))
    assert found.label is not None
    assert found.label.sum() == 4


def test_bad_archives() -> None:
    with pytest.raises(BadRecording, match="archive"):
        read_npz(io.BytesIO(b"no archive"))
    file = io.BytesIO()
    np.savez(file, a=np.ones(3), b=np.ones(4))
    file.seek(0)
    with pytest.raises(BadRecording, match="a has 3, b has 4"):
        read_npz(file, RecordingOptions(rate_hz=1))


def a_parquet(**columns: object) -> io.BytesIO:
    file = io.BytesIO()
    pq.write_table(pa.table({name.replace("__", " "): column for name, column in columns.items()}), file)
    file.seek(0)
    return file


STAMPS = [datetime(2020, 3, 9, 10, 14, 33 + i, tzinfo=UTC) for i in range(3)]


@pytest.mark.parametrize(
    "time",
    [
        pa.array(STAMPS, pa.timestamp("ms", "UTC")),
        pa.array(STAMPS, pa.timestamp("ns", "UTC")),
        pa.array([int(s.timestamp() * 1000) for s in STAMPS]),
        pa.array([s.timestamp() for s in STAMPS]),
        pa.array([s.isoformat() for s in STAMPS]),
    ],
    ids=["ms", "ns", "epoch ms", "epoch s", "ISO"],
)
def test_a_parquet_file_says_what_the_same_text_says(time: pa.Array) -> None:
    found = read_parquet(
        a_parquet(
            when_time=time,
            remark=["ok", None, "ok"],
            **{"Pressure__[bar]": pa.array([0.5, None, 0.7], pa.float32()), "on": [True, False, True]},
            anomaly=pa.array([0, 1, None], pa.int8()),
        ),
        RecordingOptions(label="anomaly"),
    )
    text = "time,remark,Pressure [bar],on,anomaly\n"
    text += "2020-03-09 10:14:33,ok,0.5,1,0\n2020-03-09 10:14:34,,,0,1\n2020-03-09 10:14:35,ok,0.7,1,\n"
    same = read_csv(io.StringIO(text), RecordingOptions(label="anomaly"))
    assert found.signals == same.signals
    assert found.rate_hz == same.rate_hz
    np.testing.assert_array_equal(found.times, same.times)
    np.testing.assert_array_equal(found.values, same.values)
    assert found.label is not None
    assert same.label is not None
    assert found.label.tolist() == same.label.tolist()


def test_a_parquet_file_is_read_in_pieces_and_without_a_time_at_its_rate() -> None:
    parts = list(iter_parquet_blocks(a_parquet(x=np.arange(10.0)), RecordingOptions(rate_hz=2), block_rows=4))
    assert [part.times.size for part in parts] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([part.times for part in parts]), np.arange(10) / 2)
    np.testing.assert_array_equal(np.concatenate([part.values[0] for part in parts]), np.arange(10))


@pytest.mark.parametrize(
    ("file", "options", "says"),
    [
        (io.BytesIO(b"no parquet"), {}, "not a Parquet file"),
        (a_parquet(x=[1.0, 2.0]), {}, "rate_hz"),
        (a_parquet(time=["noon", "later"], x=[1.0, 2.0]), {}, "no time"),
        (a_parquet(x=["a", "b"]), {"rate_hz": 1}, "no column of numbers"),
        (a_parquet(x=[1.0], y=["a"]), {"rate_hz": 1, "signals": ["y"]}, "'y' holds no numbers"),
        (a_parquet(x=pa.array([], pa.float64())), {"rate_hz": 1}, "no rows"),
    ],
)
def test_a_parquet_file_that_can_not_be_read_says_why(file: io.BytesIO, options: dict[str, object], says: str) -> None:
    file.seek(0)
    with pytest.raises(BadRecording, match=says):
        read_parquet(file, RecordingOptions.model_validate(options))


def test_a_probe_of_a_file_shows_its_columns_and_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stamps = pa.array([datetime(2026, 3, 2, 8, 0, i, tzinfo=UTC) for i in range(20)], pa.timestamp("ms", "UTC"))
    table = {"when": stamps, "Flow [l/min]": [*range(19), None], "leak": [0] * 15 + [1] * 5}
    pq.write_table(pa.table(table), tmp_path / "1.parquet")
    probed = Probed(tmp_path / "agent.toml", capsys, "csv", str(tmp_path / "*.parquet"), "--label", "leak")
    assert probed.offers == [{"signal": "Flow", "unit": "l/min", "least": 0, "most": 18, "missing": "5.0%"}]
    assert "20 rows at 1 Hz" in probed.notes[0]
    assert "5 rows of a fault" in probed.notes[1]
    assert main(["probe", "csv", str(tmp_path / "*.csv")]) == 2
    capsys.readouterr()
    assert main(["probe", "csv", str(tmp_path / "*.parquet"), "--write", str(tmp_path / "agent.toml")]) == 2
    assert "is there already" in capsys.readouterr().err
