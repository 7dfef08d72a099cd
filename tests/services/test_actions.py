"""What the phone does about alarms and maintenance on the server: once, shown to everybody, and told to the device."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import httpx

from models.contract.events import AlarmEvent
from tests.services.station import now, query, value
from tests.services.test_form_api import ServerHost, an_alarm, server  # noqa: F401
from tests.services.test_sign_in import Door, clock, server_door  # noqa: F401


def raised(where: ServerHost) -> AlarmEvent:
    event = an_alarm()
    where.raise_alarm(event)
    return event


def do(http: httpx.Client, action: str, action_id: uuid.UUID | None = None, **fields: Any) -> httpx.Response:
    body = {"action": action, "at": now().isoformat()} | fields
    headers = {"X-PDM-Form": "1"}
    return http.put(f"/api/form/actions/{action_id or uuid.uuid4()}", json=body, headers=headers)


def test_an_action_sent_five_times_is_one_and_everybody_sees_it(server: ServerHost) -> None:  # noqa: F811
    event = raised(server)
    action_id, about = uuid.uuid4(), {"event_id": str(event.event_id), "at": now().isoformat()}
    answers = [do(server.http, "acknowledge", action_id, **about, actor="Ada") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 200]
    assert answers[0].json() == {"action_id": str(action_id), "taken": "new", "state": "stored"}
    assert do(server.http, "dismiss", action_id, **about).status_code == 409, "one id, one action"
    until = now() + timedelta(hours=4)
    do(server.http, "snooze", **about, until=until.isoformat())
    do(server.http, "assign", **about, to="Björn")
    do(server.http, "comment", **about, text="Hears like gravel.")
    (alarm,) = server.bootstrap().alarms
    assert (alarm.acknowledged_by, alarm.assigned_to, alarm.comments) == ("Ada", "Björn", 1)
    assert alarm.snoozed_until == until
    assert value(server.shop.dsn, "SELECT count(*) FROM alarm_action") == 4


def test_what_is_done_here_is_told_to_the_device_and_counts_as_implicit_feedback(
    server: ServerHost,  # noqa: F811
) -> None:
    event = raised(server)
    do(server.http, "acknowledge", event_id=str(event.event_id), actor="Ada")
    do(server.http, "dismiss", event_id=str(event.event_id), actor="Ada")
    sent = query(server.shop.dsn, "SELECT device_id, kind, body -> 'action' ->> 'place' FROM command ORDER BY sequence")
    assert sent == [("plant1.gw1", "take_action", "server")] * 2
    found = query(server.shop.dsn, "SELECT signal, value >= 0, provenance, person FROM feedback ORDER BY signal")
    assert found == [("acknowledged", True, "implicit", "Ada"), ("dismissed", None, "implicit", "Ada")]
    assert value(server.shop.dsn, "SELECT count(*) FROM label") == 0


def test_maintenance_begins_and_ends_with_one_tap(server: ServerHost) -> None:  # noqa: F811
    raised(server)
    maintenance_id = str(uuid.uuid4())
    about = {"asset": "pump1", "maintenance_id": maintenance_id}
    assert do(server.http, "maintenance_end", **about).status_code == 404, "it has not begun"
    assert [do(server.http, "maintenance_start", **about).status_code for _ in range(2)] == [201, 200]
    (asset,) = server.bootstrap().assets
    assert str(asset.maintenance_id) == maintenance_id
    assert asset.maintenance_since is not None
    assert do(server.http, "maintenance_start", asset="pump9", maintenance_id=str(uuid.uuid4())).status_code == 404
    ended = [do(server.http, "maintenance_end", **about, part_replaced="6205") for _ in range(2)]
    assert [answer.status_code for answer in ended] == [201, 200]
    (asset,) = server.bootstrap().assets
    assert (asset.maintenance_id, asset.maintenance_since) == (None, None)
    told = query(server.shop.dsn, "SELECT body -> 'window' ->> 'part_replaced' FROM command ORDER BY sequence")
    assert told == [("",), ("6205",)]
    signals = [signal for (signal,) in query(server.shop.dsn, "SELECT signal FROM feedback ORDER BY signal")]
    assert signals == ["maintenance_ended", "maintenance_started", "part_used"]


def test_what_is_no_action_is_refused_by_name(server: ServerHost) -> None:  # noqa: F811
    event = raised(server)
    for status, action, fields in (
        (404, "acknowledge", {"event_id": str(uuid.uuid4())}),
        (422, "acknowledge", {}),
        (422, "snooze", {"event_id": str(event.event_id)}),
        (422, "comment", {"event_id": str(event.event_id), "text": " "}),
        (422, "explode", {"event_id": str(event.event_id)}),
        (422, "maintenance_start", {"asset": "pump1"}),
    ):
        action_id = uuid.uuid4()
        answer = do(server.http, action, action_id, **fields)
        assert (answer.status_code, answer.json()["action_id"]) == (status, str(action_id)), (action, answer.text)
    assert value(server.shop.dsn, "SELECT count(*) FROM alarm_action") == 0


def test_who_is_signed_in_did_it_whatever_the_phone_says(server_door: Door) -> None:  # noqa: F811
    assert isinstance(server_door.host, ServerHost)
    event = raised(server_door.host)
    assert do(server_door.phone(), "acknowledge", event_id=str(event.event_id)).status_code == 401
    phone = server_door.signed_in("Ada")
    assert do(phone, "acknowledge", event_id=str(event.event_id), actor="Olga").status_code == 201
    (alarm,) = phone.get("/api/form/bootstrap").json()["alarms"]
    assert alarm["acknowledged_by"] == phone.get("/api/form/me").json()["person"]
