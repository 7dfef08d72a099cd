"""Paths in JSON that somebody else has designed, and times in any unit."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sensors.lines import Splitter
from edge_agent.sensors.mapping import find, instant, number, path_of, steps

NAMES = st.text(st.characters(blacklist_characters="\"'", blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$.a", {"b": [1, {"c d": 2}], "x.y": 5}),
        ("$.a.b[1].c d", 2),
        ('$["a"]["x.y"]', 5),
        ("$['a'].b[0]", 1),
    ],
)
def test_a_path_finds_its_place(path: str, value: Any) -> None:
    assert find({"a": {"b": [1, {"c d": 2}], "x.y": 5}}, path) == value


@pytest.mark.parametrize("path", ["a", "$.", "$..a", "$[", "$[-1]", "$[*]", "$.a b[", "", "$.a]"])
def test_what_is_no_path_is_refused_with_what_to_write(path: str) -> None:
    with pytest.raises(ValueError, match="write"):
        steps(path)


@pytest.mark.parametrize("path", ["$.b", "$.a.b", "$.a[1]", "$[0]", "$.a[0].x", "$.text[0]"])
def test_a_place_that_is_not_there_is_said_so(path: str) -> None:
    with pytest.raises(LookupError):
        find({"a": [1], "text": "abc"}, path)


@given(st.lists(NAMES | st.integers(0, 10**6), max_size=5))
def test_every_way_has_a_path_that_leads_it(way: list[str | int]) -> None:
    assert steps(path_of(tuple(way))) == tuple(way)


def test_numbers_and_times_as_people_write_them() -> None:
    assert [number(v) for v in (1, 2.5, True, "3.5", " 4 ")] == [1, 2.5, 1, 3.5, 4]
    assert math.isnan(number(None))
    assert math.isnan(number("n/a"))
    for bad in ("warm", [], {}):
        with pytest.raises(ValueError, match=r"number|could not convert"):
            number(bad)
    t = 1_772_000_000.25
    assert [instant(v, None) for v in (t, t * 1000, t * 1e6, str(t), "2026-02-25T06:13:20.250Z")] == [t] * 5
    assert instant(5000, "ms") == 5
    for no_time in ("noon", None, "nan", 1e400):
        with pytest.raises(ValueError, match=r"time|isoformat"):
            instant(no_time, None)


@given(st.lists(st.binary(max_size=30)), st.lists(st.integers(1, 7)), st.booleans())
def test_lines_are_the_same_however_their_bytes_come(texts: list[bytes], sizes: list[int], skip: bool) -> None:
    lines = [text.replace(b"\n", b"") for text in texts]
    whole = b"".join(line + b"\n" for line in lines)
    splitter, got, at = Splitter(20, skip), [], 0
    for size in [*sizes, *[5] * len(whole)]:
        got += splitter.feed(whole[at : at + size])
        at += size
        assert len(splitter.rest()) <= 20
    rest = lines[1:] if skip else lines
    assert got == [line for line in rest if line.strip() and len(line) <= 20]
    assert splitter.too_long == sum(len(line) > 20 for line in rest)
