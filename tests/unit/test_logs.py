"""A log line is one line, of limited length, whatever somebody put into it."""

from __future__ import annotations

import logging
import sys
from typing import Any

from models.logs import Formatter


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
