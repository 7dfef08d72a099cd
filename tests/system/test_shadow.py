"""A challenger in shadow on a real agent, from the order to what the server shows of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet_server.config import Rollouts
from models.contract.release import ShadowLimits
from simulators.embedded.broker import Broker
from tests.builders import a_bundle
from tests.services.station import value
from tests.support import eventually
from tests.system.plant import Plant


def test_a_challenger_is_compared_on_live_windows_within_its_share_and_raises_nothing(
    own_broker: Broker, plain_database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, harmful = a_bundle(1), a_bundle(2, limit=0.01)
    rules = Rollouts(soak_s=0, shadow=ShadowLimits(cpu_share=0.0002, report_s=1.0))
    with Plant(tmp_path, own_broker, plain_database, old, rules, capsys) as plant:
        plant.roll_out(harmful, mode="shadow")
        plant.until("shadow")

        def compared() -> bool:
            plant.turn()
            shadow = plant.show()["shadow"]
            return bool(shadow) and shadow[0]["windows"] >= 200

        eventually(compared, timeout=60, message=plant.agent.tail())
        (found,), shown = plant.show()["shadow"], plant.show()
        assert (shown["mode"], shown["state"], shown["counts"]["shadowed"]) == ("shadow", "done", 1)
        assert (found["champion"], found["challenger"]) == (old.sha256, harmful.sha256)
        assert 3 <= found["scored"] < found["windows"]
        assert found["only_challenger_over"] == found["scored"]  # it would have cried at every window
        assert found["mean_difference"] > 0.5
        assert found["cpu_share"] <= 0.0002 * 1.5
        print(f"{found['scored']} of {found['windows']} windows, {found['cpu_share']:.3%} of a core, 0.02% allowed")
        assert plant.memory.get("current") == old.sha256
        assert value(plain_database, "SELECT count(*) FROM event") == 0
        assert value(plain_database, "SELECT count(*) FROM prediction WHERE model_version <> 1") == 0
