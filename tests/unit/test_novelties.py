"""Kinds of novelty: each ships as it was trained, the one that hears faults is taken, and the limit keeps its rate."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from fleet_server.errors import Refused
from fleet_server.learning import export, files, novelties, training
from fleet_server.learning.dataset import Dataset, Row, assemble
from models.bundle import graph
from models.bundle.manifest import Origin
from models.contract.features import vector_names
from models.contract.labels import NORMAL
from models.contract.signals import Signal, WindowSpec
from models.scoring import Scorer

SIGNALS = (Signal(name="load"), Signal(name="heat"), Signal(name="flow"))
NAMES = vector_names(SIGNALS)
FAST = WindowSpec(rate_hz=1000, n_samples=64, hop=64)


def machines(faults: bool, n: int = 60) -> Dataset:
    """Six machines on which heat and flow follow the load; in a fault, heat is what it often is, but not at this load.

    Every feature of a channel is its level with some noise; so none stands out by itself.
    """
    rng = np.random.default_rng(11)
    rows = []
    for asset in range(6):
        for k in range(n * 2 if faults else n):
            ill = k >= n
            load = rng.uniform(-2, 2)
            heat = rng.uniform(-2, 2) if not ill else load + np.sign(-load) * 2.0
            levels = np.repeat([load, heat if ill else load, -load], len(NAMES) // 3)
            vector = tuple((levels + rng.normal(0, 0.1, len(NAMES))).tolist())
            rows.append(
                Row(f"{asset}-{k:04}", f"m{asset}", f"{asset}/{ill}/{k // 10}", k * 10.0,
                    "leak" if ill else NORMAL, 1.0, vector, "file")
            )  # fmt: skip
    return assemble(rows, NAMES, FAST, SIGNALS)


@pytest.fixture(scope="module")
def known() -> Dataset:
    return machines(faults=True)


def test_the_kind_that_hears_faults_on_other_machines_is_taken(known: Dataset) -> None:
    """Each channel is as it often is: only what the others say of it tells."""
    train, positions = ~known.holdout, np.arange(0, len(NAMES), 4)
    found = novelties.fit(known, train, positions, seed=1)
    heard = found.facts["faults_heard_in_validation"]
    assert found.facts["novelty"] == max(heard, key=lambda name: heard[name])
    assert heard["masked channel"] > heard["forest"] + 0.5
    held = known.vectors[known.holdout & (known.classes != NORMAL)][:, positions]
    assert (found.model.score_samples(held) < found.limit).mean() > 0.9


@pytest.mark.parametrize("kind", ["mixture", "masked channel", "forest"])
def test_each_kind_ships_as_it_was_trained(kind: novelties.KindName) -> None:
    data = machines(faults=False)
    fitted = training.fit(data, kind)
    assert fitted.facts["novelty"] == kind
    said = export.Said("pump", 2, datetime(2026, 3, 1, tzinfo=UTC), Origin(trained_on="files"))
    bundle, proof = export.export(fitted, data, said)
    assert proof["worst"] <= export.TOLERANCE
    graph.check(bundle)
    scorer = Scorer(bundle)
    normal = data.vectors[data.holdout & (data.classes == NORMAL)][:, fitted.positions]
    assert np.mean([scorer.score(row).score >= 0.5 for row in normal]) < 0.05


def test_a_masked_channel_hears_a_channel_that_no_longer_fits_and_learns_that_without_a_label() -> None:
    fitted = training.fit(machines(faults=False), "masked channel")
    ill = machines(faults=True)
    leak, normal = ill.vectors[ill.classes == "leak"], ill.vectors[ill.classes == NORMAL]
    assert (fitted.raw(leak) < fitted.limit).mean() > 0.9
    assert (fitted.raw(normal) < fitted.limit).mean() < 0.03


def test_a_kind_that_the_signals_do_not_allow_is_refused_by_name() -> None:
    data = machines(faults=False)
    one = replace(data, names=NAMES[: len(NAMES) // 3], vectors=data.vectors[:, : len(NAMES) // 3], signals=SIGNALS[:1])
    with pytest.raises(Refused, match="mixture, forest are"):
        training.fit(one, "masked channel")


@pytest.mark.parametrize(("n", "how"), [(3000, "conformal"), (400, "extreme value")])
def test_the_limit_keeps_its_false_alarm_rate(n: int, how: str) -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        limit, said = novelties._low_quantile(rng.normal(size=n), 1 / 500)
        assert said.startswith(how)
        shares.append((rng.normal(size=4000) < limit).mean())
    assert 0.3 / 500 < np.mean(shares) < 1.3 / 500


def test_the_kind_can_be_asked_for_in_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    load = rng.normal(size=4000)
    np.savez(tmp_path / "a.npz", load=load, heat=load + rng.normal(0, 0.1, 4000), rate_hz=1.0)
    text = 'name = "pump"\nnovelty = "masked channel"\n[[recording]]\npath = "a.npz"\nnormal_rows = 4000\n'
    (tmp_path / "train.toml").write_text(text)
    result = files.train(tmp_path / "train.toml")
    assert result.summary["training"]["novelty"] == "masked channel"
    assert result.summary["training"]["limit_by"].startswith("extreme value, tail of")
