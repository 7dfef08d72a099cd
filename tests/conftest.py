"""Real servers for the tests, and a word at the end on what this machine could not test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from simulators.embedded.broker import Broker, Mosquitto, embedded_broker
from simulators.embedded.postgres import EmbeddedPostgres
from tests import support

settings.register_profile("loaded machine", deadline=None)  # how long an example takes says nothing there
settings.load_profile("loaded machine")

pytest_plugins = ["tests.faults.figures", "tests.faults.ledger", "tests.workers"]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URI of an embedded PostgreSQL, shared by the whole run. Most tests want `database`."""
    with support.reachable_folder() as home, EmbeddedPostgres(home / "postgres", settings={"fsync": "off"}) as server:
        yield server.dsn


@pytest.fixture(params=["postgresql", "timescaledb"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URI of a fresh, empty database; each test that asks for it runs on both kinds of server."""
    if request.param == "postgresql":
        with support.fresh_database(request.getfixturevalue("postgres_server")) as uri:
            yield uri
    elif dsn := support.timescale_dsn():
        with support.fresh_database(dsn, extension="timescaledb") as uri:
            yield uri
    else:
        pytest.skip("TEST_TIMESCALE_DSN is not set")


@pytest.fixture
def plain_database(postgres_server: str) -> Iterator[str]:
    """The URI of a fresh, empty database on the embedded PostgreSQL only, for what no extension changes."""
    with support.fresh_database(postgres_server) as uri:
        yield uri


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running broker for the whole run: use device ids of your own, and leave it running."""
    with embedded_broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A running broker that this test may stop, kill and restart."""
    with embedded_broker(tmp_path / "broker") as running:
        yield running


@pytest.fixture(scope="session")
def pdm_data() -> Path:
    """The folder of real recordings."""
    if folder := support.real_data():
        return folder
    pytest.skip("PDM_DATA does not name a folder with real recordings")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was left out on this machine, and what adds it."""
    packages = [
        name for name, here in (("mosquitto", Mosquitto.binary()), ("chromium", support.chromium())) if not here
    ]
    lines = []
    if packages:
        install = "sudo apt-get install -y" if sys.platform == "linux" else "brew install"
        lines.append(f"{' and '.join(packages)} (not installed): {install} {' '.join(packages)}")
    if not (support.firefox() and support.webkit()):
        lines.append("the form in Firefox and WebKit: sudo apt-get install -y firefox-esr webkit2gtk-driver xvfb")
    if not support.timescale_dsn():
        lines.append("TimescaleDB: set TEST_TIMESCALE_DSN to the URI of a server with the extension")
    if not support.real_data():
        lines.append("real recordings: set PDM_DATA to their folder")
    if lines:
        terminalreporter.section("left out on this machine")
        for line in lines:
            terminalreporter.write_line(line)
