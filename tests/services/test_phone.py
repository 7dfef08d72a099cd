"""The technician's form on a phone: Chromium against the real server and the real agent, offline above all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from simulators.embedded.broker import Broker
from tests import builders, support
from tests.services.conftest import Client
from tests.services.phone import Phone
from tests.services.station import Device, ServerProcess, query
from tests.services.test_ingest import a_beat
from tests.support import eventually

pytestmark = pytest.mark.skipif(support.chromium() is None, reason="no Chromium on this machine")
EVENT = builders.an_event(opened_at=builders.NOW, window_end=builders.NOW)
SAID = "SELECT annotation_id::text, verdict, fault, annotator, note FROM annotation ORDER BY received_at"


@pytest.fixture
def server(
    tmp_path: Path, plain_database: str, own_broker: Broker, connect: Callable[..., Client]
) -> Iterator[ServerProcess]:
    """A running server that knows one machine with one open alarm."""
    running = ServerProcess(tmp_path / "server", plain_database, own_broker.port)
    running.start()
    device = Device("plant1.gw1", connect(own_broker), running.key)
    for body in (EVENT, a_beat(outbox={})):
        device.send(body)
    eventually(lambda: not device.unconfirmed)
    yield running
    running.kill()


@pytest.fixture
def phone(tmp_path: Path, server: ServerProcess) -> Iterator[Phone]:
    """Opened once with a network, by somebody who gave a name."""
    with Phone(tmp_path / "profile", server.url) as phone:
        phone.open("/form/sign-in")
        phone.page.get_by_label("Your name").fill("Ada")
        phone.page.get_by_role("button", name="Save").tap()
        phone.drawn("/form/")
        phone.ready_for_offline()
        yield phone
        assert phone.complaints == []


def said(server: ServerProcess) -> list[tuple[str, ...]]:
    return query(server.dsn, SAID)


def test_three_taps_from_the_code_on_the_machine_to_a_stored_verdict(phone: Phone, server: ServerProcess) -> None:
    phone.open("/form/m/pump1?src=qr")
    phone.tap("It is a fault")
    phone.drawn(f"/form/a/{EVENT.event_id}")
    phone.tap("Bearing worn or damaged")
    phone.page.get_by_role("button", name="Save").tap()
    expect(phone.page.get_by_role("heading", name="Saved")).to_be_visible()
    expect(phone.page.locator(".done")).to_have_attribute("data-where", "stored", timeout=20_000)
    ((_, *what),) = said(server)
    assert what == ["fault", "bearing", "Ada", ""]


def test_three_verdicts_without_a_network_outlive_closing_and_arrive_once(phone: Phone, server: ServerProcess) -> None:
    phone.set_network(False)
    server.kill()
    ids = [
        phone.say(f"/form/a/{EVENT.event_id}", "It is a fault", "Leak", note="from below"),
        phone.say("/form/m/pump1/report", "Bearing worn"),
        phone.say("/form/m/pump1/report", "Not sure"),
    ]
    phone.expect_waiting(3)
    phone.open("/form/m/pump1/report")
    phone.tap("Something is loose")  # begun, not saved
    phone.close_page()
    phone.open("/form/m/pump1?src=qr")
    phone.expect_waiting(3)
    phone.reopen()
    phone.open("/form/m/pump1/report")
    phone.expect_waiting(3)
    expect(phone.page.locator('input[value="looseness"]')).to_be_checked()
    server.start()
    phone.set_network(True)
    phone.expect_waiting(0, timeout=30)
    assert [(row[0], row[2]) for row in said(server)] == list(zip(ids, ["leak", "bearing", None], strict=True))
    assert {row[3] for row in said(server)} == {"Ada"}
    expect(phone.page.locator('input[value="looseness"]')).to_be_checked()
