"""Lines of text over real sockets and a real pipe."""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edge_agent.errors import SourceFailed
from edge_agent.sensors import lines
from edge_agent.sensors.base import QUEUE
from edge_agent.sensors.lines import LinesSource
from simulators.embedded.processes import free_port
from tests.services.sources.probing import Probed
from tests.services.sources.reading import Reading
from tests.support import eventually

T = 1_772_000_000
CSV: dict[str, Any] = {"columns": ["t", "a", "b"], "time": "t", "signals": [{"name": "a"}, {"name": "b"}]}


def a_source(**fields: Any) -> Reading:
    return Reading(LinesSource.model_validate(fields).open("pump1", None))


def rows(begin: int, end: int) -> bytes:
    return b"".join(b"%d,%d,%d\n" % (T + i, i, -i) for i in range(begin, end))


def test_lines_of_a_server_come_through_over_a_line_that_is_cut_and_bad_ones_are_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with a_source(host="127.0.0.1", port=port, max_line=64, **CSV) as reading:
            line, _ = server.accept()
            line.sendall(b"time,a,b\n" + rows(0, 3) + b"9" * 100 + b"\n" + b"1,2\n" + rows(3, 5) + b"177200")
            eventually(lambda: reading.row("a")[-1:] == [4])
            line.close()
            line, _ = server.accept()
            line.sendall(rows(20, 22) + b'"%d", 22 ,\r\n' % (T + 22) + rows(23, 25))
            eventually(lambda: reading.row("a")[-1:] == [24], 20)
            line.close()
    counts = reading.source.counts
    assert (reading.source.unreadable, counts["lines_too_long"], counts["lines_cut"]) == (2, 1, 1)
    assert counts["lines"] == 5 + 5 + 2
    assert reading.times == [T + i for i in (0, 1, 2, 3, 4, 20, 21, 22, 23, 24)], "nothing between the two lines"
    assert reading.row("b")[:6] == [0, -1, -2, -3, -4, -20]
    assert math.isnan(reading.row("b")[7]), "an empty cell is a missing value"


def test_senders_connect_one_after_the_other_to_a_unix_socket_and_speak_json(tmp_path: Path) -> None:
    path = tmp_path / "lines.sock"
    signals = [{"name": "a", "value": "$.data[0].temp"}, {"name": "b"}]
    with a_source(socket=path, listen=True, format="json", time="$.ts", skip_first=True, signals=signals) as reading:
        for turn in range(3):
            eventually(path.exists)
            with socket.socket(socket.AF_UNIX) as sender:
                eventually(lambda s=sender: s.connect_ex(str(path)) == 0)  # type: ignore[misc]
                stamp = (T + 10 * turn) * 1000
                first = b"half a line}\n"
                for i in range(3):
                    first += b'{"ts": %d, "data": [{"temp": "%d"}], "b": true}\n' % (stamp + 1000 * i, 10 * turn + i)
                sender.sendall(first + b'{"ts": 1, "other": 3}\n')
                eventually(lambda n=10 * turn + 2: reading.row("a")[-1:] == [n])  # type: ignore[misc]
    assert reading.row("a") == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert set(reading.row("b")) == {1}
    assert reading.source.unreadable == 3


def test_standard_input_ends_and_loses_nothing_however_busy_the_detector_is(
    monkeypatch: pytest.MonkeyPatch, small_chunks: int
) -> None:
    read, write = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(read))
    n = 4 * QUEUE * small_chunks // len(rows(1000, 1001))
    with a_source(stdin=True, **CSV) as reading, os.fdopen(write, "wb") as pipe:
        reading.pause()
        eventually(lambda: reading.source.counts["connected"])  # type: ignore[attr-defined]
        pipe.write(rows(0, 100))
        pipe.flush()
        eventually(lambda: reading.blocks)
        reading.resume()
        pipe.write(rows(100, n))
        pipe.write(rows(n, n + 1).rstrip())  # the last line has no end
        pipe.close()
        eventually(lambda: not reading._thread.is_alive(), 60)
    assert reading.failed is None
    assert reading.row("a") == list(range(n + 1))
    assert reading.source.dropped == 0


