"""Rows to datasets: the hash, the split, and which of the fleet's windows may train."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_server.errors import Refused
from fleet_server.learning import dataset
from fleet_server.learning.dataset import Row, assemble
from fleet_server.learning.rows import Chosen, choose
from fleet_server.store.datasets import EpisodeRow, LabelRow, SampleRow
from models.contract.alarms import Maintenance
from models.contract.features import FEATURE_SET
from models.contract.labels import NORMAL
from tests import fleet_rows
from tests.fleet_rows import BEGIN, NAMES_OF_ALL, SIGNALS, WINDOW


def assembled(rows: list[Row]) -> dataset.Dataset:
    return assemble(rows, NAMES_OF_ALL, WINDOW, SIGNALS)


def test_the_same_rows_in_any_order_are_the_same_dataset() -> None:
    rows = fleet_rows.rows()
    shuffled = random.Random(1).sample(rows, len(rows))
    first, second = assembled(rows), assembled(shuffled)
    assert first.sha256 == second.sha256
    assert np.array_equal(first.holdout, second.holdout)
    changed = [replace(rows[0], weight=0.5), *rows[1:]]
    assert assembled(changed).sha256 != first.sha256


def test_what_is_stored_comes_back() -> None:
    data = fleet_rows.dataset()
    back = dataset.load(dataset.dump(data))
    assert (back.sha256, back.names, back.window, back.signals) == (data.sha256, data.names, data.window, data.signals)
    assert np.array_equal(back.vectors, data.vectors)
    assert back.summary == data.summary


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_asset_is_on_both_sides_and_no_class_is_only_held_out(data: st.DataObject) -> None:
    kinds = data.draw(
        st.lists(st.sets(st.sampled_from(["bearing", "leak", "valve"])), min_size=1, max_size=7),
        label="faults by asset",
    )
    vector = tuple(np.zeros(len(NAMES_OF_ALL)))
    rows = []
    for a, faults in enumerate(kinds):
        for e, kind in enumerate((NORMAL, *sorted(faults))):
            rows += [
                Row(f"{a}-{e}-{i}", f"pump{a}", f"{a}/{e}/{i // 2}", 1000.0 * i, kind, 1.0, vector, "explicit")
                for i in range(6)
            ]
    made = assembled(rows)
    learned, held = set(made.assets[~made.holdout]), set(made.assets[made.holdout])
    if made.split == "asset":
        assert not learned & held
        assert NORMAL in made.classes[made.holdout]
    assert not set(made.blocks[~made.holdout]) & set(made.blocks[made.holdout])
    assert set(made.classes) == set(made.classes[~made.holdout])
    judged = set(made.classes[made.holdout])
    assert set(made.summary["not_judged"]) == set(made.classes) - judged


def test_a_fault_known_from_one_asset_only_is_learned_and_not_judged() -> None:
    rows = [replace(row, window_class="leak") if row.block == "event0-0" else row for row in fleet_rows.rows()]
    made = assembled(rows)
    assert made.split == "asset"
    assert made.summary["not_judged"] == ["leak"]
    assert "leak" in made.classes[~made.holdout]


def test_one_asset_is_split_by_time_with_a_gap() -> None:
    made = assembled(fleet_rows.rows(n_assets=1, events=8))
    assert made.split == "time only"
    for kind in set(made.classes[made.holdout]):
        one = made.classes == kind
        gap = made.times[one & made.holdout].min() - made.times[one & ~made.holdout].max()
        assert gap >= dataset.EMBARGO_WINDOWS * WINDOW.n_samples / WINDOW.rate_hz


def test_nothing_normal_is_nothing_to_learn_from() -> None:
    with pytest.raises(Refused, match="no normal window"):
        assembled([row for row in fleet_rows.rows() if row.window_class != NORMAL])


# Which of the fleet's windows may train

HEALTH = [("gw", "pump", {"window": WINDOW.model_dump(), "signals": [signal.model_dump() for signal in SIGNALS]})]


def a_sample(at_s: float, reason: str = "reference", **changes: Any) -> SampleRow:
    end = BEGIN + timedelta(seconds=at_s)
    values = {
        "trace_id": uuid4(),
        "asset_id": "pump",
        "device_id": "gw",
        "window_start": end - timedelta(seconds=0.25),
        "window_end": end,
        "reason": reason,
        "probability": 0.05,
        "event_id": None,
        "score": 0.2,
        "model_version": 1,
        "feature_set": FEATURE_SET,
        "features": dict.fromkeys(NAMES_OF_ALL, 1.0),
    }
    return SampleRow(**(values | changes))


def an_episode(at_s: float, length_s: float | None = 10) -> EpisodeRow:
    begin = BEGIN + timedelta(seconds=at_s)
    end = None if length_s is None else begin + timedelta(seconds=length_s)
    return EpisodeRow(uuid4(), "pump", begin, end, begin)


def a_label(episode: EpisodeRow, verdict: str, fault: str | None = None, **changes: Any) -> LabelRow:
    values = {
        "label_id": uuid4(),
        "event_id": episode.event_id,
        "asset_id": "pump",
        "start_at": episode.opened_at,
        "end_at": episode.cleared_at or episode.opened_at,
        "verdict": verdict,
        "fault": fault,
        "weight": 0.7,
        "provenance": "explicit",
        "decided_at": BEGIN,
    }
    return LabelRow(**(values | changes))


def chosen(samples: list[SampleRow], episodes: list[EpisodeRow] = [], labels: list[LabelRow] = []) -> Chosen:  # noqa: B006
    return choose(samples, episodes, labels, HEALTH)


def test_reference_windows_are_normal_unless_an_alarm_there_is_not_judged() -> None:
    episode = an_episode(100)
    before, inside, after = a_sample(50), a_sample(105), a_sample(200)
    made = chosen([before, inside, after], [episode])
    assert {row.trace for row in made.rows} == {str(before.trace_id), str(after.trace_id)}
    assert made.left_out == {"in an alarm that nobody has judged": 1}
    judged = chosen([before, inside], [episode], [a_label(episode, "false_alarm")])
    assert [row.window_class for row in judged.rows] == [NORMAL, NORMAL]
    open_alarm = chosen([before, a_sample(9000)], [an_episode(100, None)])
    assert len(open_alarm.rows) == 1


def test_nothing_measured_or_alarmed_in_maintenance_or_while_it_settles_is_learned() -> None:
    episode = an_episode(100)
    window = Maintenance(
        trace_id=uuid4(),
        made_at=BEGIN,
        maintenance_id=uuid4(),
        asset="pump",
        start=BEGIN + timedelta(seconds=90),
        end=BEGIN + timedelta(seconds=120),
        actor="Ada",
        settle_s=60,
    )
    before, inside, settling, after = a_sample(50), a_sample(105), a_sample(150), a_sample(200)
    label = a_label(episode, "fault", "bearing")
    made = choose([before, inside, settling, after], [], [label], HEALTH, [window])
    assert {row.trace for row in made.rows} == {str(before.trace_id), str(after.trace_id)}
    assert made.left_out == {"in a maintenance window": 2, "labels given in a maintenance window": 1}
    assert made.label_ids == []


def test_nothing_in_or_shortly_before_a_fault_counts_as_normal() -> None:
    episode = an_episode(100)
    early, before, inside = a_sample(10), a_sample(95), a_sample(105)
    made = chosen([early, before, inside], [episode], [a_label(episode, "fault", "bearing")])
    # Inside the judged alarm it shows the fault, however it came to be sent.
    assert {row.trace: row.window_class for row in made.rows} == {
        str(early.trace_id): NORMAL,
        str(inside.trace_id): "bearing",
    }
    assert made.left_out == {"in or before a fault": 1}


def test_alarm_windows_are_what_people_said_of_them() -> None:
    fault, false, unjudged = an_episode(100), an_episode(200), an_episode(300)
    samples = [
        a_sample(1),
        a_sample(105, "alarm", event_id=fault.event_id),
        a_sample(111, "alarm", event_id=fault.event_id),  # after the alarm was over
        a_sample(205, "alarm", event_id=false.event_id),
        a_sample(305, "alarm", event_id=unjudged.event_id),
        a_sample(400, "hard"),
    ]
    labels = [a_label(fault, "fault", "bearing"), a_label(false, "false_alarm")]
    made = chosen(samples, [fault, false, unjudged], labels)
    assert [(row.window_class, row.weight) for row in sorted(made.rows, key=lambda row: row.time)] == [
        (NORMAL, 1.0),
        ("bearing", 0.7),
        (NORMAL, 0.7),
    ]
    assert set(made.label_ids) == {label.label_id for label in labels}


def test_a_stretch_labelled_without_an_alarm_is_a_fault() -> None:
    label = a_label(an_episode(100), "fault", "leak", event_id=None)
    made = chosen([a_sample(1), a_sample(105), a_sample(108, "hard")], labels=[label])
    assert sorted(row.window_class for row in made.rows) == ["leak", "leak", NORMAL]


def test_foreign_features_are_left_out_and_refused_when_nothing_is_left() -> None:
    made = chosen([a_sample(1), a_sample(2, feature_set="0" * 16)])
    assert made.left_out == {"another feature set": 1}
    with pytest.raises(Refused, match="feature set"):
        chosen([a_sample(2, feature_set="0" * 16)])


def test_other_channels_are_left_out() -> None:
    one = {name: value for name, value in a_sample(1).features.items() if name.startswith("vib.")}
    made = chosen([a_sample(1), a_sample(2), a_sample(3, features=one)])
    assert made.left_out == {"other channels": 1}
    assert made.signals == SIGNALS


def test_devices_that_cut_their_windows_differently_are_not_mixed() -> None:
    other = ("gw2", "pump2", {"window": WINDOW.model_copy(update={"hop": 64}).model_dump()})
    samples = [a_sample(1), a_sample(2, device_id="gw2", asset_id="pump2")]
    with pytest.raises(Refused, match="differently"):
        choose(samples, [], [], [*HEALTH, other])
    with pytest.raises(Refused, match="no device has said"):
        choose(samples, [], [], [])


def test_a_rare_window_weighs_more_but_not_endlessly() -> None:
    made = chosen([a_sample(i, probability=0.5) for i in range(9)] + [a_sample(20, probability=0.0001)])
    weights = sorted(row.weight for row in made.rows)
    assert weights[-1] / weights[0] == pytest.approx(20)
    assert np.mean(weights) == pytest.approx(1)
