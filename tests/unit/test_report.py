"""Which samples are news, by each policy."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from edge_agent.sensors.channel import Report
from models.report import Reporter


def chosen(reporter: Reporter, values: list[float], start: float = 0.0, quality: list[int] | None = None) -> list[int]:
    marks = np.array(quality or [0] * len(values), np.uint8)
    news = reporter.news(start + np.arange(len(values), dtype=float), np.array(values, float), marks)
    return [int(i) for i in np.flatnonzero(news)]


def test_on_change_is_measured_from_the_last_news() -> None:
    reporter = Reporter(True, 1.0, None)
    assert chosen(reporter, [5, 5.6, 6.0, 6.1, 6.5, float("nan"), float("nan"), 6.5]) == [0, 3, 5, 7]
    assert chosen(reporter, [7.0, 7.6], start=8) == [1]  # a creeping value is not lost between two blocks
    assert reporter.held_back == 5


def test_on_period_and_on_either() -> None:
    assert chosen(Reporter(False, 0, 3.0), [1, 9, 9, 9, 9, 9, 9]) == [0, 3, 6]
    assert chosen(Reporter(True, 0.5, 3.0), [1, 1, 9, 9, 9, 9, 9]) == [0, 2, 5]


def test_a_change_of_quality_is_news() -> None:
    assert chosen(Reporter(True, 1.0, None), [1, 1, 1, 1], quality=[0, 1, 1, 0]) == [0, 1, 3]


def test_after_a_cut_the_first_is_news() -> None:
    reporter = Reporter(True, 1.0, None)
    assert chosen(reporter, [1, 1]) == [0]
    reporter.forget()
    assert chosen(reporter, [1, 1]) == [0]


@pytest.mark.parametrize("report", [{"on": "period"}, {"on": "change", "period_s": 3}, {"on": "never"}])
def test_a_policy_that_can_not_be_meant_is_refused(report: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Report.model_validate(report)
