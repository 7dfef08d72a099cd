"""The form's story in the other engines that phones have: Firefox's, and WebKit as the nearest to an iPhone's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from simulators.embedded.broker import Broker
from tests import support
from tests.services import plant
from tests.services.station import ServerProcess, query
from tests.services.webdriver import Browser, Firefox, WebKit
from tests.support import eventually

ENGINES = [
    pytest.param(Firefox, marks=pytest.mark.skipif(support.firefox() is None, reason="no Firefox on this machine")),
    pytest.param(WebKit, marks=pytest.mark.skipif(support.webkit() is None, reason="no WebKitWebDriver and Xvfb here")),
]
ALARM = plant.alarm("pump-12", 95, 0.93, "bearing")


@pytest.fixture(scope="module")
def server(postgres_server: str, broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with plant.running(tmp_path_factory.mktemp("server"), postgres_server, broker, ALARM) as server:
        yield server


@pytest.mark.parametrize("engine", ENGINES)
def test_from_the_code_to_a_stored_verdict_and_without_a_network_in_every_engine(
    engine: type[Browser], tmp_path: Path, server: ServerProcess
) -> None:
    person = engine.__name__

    def said() -> list[tuple[str, ...]]:
        statement = "SELECT asset_id, verdict, fault FROM annotation WHERE annotator = %s ORDER BY body->>'made_at'"
        return query(server.dsn, statement, person)

    with engine(tmp_path / "profile") as browser:
        browser.goto(server.url + "/form/sign-in")
        browser.write("//input[@name='name']", person)
        browser.tap("Save")
        wait(browser, "return location.pathname === '/form/' && Boolean(navigator.serviceWorker.controller)")

        browser.goto(server.url + "/form/m/pump-12?src=qr")
        browser.tap("It is a fault")
        browser.tap("Bearing worn")
        browser.tap("Save")
        browser.tap("Back to pump-12")
        eventually(lambda: said() == [("pump-12", "fault", "bearing")], 30)
        browser.find("//*[contains(@class, 'chip stored')]")

        server.kill()
        browser.goto(server.url + "/form/m/pump-14/report")
        browser.tap("Leak")
        browser.tap("Save")
        browser.find("//h1[. = 'Saved']")
        waiting = "return document.querySelector('#strip .state')?.dataset.waiting"
        wait(browser, f"{waiting} === '1'")
        browser.goto(server.url + "/form/m/pump-14")
        wait(browser, f"{waiting} === '1'")
        server.start()
        browser.command("Refresh")
        wait(browser, f"{waiting} === '0'")
        assert said()[1:] == [("pump-14", "fault", "leak")]


def wait(browser: Browser, script: str) -> None:
    eventually(lambda: browser.run(script), 30, script)
