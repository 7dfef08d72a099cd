"""The technician's form on a phone: Chromium against a real server, offline above all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from simulators.embedded.broker import Broker
from tests import support
from tests.services import plant
from tests.services.conftest import Client
from tests.services.phone import Phone
from tests.services.station import ServerProcess, query

pytestmark = pytest.mark.skipif(support.chromium() is None, reason="no Chromium on this machine")
ALARMS = {name: plant.alarm(name, 95, 0.93, "bearing") for name in ("pump-12", "pump-14", "mixer-2", "compressor-1")}


@pytest.fixture(scope="module")
def server(postgres_server: str, broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A running server of a small plant."""
    with support.fresh_database(postgres_server) as dsn:
        running, client = ServerProcess(tmp_path_factory.mktemp("server"), dsn, broker.port), Client(broker)
        running.start()
        plant.settle(running, client, *ALARMS.values())
        yield running
        client.close()
        running.kill()


@pytest.fixture
def phone(tmp_path: Path, server: ServerProcess) -> Iterator[Phone]:
    """Opened once with a network, by somebody who gave a name."""
    with Phone(tmp_path / "profile", server.url) as phone:
        phone.introduce("Ada")
        yield phone
        assert phone.complaints == []


def said(server: ServerProcess, asset: str) -> list[tuple[str, ...]]:
    columns = "annotation_id::text, verdict, fault, annotator"
    statement = f"SELECT {columns} FROM annotation WHERE asset_id = %s ORDER BY body->>'made_at'"
    return query(server.dsn, statement, asset)


def test_three_taps_from_the_code_on_the_machine_to_a_stored_verdict(phone: Phone, server: ServerProcess) -> None:
    with phone.recorded("three-taps"):
        page = phone.open("/form/m/pump-12?src=qr")
        page.evaluate("globalThis.taps = 0; addEventListener('pointerdown', () => { taps += 1 }, true)")
        phone.tap("It is a fault")
        phone.drawn(f"/form/a/{ALARMS['pump-12'].event_id}")
        assert not page.locator("#tabs").is_visible()  # they would lie over the save button
        phone.tap("Bearing worn or damaged")
        page.get_by_role("button", name="Save").tap()
        expect(page.get_by_role("heading", name="Saved")).to_be_visible()
        assert page.evaluate("taps") == 3
        phone.close_page()  # into the pocket: no second thoughts, it goes at once
        phone.open("/form/m/pump-12")
        expect(phone.page.locator(".chip.stored")).to_be_visible()
    ((_, *what),) = said(server, "pump-12")
    assert what == ["fault", "bearing", "Ada"]
    phone.open("/form/outcomes")
    expect(phone.page.locator("[data-outcome]").first).to_contain_text("pump-12")


def test_three_verdicts_without_a_network_outlive_closing_and_arrive_once(phone: Phone, server: ServerProcess) -> None:
    phone.set_network(False)
    server.kill()
    report = "/form/m/pump-14/report"
    ids = [
        phone.say(f"/form/a/{ALARMS['pump-14'].event_id}", "It is a fault", "Leak", note="from below"),
        phone.say(report, "Bearing worn"),
        phone.say(report, "Not sure"),
    ]
    phone.expect_waiting(3)
    phone.open(report)
    phone.tap("Something is loose")  # begun, not saved
    phone.close_page()
    phone.open("/form/m/pump-14?src=qr")
    phone.expect_waiting(3)
    phone.reopen()
    phone.open(report)
    phone.expect_waiting(3)
    expect(phone.page.locator('input[value="looseness"]')).to_be_checked()
    server.start()
    phone.set_network(True)
    phone.expect_waiting(0)
    assert [(row[0], row[2]) for row in said(server, "pump-14")] == list(
        zip(ids, ["leak", "bearing", None], strict=True)
    )
    assert {row[3] for row in said(server, "pump-14")} == {"Ada"}
    expect(phone.page.locator('input[value="looseness"]')).to_be_checked()


