"""Days without a network: half-filled drafts, apps closed, browsers killed, tabs and clocks; nothing lost or doubled.

`pytest tests/services/test_phone_soak.py -m slow` tells forty verdicts with each of twenty seeds.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from simulators.embedded.broker import Broker
from tests import support
from tests.services import plant
from tests.services.conftest import Client
from tests.services.phone import Phone
from tests.services.station import ServerProcess, query

pytestmark = pytest.mark.skipif(support.chromium() is None, reason="no Chromium on this machine")
MACHINES = ("pump-12", "pump-14", "fan-3", "mixer-2", "conveyor-7", "compressor-1")
FAULTS = ("Leak", "Bearing worn", "Something is loose", "Rotor out of balance")
HOUR_MS = 3600 * 1000


@pytest.fixture(scope="module")
def server(postgres_server: str, broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with support.fresh_database(postgres_server) as dsn:
        running, client = ServerProcess(tmp_path_factory.mktemp("server"), dsn, broker.port), Client(broker)
        running.start()
        plant.settle(running, client)
        yield running
        client.close()
        running.kill()


class Days:
    """One technician's days. `told`: the notes that the form confirmed, each to arrive once."""

    def __init__(self, phone: Phone, seed: int, verdicts: int) -> None:
        self.phone, self.seed, self.verdicts = phone, seed, verdicts
        self.dice = random.Random(seed)
        self.told: list[str] = []

    def live(self) -> None:
        """Without a network, but for moments."""
        mishaps = (self.nothing, self.close_the_app, self.restart, self.battery, self.clock, self.moment_of_network)
        self.phone.set_network(False)
        while len(self.told) < self.verdicts:
            self.dice.choice((self.tell, self.tell, self.tell_in_two_tabs, self.tell_and_die))()
            self.dice.choice(mishaps)()
            self.phone.clock_ms += int(HOUR_MS * 72 / self.verdicts)

    def tell(self) -> None:
        self._fill(self.phone.page)
        self._save(self.phone.page)

    def tell_in_two_tabs(self) -> None:
        """The same draft in both; whoever is second is told that it is saved, too."""
        asset = self._fill(self.phone.page)
        other = self.phone.another_tab()
        other.goto(f"{self.phone.url}/form/m/{asset}/report", wait_until="commit")
        expect(other.locator("[name=note]")).to_have_value(self.note)
        self._save(self.phone.page)
        other.get_by_role("button", name="Save").tap()
        expect(other.get_by_role("heading", name="Saved")).to_be_visible()
        other.close()

    def tell_and_die(self) -> None:
        """The battery ends with the tap on Save: then it is saved, or still a draft, and never both."""
        asset = self._fill(self.phone.page)
        self.phone.page.get_by_role("button", name="Save").tap(no_wait_after=True)
        self.phone.kill()
        page = self.phone.open(f"/form/m/{asset}/report")
        if page.locator("[name=note]").input_value() == self.note:
            self._save(page)
        else:
            self.told.append(self.note)

    def _fill(self, page: Page) -> str:
        asset, self.note = self.dice.choice(MACHINES), f"{self.seed}.{len(self.told)}"
        page.goto(f"{self.phone.url}/form/m/{asset}/report", wait_until="commit")
        page.locator("label.tile").filter(has_text=self.dice.choice(FAULTS)).first.tap()
        page.locator("[name=note]").fill(self.note)
        page.locator("form[data-kept]").wait_for(state="attached")
        return asset

    def _save(self, page: Page) -> None:
        page.get_by_role("button", name="Save").tap()
        expect(page.get_by_role("heading", name="Saved")).to_be_visible()
        self.told.append(self.note)

    def nothing(self) -> None:
        pass

    def close_the_app(self) -> None:
        self.phone.close_page()

    def restart(self) -> None:
        self.phone.reopen()

    def battery(self) -> None:
        self.phone.kill()

    def clock(self) -> None:
        """Hours off, in either direction, from the next opening on."""
        self.phone.clock_ms += self.dice.randint(-30, 30) * HOUR_MS
        self.phone.close_page()

    def moment_of_network(self) -> None:
        """Long enough for some, and then perhaps the battery."""
        page = self.phone.open("/form/outbox")
        self.phone.set_network(True)
        page.wait_for_timeout(self.dice.randint(0, 400))
        if self.dice.random() < 0.5:
            self.phone.network = False
            self.phone.kill()
        else:
            self.phone.set_network(False)


def live_through(folder: Path, server: ServerProcess, seed: int, verdicts: int) -> None:
    with Phone(folder / f"profile{seed}", server.url) as phone:
        phone.introduce(f"Ada {seed}")
        days = Days(phone, seed, verdicts)
        days.live()
        phone.clock_ms = 0
        phone.set_network(True)
        phone.close_page()
        phone.open("/form/outbox")
        phone.expect_waiting(0)
        arrived = Counter(
            note for (note,) in query(server.dsn, "SELECT note FROM annotation WHERE annotator = %s", f"Ada {seed}")
        )
        assert arrived == Counter(days.told), f"seed {seed}"
        assert phone.complaints == []


def test_days_offline_lose_and_double_nothing(tmp_path: Path, server: ServerProcess) -> None:
    live_through(tmp_path, server, seed=1, verdicts=10)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(20))
def test_forty_verdicts_over_three_days(tmp_path: Path, server: ServerProcess, seed: int) -> None:
    live_through(tmp_path, server, seed, verdicts=40)
