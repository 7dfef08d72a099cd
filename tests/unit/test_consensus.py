"""From several votes to one label with a weight."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from fleet_server.feedback.consensus import decide
from fleet_server.feedback.validation import Status
from fleet_server.store.annotations import AnnotationRow
from tests.unit.test_validation import a_row


def votes(*words: str, **changes: Any) -> list[AnnotationRow]:
    """Each word is a fault kind, a verdict, or "kind@provenance", by a person of its own."""
    rows = []
    for i, word in enumerate(words):
        kind, _, provenance = word.partition("@")
        verdict, fault = (kind, None) if kind in ("false_alarm", "unsure") else ("fault", kind)
        rows.append(
            a_row(annotator=f"p{i}", verdict=verdict, fault=fault, provenance=provenance or "explicit", **changes)
        )
    return rows


@pytest.mark.parametrize(
    ("said", "verdict", "weight"),
    [
        (["bearing"], ("fault", "bearing"), 0.5),
        (["bearing", "bearing"], ("fault", "bearing"), 1.0),
        (["bearing"] * 3, ("fault", "bearing"), 1.0),
        (["false_alarm", "false_alarm", "bearing"], ("false_alarm", None), 2 / 3),
        (["bearing", "unsure"], ("fault", "bearing"), 0.5),
        (["bearing", "bearing", "unsure"], ("fault", "bearing"), 2 / 3),
        (["bearing", "leak@implicit"], ("fault", "bearing"), 1.0 / 1.3 * 0.65),
        (["leak@automated"], ("fault", "leak"), 0.25),
        (["leak@implicit"], ("fault", "leak"), 0.15),
    ],
)
def test_two_thirds_of_the_weight_make_a_label(said: list[str], verdict: tuple[str, str | None], weight: float) -> None:
    found = decide(votes(*said))
    assert found is not None
    assert found.status is Status.ACCEPTED
    assert (found.verdict, found.fault) == verdict
    assert found.weight == pytest.approx(weight, abs=1e-6)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (["bearing", "false_alarm"], "no agreement: 50%"),
        (["bearing", "leak"], "no agreement: 50%"),
        (["bearing", "bearing", "leak", "false_alarm"], "no agreement: 50%"),
        (["unsure"], "everybody who looked is unsure"),
        (["bearing@model"], "too little weight"),
        (["bearing@model", "bearing@model"], "too little weight"),
    ],
)
def test_otherwise_it_is_held_and_weighs_nothing(said: list[str], reason: str) -> None:
    found = decide(votes(*said))
    assert found is not None
    assert (found.status, found.weight) == (Status.HELD, 0.0)
    assert found.reason.startswith(reason)


def test_nobody_makes_no_label() -> None:
    assert decide([]) is None


def test_the_order_of_the_votes_plays_no_part() -> None:
    rows = votes("bearing", "leak", "unsure", "bearing@automated", "false_alarm@implicit")
    assert len({decide(order) for order in itertools.permutations(rows)}) == 1


def test_a_label_is_as_good_as_the_best_of_those_who_stand_behind_it() -> None:
    found = decide(votes("bearing@model", "bearing@implicit", "leak@model"))
    assert found is not None
    assert found.provenance == "implicit"