def test_only_our_receipt_empties_the_outbox_and_one_bad_record_does_not_stop_the_others(
    phone: Phone, server: ServerProcess
) -> None:
    page, puts = phone.page, "**/api/annotations/*"
    first = phone.say("/form/m/mixer-2/report", "Leak", then=lambda: page.route(puts, portal))
    phone.open("/form/outbox")
    phone.expect_waiting(1)
    page.route(puts, answer_lost)  # on top of the one before: no moment without any
    page.get_by_role("button", name="Send now").tap()
    phone.eventually(lambda: len(said(server, "mixer-2")) == 1)
    phone.expect_waiting(1)  # stored, but nobody has told the phone
    page.route(puts, lambda route: poisoned(route, first))
    second = phone.say("/form/m/mixer-2/report", "Not sure")
    phone.open("/form/outbox")
    expect(page.locator(f'[data-id="{second}"]')).to_have_attribute("data-where", "stored")
    expect(page.locator(f'[data-id="{first}"]')).to_contain_text("internal")
    page.route(puts, expired)
    page.get_by_role("button", name="Send now").tap()
    expect(page.locator("[data-notice=signin]")).to_be_visible()
    phone.expect_waiting(1)
    page.unroute(puts)
    phone.open("/form/outbox")  # sends at once; a tap would come too late for one that was sent by itself just now
    phone.expect_waiting(0)
    assert [row[0] for row in said(server, "mixer-2")] == [first, second]


def portal(route: Route) -> None:
    route.fulfill(status=200, content_type="text/html", body="<h1>Free Wi-Fi. Please sign in.</h1>")


def answer_lost(route: Route) -> None:
    route.fetch()
    route.abort("connectionreset")


def poisoned(route: Route, annotation_id: str) -> None:
    if route.request.url.endswith(annotation_id):
        route.fulfill(status=500, json={"error": {"code": "internal", "message": "this failed here"}})
    else:
        route.continue_()


def expired(route: Route) -> None:
    route.fulfill(status=401, json={"error": {"code": "signin", "message": "sign in"}})


def test_a_refused_verdict_is_kept_with_its_reason_and_corrected_as_a_new_one(
    phone: Phone, server: ServerProcess
) -> None:
    page = phone.page

    def refuse(route: Route) -> None:
        said_here = json.loads(route.request.post_data or "")
        error = {"code": "unreadable", "message": "not as it is"}
        reasons = [{"field": "note", "reason": "names a person"}]
        route.fulfill(
            status=422, json={"error": error, "annotation_id": said_here["annotation_id"], "reasons": reasons}
        )

    refused = phone.say("/form/m/conveyor-7/report", "Leak", then=lambda: page.route("**/api/annotations/*", refuse))
    phone.open("/form/outbox")
    expect(page.locator(f'[data-id="{refused}"]')).to_have_attribute("data-where", "refused")
    expect(page.locator(f'[data-id="{refused}"]')).to_contain_text("note: names a person")
    page.unroute("**/api/annotations/*")
    phone.tap("Correct it")
    phone.drawn(f"/form/again/{refused}")
    expect(page.locator('input[value="leak"]')).to_be_checked()
    page.get_by_role("button", name="Save").tap()
    expect(page.get_by_role("heading", name="Saved")).to_be_visible()
    phone.open("/form/outbox")
    phone.eventually(lambda: len(said(server, "conveyor-7")) == 1)


def test_two_tabs_send_each_record_once_and_save_one_draft_once(phone: Phone, server: ServerProcess) -> None:
    phone.set_network(False)
    sent: list[str] = []
    # finished: what fails for want of a network, also just as it comes back, has reached nobody
    phone.context.on("requestfinished", lambda request: sent.append(request.url) if request.method == "PUT" else None)
    for _ in range(3):
        phone.say("/form/m/fan-3/report", "Leak")
    phone.open("/form/m/fan-3/report")
    phone.tap("Something is loose")
    other = phone.another_tab()
    other.goto(phone.url + "/form/m/fan-3/report")
    expect(other.locator('input[value="looseness"]')).to_be_checked()
    for tab in (phone.page, other):
        tab.get_by_role("button", name="Save").tap()
        expect(tab.get_by_role("heading", name="Saved")).to_be_visible()
    phone.expect_waiting(4)
    phone.set_network(True)
    phone.tap("Back to fan-3")
    phone.expect_waiting(0)
    assert len(said(server, "fan-3")) == 4
    assert len([url for url in sent if "/api/annotations/" in url]) == 4


def test_a_verdict_is_taken_back_within_ten_seconds_and_comes_back_as_a_draft(
    phone: Phone, server: ServerProcess
) -> None:
    phone.page.clock.set_fixed_time(datetime.now(UTC))  # ten seconds may be short on a busy machine
    phone.say(f"/form/a/{ALARMS['compressor-1'].event_id}", "It is a fault", "Leak")
    phone.tap("Undo")
    phone.drawn(f"/form/a/{ALARMS['compressor-1'].event_id}")
    phone.expect_waiting(0)
    expect(phone.page.locator('input[value="leak"]')).to_be_checked()
    phone.tap("Do not learn from this")
    phone.page.get_by_role("button", name="Save").tap()
    expect(phone.page.get_by_role("heading", name="Saved")).to_be_visible()
    phone.open("/form/")
    phone.expect_waiting(0)
    assert query(server.dsn, "SELECT body->>'learn' FROM annotation WHERE asset_id = 'compressor-1'") == [("false",)]