def test_standard_input_may_be_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"t,a,b\n" + rows(0, 100))
    with (tmp_path / "log.csv").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        with a_source(stdin=True, skip_first=True, **CSV) as reading:
            eventually(lambda: not reading._thread.is_alive())
    assert reading.row("a") == list(range(100))
    assert (reading.source.unreadable, reading.source.counts["line_lost"]) == (0, 0)


def test_two_can_not_share_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that dies is not half alive: the reader says why."""
    read, write = os.pipe()
    with os.fdopen(read) as stdin, os.fdopen(write, "wb"):
        monkeypatch.setattr(sys, "stdin", stdin)
        with a_source(stdin=True, **CSV) as first:
            eventually(lambda: first.source.counts["connected"])
            with a_source(stdin=True, **CSV) as second:
                eventually(lambda: second.failed)
    assert isinstance(second.failed, SourceFailed)
    assert first.failed is None


def test_an_address_that_is_taken_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    other = socket.create_server(("127.0.0.1", 0))
    port = other.getsockname()[1]
    with a_source(host="127.0.0.1", port=port, listen=True, **CSV) as reading:
        eventually(lambda: "source away" in caplog.messages)
        other.close()
        with socket.socket() as sender:
            eventually(lambda: sender.connect_ex(("127.0.0.1", port)) == 0)
            sender.sendall(rows(0, 2))
            eventually(lambda: reading.row("a") == [0, 1])
    assert reading.failed is None


def test_a_flood_is_bounded_and_every_line_dropped_is_counted(small_chunks: int) -> None:
    port = free_port()
    with a_source(host="127.0.0.1", port=port, listen=True, **CSV) as reading:
        sender = socket.socket()
        eventually(lambda: sender.connect_ex(("127.0.0.1", port)) == 0)
        sender.sendall(rows(0, 1))
        eventually(lambda: reading.source.counts["lines"] == 1)
        reading.pause()
        n = 3 * QUEUE * small_chunks // len(rows(1000, 1001))
        sender.sendall(rows(1, n))
        sender.close()
        eventually(lambda: reading.source.dropped, 30)
        eventually(lambda: reading.source.counts["line_lost"], 30)
        reading.resume()
        eventually(lambda: T + n - 1 in reading.times, 30)
        assert reading.source.counts["lines"] + reading.source.dropped == n
        assert reading.source.counts["lines"] < 2 * QUEUE * small_chunks / 15


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """So that a flood need not be a large one. How many bytes."""
    monkeypatch.setattr(lines, "CHUNK", 1024)
    return 1024


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stdin": True, "host": "x", "port": 1},
        {"host": "x"},
        {"stdin": True, "listen": True},
        {"stdin": True, "time": "t"},
        {"stdin": True, "columns": ["b"]},
        {"stdin": True, "format": "json", "time": "t"},
    ],
)
def test_settings_that_can_not_be_meant_are_refused(fields: dict[str, Any]) -> None:
    signals = {"signals": [{"name": "a"}]}
    LinesSource.model_validate({"stdin": True} | signals)
    with pytest.raises(ValidationError):
        LinesSource.model_validate(fields | signals)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (b"5\nt;flow [l/min];remark\n2026-03-02T08:00:00;1.5;ok\n2026-03-02T08:00:01;2.5;ok\n", {"flow": 2.5}),
        (b'{"ts": 1772000000, "d": [{"v": 1.5}], "by": "x"}\n{"ts": 1772000001, "d": [{"v": 2.5}]}\n', {"d.0.v": 2.5}),
    ],
    ids=["cells", "JSON"],
)
def test_a_probe_finds_what_is_in_a_line_and_what_it_writes_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes, values: dict[str, float]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def speak() -> None:
            line, _ = server.accept()
            line.sendall(text)
            line.close()

        for probing in (True, False):
            speaker = threading.Thread(target=speak)
            speaker.start()
            if probing:
                words = ["lines", "--host", "127.0.0.1", "--port", str(port), "--seconds", "1"]
                probed = Probed(tmp_path / "agent.toml", capsys, *words)
            else:
                with probed.reading() as reading:
                    eventually(lambda: reading.times)
            speaker.join(10)
    (table,) = (asset.lines for asset in probed.assets)
    assert table is not None
    assert table.time in ("time", "$.ts")
    assert {s.name: reading.row(s.name)[-1] for s in reading.source.signals} == values
