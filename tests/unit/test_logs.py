"""A log line is one line, of limited length, whatever somebody put into it."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from models.logs import A_MINUTE, Calm, Formatter, JsonFormatter, set_up


def line(message: str, **facts: Any) -> str:
    record = logging.makeLogRecord(
        {"name": "ingest", "levelname": "INFO", "created": 0.25, "msecs": 250, "msg": message}
    )
    record.__dict__.update(facts)
    return Formatter().format(record)


def test_fixed_words_and_facts_by_name() -> None:
    text = line("batch stored", n=3, device="plant1.gw1", reason="it is late", empty="")
    words = "1970-01-01T00:00:00.250Z INFO ingest: batch stored n=3 device=plant1.gw1"
    assert text == f'{words} reason="it is late" empty=""'


def test_nothing_that_a_terminal_obeys_and_no_second_line_gets_out() -> None:
    text = line("put aside", reason="a\nb\r\x1b[31mred\x07 \u202eevil \ud800 ünï", note='say "x"=1')
    assert text.isprintable()
    assert "ünï" in text
    assert "\\x1b" in text


def test_a_megabyte_is_cut() -> None:
    assert len(line("x" * 2**20, reason="y" * 2**20)) < 2000


def test_a_traceback_stays_on_the_line() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        text = line("failed", exc_info=sys.exc_info())
    assert text.isprintable()
    assert "ValueError: first" in text


def test_json_lines_are_one_object_each_and_obey_the_same_limits() -> None:
    record = logging.makeLogRecord(
        {"name": "ingest", "levelname": "ERROR", "created": 0.25, "msecs": 250, "msg": "lost"}
    )
    record.__dict__.update(n=3, reason="a\nb\x1b[31m" + "y" * 2**20)
    text = JsonFormatter().format(record)
    assert len(text) < 1000
    assert text.isprintable()
    said = json.loads(text)
    assert {name: said[name] for name in ("at", "level", "part", "says", "n")} == {
        "at": "1970-01-01T00:00:00.250Z", "level": "error", "part": "ingest", "says": "lost", "n": 3,
    }  # fmt: skip


def test_what_is_said_again_and_again_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    calm = Calm()

    def said(words: str) -> logging.LogRecord | None:
        record = logging.makeLogRecord({"name": "page", "msg": words})
        return record if calm.filter(record) else None

    assert sum(said("no descriptor") is not None for _ in range(1000)) == A_MINUTE
    assert said("something else")
    now[0] += 61
    again = said("no descriptor")
    assert again
    assert vars(again)["left_out"] == 1000 - A_MINUTE


def test_files_are_capped_and_a_dying_thread_says_so_on_one_line(tmp_path: Path) -> None:
    before = logging.root.handlers[:], logging.root.level, threading.excepthook
    file = tmp_path / "agent.log"
    try:
        set_up("info", "json", file, max_bytes=20_000, keep=2)
        for i in range(2000):
            logging.getLogger("bench").info("line %d" % i, extra={"n": i})  # noqa: UP031 - words that differ
        thread = threading.Thread(target=lambda: 1 / 0, name="source")
        thread.start()
        thread.join()
    finally:
        logging.root.handlers[:], logging.root.level, threading.excepthook = before
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["agent.log", "agent.log.1", "agent.log.2"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 60_000
    last = json.loads(file.read_text().splitlines()[-1])
    assert (last["says"], last["thread_name"]) == ("a thread has died", "source")
    assert "ZeroDivisionError" in last["trace"]