def test_a_full_phone_says_so_keeps_what_was_filled_in_and_saves_when_there_is_room(
    phone: Phone, server: ServerProcess
) -> None:
    phone.set_network(False)
    phone.reopen()
    devtools = phone.context.new_cdp_session(phone.page)
    devtools.send("Storage.overrideQuotaForOrigin", {"origin": phone.url, "quotaSize": 1})
    phone.open("/form/m/pump-12/report")
    phone.tap("Leak")
    phone.page.get_by_role("button", name="Save").tap()
    expect(phone.page.locator("form .problem")).to_contain_text("this phone is full")
    expect(phone.page.locator("[data-notice=full]")).to_be_visible()
    expect(phone.page.locator('input[value="leak"]')).to_be_checked()
    devtools.send("Storage.overrideQuotaForOrigin", {"origin": phone.url})
    phone.page.get_by_role("button", name="Save").tap()
    expect(phone.page.get_by_role("heading", name="Saved")).to_be_visible()
    expect(phone.page.locator("[data-notice=full]")).to_be_hidden()
    phone.expect_waiting(1)


def test_the_worker_alone_sends_when_the_browser_wakes_it(phone: Phone, server: ServerProcess) -> None:
    phone.set_network(False)
    phone.say("/form/m/conveyor-7/report", "Bearing worn")
    phone.page.goto("about:blank")
    phone.set_network(True)
    phone.page.goto(phone.url + "/static/style.css")  # our origin, no form
    devtools = phone.context.new_cdp_session(phone.page)
    registrations: list[str] = []
    devtools.on(
        "ServiceWorker.workerRegistrationUpdated",
        lambda event: registrations.extend(each["registrationId"] for each in event["registrations"]),
    )
    devtools.send("ServiceWorker.enable")
    phone.eventually(lambda: registrations)
    wake = {"origin": phone.url, "registrationId": registrations[0], "tag": "outbox", "lastChance": False}
    devtools.send("ServiceWorker.dispatchSyncEvent", wake)
    phone.eventually(lambda: ("bearing",) in [row[2:3] for row in said(server, "conveyor-7")])


def test_a_wrong_clock_is_shown_and_holds_nothing_back(tmp_path: Path, server: ServerProcess) -> None:
    with Phone(tmp_path / "profile", server.url) as phone:
        phone.clock_ms = 3 * 3600 * 1000
        phone.close_page()
        phone.introduce("Ada")
        expect(phone.page.locator("[data-notice=clock]")).to_contain_text("3 hours off")
        phone.say("/form/m/fan-3/report", "Not sure")
        phone.clock_ms = 0  # set right while it waits: what is "held for 10 s" is now hours in the future
        phone.close_page()
        phone.open("/form/outbox")
        phone.expect_waiting(0)
    clocks = (
        "(body->>'made_at')::timestamptz > received_at + interval '2 hours', end_at < received_at + interval '1 minute'"
    )
    statement = f"SELECT {clocks} FROM annotation WHERE verdict = 'unsure' AND asset_id = 'fan-3'"
    assert query(server.dsn, statement) == [(True, True)]  # both clocks are kept; the interval is by the host's


def test_the_form_speaks_german_and_grows_for_gloves(phone: Phone) -> None:
    phone.open("/form/settings")
    phone.tap("Deutsch")
    expect(phone.page.get_by_role("heading", name="Einstellungen")).to_be_visible()
    phone.tap("an")
    phone.open("/form/m/pump-14/report")
    expect(phone.page.get_by_text("Lager verschlissen oder beschädigt")).to_be_visible()
    assert phone.page.locator("html").get_attribute("lang") == "de"
    box = phone.page.locator("label.tile").first.bounding_box()
    assert box
    assert box["height"] >= 112


def test_forgetting_the_phone_counts_what_is_not_sent_and_leaves_nothing(phone: Phone) -> None:
    phone.set_network(False)
    phone.say("/form/m/pump-12/report", "Leak")
    phone.open("/form/settings")
    phone.tap("Forget this phone")
    expect(phone.page.get_by_role("alert")).to_contain_text("1 entry is not sent yet")
    phone.set_network(True)
    phone.page.reload()
    phone.expect_waiting(0)
    phone.tap("Forget this phone")
    phone.tap("Forget everything")
    phone.drawn("/form/")
    phone.open("/form/settings")
    expect(phone.page.locator("#my-name")).to_have_value("")
