"""Signing in on a phone, and what strangers try at the door: of agent and fleet server alike."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_agent import cli as edge_cli
from edge_agent import config as edge_config
from edge_agent.errors import BadConfig as EdgeBadConfig
from edge_agent.page import make_app
from edge_agent.people import People as EdgePeople
from fleet_server import config as server_config
from fleet_server.config import Form
from fleet_server.errors import BadConfig
from fleet_server.feedback import people as server_people
from fleet_server.store.pool import connect
from fleet_server.web import pages
from models.contract.codec import dump
from models.contract.messages import Annotation
from models.form.signin import CODE_LASTS, IDLE, PIN_TRIES, TRIES, Role
from tests import media
from tests.builders import an_annotation
from tests.services.station import ServerProcess, now, query, value
from tests.services.test_attachments import PHOTO, hash_of
from tests.services.test_form_api import AGENT, AgentHost, Host, ServerHost, an_alarm
from tests.services.test_web import Shop

OURS = {"X-PDM-Form": "1", "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}


class Door:
    """A host where people sign in, and phones in front of it."""

    def __init__(self, host: Host, invite: Callable[..., tuple[Any, str]], dump_secrets: Callable[[], str]) -> None:
        self.host, self.invite, self.secrets = host, invite, dump_secrets
        self.url = str(host.http.base_url)
        self.phones: list[httpx.Client] = []

    def phone(self) -> httpx.Client:
        self.phones.append(httpx.Client(base_url=self.url, headers=OURS))
        return self.phones[-1]

    def signed_in(self, name: str, role: Role = "technician", phone: httpx.Client | None = None) -> httpx.Client:
        phone = phone or self.phone()
        _, code = self.invite(name, role)
        assert phone.post("/api/form/enrol", json={"code": code}).status_code == 200
        return phone


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[timedelta]:
    """How far both hosts' clocks are ahead: the one entry may be changed."""
    ahead = [timedelta()]
    monkeypatch.setattr("fleet_server.web.site._now", lambda: _at(ahead))
    return ahead


@pytest.fixture
def agent_door(tmp_path: Path, clock: list[timedelta]) -> Iterator[Door]:
    made = AgentHost(tmp_path, AGENT.replace("[form]", '[form]\nsign_in = "enrolled"'), lambda: _at(clock))
    people = EdgePeople(tmp_path / "agent-state" / "people.db")
    secrets = lambda: "\n".join(people._db.iterdump())  # noqa: E731
    yield Door(
        made, lambda name, role="technician", person=None: people.invite(name, role, _at(clock), person), secrets
    )
    made.close()


@pytest.fixture
def server_door(plain_database: str, clock: list[timedelta], tmp_path: Path) -> Iterator[Door]:
    (tmp_path / "token").write_text("a-long-token\n")
    form = Form(sign_in="enrolled", work_orders_token_file=tmp_path / "token")
    shop = Shop(plain_database, form=form)
    made = ServerHost(shop)

    def invite(name: str, role: Role = "technician", person: str | None = None) -> tuple[Any, str]:
        with connect(shop.dsn) as conn:
            return server_people.invite(conn, name, role, _at(clock), person)

    def secrets() -> str:
        tables = ("enrolment_code", "form_session", "phone")
        return repr([query(shop.dsn, f"SELECT * FROM {table}") for table in tables])

    yield Door(made, invite, secrets)
    shop.close()


def _at(clock: list[timedelta]) -> datetime:
    return datetime.now(UTC) + clock[0]


@pytest.fixture(params=["agent", "server"])
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    made: Door = request.getfixturevalue(f"{request.param}_door")
    yield made
    for phone in made.phones:
        phone.close()


def code_of(answer: httpx.Response) -> str:
    code: str = answer.json()["error"]["code"]
    return code


def say(phone: httpx.Client, said: Annotation, **headers: str) -> httpx.Response:
    return phone.put(f"/api/annotations/{said.annotation_id}", content=dump(said), headers=headers)


def mine(phone: httpx.Client, **changes: Any) -> Annotation:
    person = phone.get("/api/form/me").json()["person"]
    return an_annotation(**({"annotator": person, "made_at": now()} | changes))


def test_cookies_end_with_the_session_and_over_https_travel_over_nothing_else(door: Door) -> None:
    for scheme in ("https", "http"):  # as a proxy on this machine says it
        _, code = door.invite("Ada")
        proxied = {"X-Forwarded-Proto": scheme, "X-Forwarded-For": "192.0.2.7"}
        answer = door.phone().post("/api/form/enrol", json={"code": code}, headers=proxied)
        for cookie in answer.headers.get_list("set-cookie"):
            assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
            assert ("Secure" in cookie.split("; ")) == (scheme == "https")
        assert f"Max-Age={30 * 86400}" in answer.headers["set-cookie"]


def test_a_code_signs_one_phone_in_once_and_the_name_goes_nowhere(door: Door) -> None:
    event = an_alarm()
    door.host.raise_alarm(event)
    phone = door.phone()
    closed = phone.get("/api/form/bootstrap").json()
    assert (closed["sign_in"], closed["me"], closed["assets"], closed["alarms"]) == ("enrolled", None, [], [])
    who, code = door.invite("Ada Lovelace")
    answer = phone.post("/api/form/enrol", json={"code": code.lower().replace("-", " ")})
    assert (answer.status_code, answer.json()["person"], answer.json()["name"]) == (200, who.person, "Ada Lovelace")
    for cookie in answer.headers.get_list("set-cookie"):
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Path=/" in cookie
    opened = phone.get("/api/form/bootstrap").json()
    assert (opened["me"]["person"], len(opened["alarms"])) == (who.person, 1)
    assert code_of(door.phone().post("/api/form/enrol", json={"code": code})) == "bad_code", "once"
    said = mine(phone, event_id=event.event_id)
    assert say(phone, said).status_code == 201
    assert [each["annotation_id"] for each in phone.get("/api/form/history").json()["outcomes"]] == [
        str(said.annotation_id)
    ]
    kept = door.secrets()
    assert code.replace("-", "") not in kept
    assert not any(cookie.value and cookie.value in kept for cookie in phone.cookies.jar), "hashes only"
    if isinstance(door.host, ServerHost):
        expert = door.signed_in("Rosa", "operator")
        shown = expert.get(f"/api/events/{event.event_id}").text + expert.get("/api/annotations").text
        assert who.person in shown
        assert "Lovelace" not in shown, "a reviewer sees the pseudonym"


def test_a_code_expires_and_who_guesses_is_made_to_wait(door: Door, clock: list[timedelta]) -> None:
    _, code = door.invite("Ada")
    clock[0] = CODE_LASTS + timedelta(seconds=1)
    phone = door.phone()
    assert code_of(phone.post("/api/form/enrol", json={"code": code})) == "bad_code"
    for _ in range(TRIES - 1):
        assert phone.post("/api/form/enrol", json={"code": "AAAA-BBBB-CCCC"}).status_code == 403
    _, good = door.invite("Ada")
    answer = phone.post("/api/form/enrol", json={"code": good})
    assert (answer.status_code, code_of(answer)) == (429, "slow_down")
    assert int(answer.headers["Retry-After"]) > 0
    clock[0] += timedelta(minutes=11)
    _, good = door.invite("Ada")
    assert phone.post("/api/form/enrol", json={"code": good}).status_code == 200


def test_a_token_that_a_stranger_planted_is_never_taken_over(door: Door) -> None:
    """Session fixation."""
    phone = door.signed_in("Ada")
    name = next(cookie.name for cookie in phone.cookies.jar if "session" in cookie.name)
    victim = door.phone()
    victim.cookies.set(name, "planted-by-somebody-else", domain="127.0.0.1")
    door.signed_in("Björn", phone=victim)
    tokens = [cookie.value for cookie in victim.cookies.jar if cookie.name == name and cookie.value]
    assert all(token != "planted-by-somebody-else" for token in tokens[-1:])
    attacker = httpx.Client(base_url=door.url, headers=OURS, cookies={name: "planted-by-somebody-else"})
    assert code_of(attacker.get("/api/form/me")) == "signin"
    attacker.close()


def test_signing_in_again_ends_the_session_before(door: Door) -> None:
    phone = door.signed_in("Ada")
    before = dict(phone.cookies)
    door.signed_in("Ada", phone=phone)
    old = httpx.Client(base_url=door.url, headers=OURS, cookies=before)
    assert code_of(old.get("/api/form/me")) == "signin"
    old.close()


def test_after_five_wrong_pins_the_session_is_over_however_many_come_at_once(door: Door) -> None:
    from concurrent.futures import ThreadPoolExecutor

    phone = door.signed_in("Ada")
    assert code_of(phone.put("/api/form/pin", json={"pin": "12ab"})) == "bad_pin"
    assert phone.put("/api/form/pin", json={"pin": "4711"}).json()["pin"] is True
    assert phone.post("/api/form/lock", json={}).json()["locked"] is True
    assert code_of(phone.get("/api/form/history")) == "locked"
    wrong = phone.post("/api/form/unlock", json={"pin": "0000"})
    assert (wrong.status_code, code_of(wrong), wrong.json()["left"]) == (403, "wrong_pin", PIN_TRIES - 1)
    assert phone.post("/api/form/unlock", json={"pin": "4711"}).json()["locked"] is False
    cookie = "; ".join(f"{name}={value}" for name, value in phone.cookies.items())  # sent whatever the answers say

    def guess(first: int) -> list[int]:
        with httpx.Client(base_url=door.url, headers=OURS | {"Cookie": cookie}) as one:
            pins = [f"{i:04d}" for i in range(first, 1000, 8)]
            return [one.post("/api/form/unlock", json={"pin": pin}).status_code for pin in pins]

    with ThreadPoolExecutor(8) as pool:
        answers = [answer for part in pool.map(guess, range(8)) for answer in part]
    assert len(answers) == 1000
    assert answers.count(403) < PIN_TRIES
    assert set(answers) <= {401, 403}
    assert code_of(phone.post("/api/form/unlock", json={"pin": "4711"})) == "signin", "the right one is too late"


def test_nobody_who_looks_for_a_while_locks_and_what_waits_is_still_taken(door: Door, clock: list[timedelta]) -> None:
    event = an_alarm()
    door.host.raise_alarm(event)
    phone = door.signed_in("Ada")
    phone.put("/api/form/pin", json={"pin": "4711"})
    said = mine(phone, event_id=event.event_id)
    clock[0] = IDLE + timedelta(minutes=1)
    shown = phone.get("/api/form/bootstrap").json()
    assert (shown["me"]["locked"], shown["alarms"], shown["outcomes"]) == (True, [], [])
    assert code_of(phone.get("/api/form/history")) == "locked"
    assert code_of(phone.get(f"/api/annotations/{said.annotation_id}")) == "locked"
    assert code_of(phone.put("/api/form/pin", json={"pin": "1111"})) == "wrong_pin", "not a way around it"
    assert say(phone, said).status_code == 201
    phone.post("/api/form/unlock", json={"pin": "4711"})
    assert len(phone.get("/api/form/bootstrap").json()["alarms"]) == 1


def test_a_session_ends_when_it_is_old_signed_out_or_revoked(door: Door, clock: list[timedelta]) -> None:
    phone = door.signed_in("Ada")
    assert phone.post("/api/form/sign-out", json={}).status_code == 204
    assert code_of(phone.get("/api/form/me")) == "signin"
    door.signed_in("Ada", phone=phone)
    clock[0] = timedelta(days=31)
    assert code_of(phone.get("/api/form/me")) == "signin"


def test_sent_again_after_the_session_has_ended_is_one_row_and_kept_until_then(
    door: Door, clock: list[timedelta]
) -> None:
    phone = door.signed_in("Ada")
    said = mine(phone)
    clock[0] = timedelta(days=31)
    assert [code_of(say(phone, said)) for _ in range(2)] == ["signin", "signin"]
    clock[0] = timedelta()
    door.signed_in("Björn", phone=phone)  # a colleague, on the same phone
    assert [say(phone, said).status_code for _ in range(5)] == [201, 200, 200, 200, 200]
    if isinstance(door.host, ServerHost):
        rows = query(door.host.shop.dsn, "SELECT annotator, body ->> 'sent_by' FROM annotation")
        (colleague,) = query(door.host.shop.dsn, "SELECT person FROM person WHERE name = 'Björn'")[0]
        assert rows == [(said.annotator, colleague)], "the author stays who wrote it"


def test_nobody_speaks_in_the_name_of_who_never_had_this_phone(door: Door) -> None:
    ada, björn = door.signed_in("Ada"), door.signed_in("Björn")
    forged = mine(ada)
    answer = say(björn, forged)
    assert (answer.status_code, code_of(answer)) == (403, "not_yours")
    assert answer.json()["annotation_id"] == str(forged.annotation_id)
    assert say(björn, an_annotation(annotator="Ada")).status_code == 403, "nor a plain name"


def test_another_persons_things_are_not_there(door: Door) -> None:
    """IDOR by id: annotations, history, attachments, satisfaction."""
    ada, björn = door.signed_in("Ada"), door.signed_in("Björn")
    said = mine(ada)
    say(ada, said)
    assert ada.get(f"/api/annotations/{said.annotation_id}").status_code == 200
    assert björn.get(f"/api/annotations/{said.annotation_id}").status_code == 404
    assert björn.get("/api/form/history").json()["outcomes"] == []
    for _ in range(3):
        say(ada, mine(ada, note=str(uuid.uuid4())))
    asked = ada.get("/api/form/bootstrap").json()["satisfaction"]
    assert asked is not None
    assert björn.put(f"/api/form/satisfaction/{asked['ask_id']}", json={"score": 1}).status_code == 404
    assert ada.put(f"/api/form/satisfaction/{asked['ask_id']}", json={"score": 5}).status_code == 200
    if isinstance(door.host, ServerHost):
        params = {"offset": 0, "size": len(PHOTO), "media_type": "image/jpeg"}
        part = ada.put(f"/api/attachments/{hash_of(PHOTO)}", params=params, content=PHOTO[:1000])
        assert part.json()["offset"] == 1000
        assert björn.get(f"/api/attachments/{hash_of(PHOTO)}/state").status_code == 404, "another's part is not there"
        small = media.a_png()
        params = {"offset": 0, "size": len(small), "media_type": "image/png"}
        assert ada.put(f"/api/attachments/{hash_of(small)}", params=params, content=small).json()["state"] == "stored"
        assert ada.get(f"/api/attachments/{hash_of(small)}").status_code == 200
        assert björn.get(f"/api/attachments/{hash_of(small)}").status_code == 404
        assert door.signed_in("Rosa", "reviewer").get(f"/api/attachments/{hash_of(small)}").status_code == 200


def every_route(door: Door) -> list[tuple[str, str]]:
    """(method, address) of all that the application answers, its parameters filled in."""
    if isinstance(door.host, AgentHost):
        there = [(method, route.path) for route in make_app(door.host.desk).routes for method in _methods(route)]
    else:
        assert isinstance(door.host, ServerHost)
        app: Any = door.host.shop._web._server.config.app
        described = app.openapi()["paths"].items()
        there = [(method.upper(), path) for path, methods in described for method in methods]
        there += [(method, route.path) for route in (*app.routes, *pages.router.routes) for method in _methods(route)]
    return sorted({(method, re.sub(r"\{[^}]+\}", str(uuid.UUID(int=1)), path)) for method, path in there})


def _methods(route: Any) -> set[str]:
    return getattr(route, "methods", None) or set()


OPEN = {
    *(
        (method, path)
        for method in ("GET", "HEAD")
        for path in ("/live", "/ready", "/favicon.ico", "/api/form/bootstrap")
    ),
    *((method, "/metrics") for method in ("GET", "HEAD")),  # for programs on the device itself
    ("POST", "/api/form/enrol"),
}


def test_every_route_but_the_named_ones_asks_who_is_there(door: Door) -> None:
    """Also the one that somebody adds next year."""
    routes = every_route(door)
    assert len(routes) > 15
    stranger = door.phone()
    for method, path in routes:
        if (method, path) in OPEN:
            continue
        answer = stranger.request(method, path, content=b"{}" if method in ("PUT", "POST") else None)
        assert answer.status_code == 401, f"{method} {path} answers a stranger: {answer.status_code}"
        assert method == "HEAD" or path == "/api/work-orders" or code_of(answer) == "signin"


def test_a_technician_does_not_see_the_operators_pages(server_door: Door) -> None:
    technician, operator = server_door.signed_in("Ada"), server_door.signed_in("Olga", "operator")
    theirs = "form|annotations|attachments|work-orders|work-list"
    form_api = re.compile(rf"/api/({theirs})(/|$)|/live|/ready|/favicon|/form|/static")
    paths = [path for method, path in every_route(server_door) if method == "GET" and not form_api.match(path)]
    assert "/api/events" in paths
    assert "/" in paths
    for path in paths:
        answer = technician.get(path)
        assert (answer.status_code, code_of(answer)) == (403, "not_yours"), path
        assert operator.get(path).status_code not in (401, 403), path


def test_nothing_is_changed_by_another_sites_page_or_a_plain_form(door: Door) -> None:
    """CSRF."""
    phone = door.signed_in("Ada")
    said = mine(phone)
    for headers, code in (
        ({"X-PDM-Form": ""}, "cross_site"),
        ({"Sec-Fetch-Site": "cross-site"}, "cross_site"),
        ({"Sec-Fetch-Site": "same-site"}, "cross_site"),
        ({"Content-Type": "text/plain"}, "json_only"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "json_only"),
    ):
        answer = say(phone, said, **headers)
        assert answer.status_code in (403, 415), headers
        assert code_of(answer) == code
        assert phone.post("/api/form/sign-out", json={}, headers=headers).status_code in (403, 415)
    assert say(phone, said).status_code == 201, "and our own page may"
    preflight = phone.options(f"/api/annotations/{said.annotation_id}", headers={"Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in preflight.headers


def test_no_page_is_framed_and_none_runs_what_strangers_wrote(door: Door) -> None:
    phone = door.signed_in("Ada", "operator")
    hostile = "<script>alert(1)</script>=cmd|' /C calc'!A0"
    event = an_alarm(fault_class=hostile[:40])
    door.host.raise_alarm(event)
    assert say(phone, mine(phone, event_id=event.event_id, note=hostile, part_replaced=hostile)).status_code == 201
    for path in ("/", "/form/", "/form/m/pump1", "/api/form/bootstrap", "/api/form/history", "/api/form/me"):
        answer = phone.get(path)
        assert answer.status_code == 200, path
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], path
        assert "unsafe-inline" not in answer.headers["Content-Security-Policy"], path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        if answer.headers["Content-Type"].startswith("text/html"):
            assert "<script>alert" not in answer.text, path
        else:
            assert answer.headers["Content-Type"].split(";")[0] == "application/json"


def test_a_stranger_can_not_come_by_a_name_that_points_here(tmp_path: Path) -> None:
    """DNS rebinding, where nobody signs in."""
    host = AgentHost(tmp_path)
    try:
        assert host.http.get("/api/status", headers={"Host": "evil.example"}).status_code == 403
        assert host.http.get("/api/status", headers={"Host": "localhost:8078"}).status_code == 200
    finally:
        host.close()


def test_work_orders_bring_their_own_key(server_door: Door) -> None:
    order = [{"work_order_id": "WO-1", "state": "opened", "asset": "pump1", "at": now().isoformat()}]
    program = httpx.Client(base_url=server_door.url)
    assert program.post("/api/work-orders", json=order).status_code == 401
    assert program.post("/api/work-orders", json=order, headers={"Authorization": "Bearer x"}).status_code == 401
    headers = {"Authorization": "Bearer a-long-token"}
    assert program.post("/api/work-orders", json=order, headers=headers).status_code == 202
    program.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "gw7.plant.example"])
def test_nobody_listens_on_the_network_without_sign_in(host: str, tmp_path: Path) -> None:
    edge, server = tmp_path / "agent.toml", tmp_path / "server.toml"
    edge.write_text(AGENT.replace("port = -1", f'port = 8078\nhost = "{host}"'))
    server.write_text(f'database = "x"\n[keys]\nserver = "k.pem"\n[web]\nhost = "{host}"\n')
    with pytest.raises(EdgeBadConfig, match="nobody has to sign in"):
        edge_config.load(edge)
    with pytest.raises(BadConfig, match="fleet-server enrol"):
        server_config.load(server)
    edge.write_text(edge.read_text().replace("[form]", '[form]\nsign_in = "enrolled"'))
    server.write_text(server.read_text() + '[form]\nsign_in = "enrolled"\n')
    assert edge_config.load(edge).form.sign_in == server_config.load(server).form.sign_in == "enrolled"


def test_the_commands_invite_list_and_put_out(
    agent_door: Door, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(tmp_path / "agent.toml")]
    assert edge_cli.main(["enrol", "Ada", "--url", "https://gw7.plant.example", "--json", *config]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["link"] == f"https://gw7.plant.example/form/enrol#{made['code']}"
    assert edge_cli.main(["enrol", "Ada", *config]) == 0
    assert "within 15 minutes" in capsys.readouterr().out
    phone = agent_door.phone()
    assert phone.post("/api/form/enrol", json={"code": made["code"]}).status_code == 200
    assert edge_cli.main(["people", "--json", *config]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"person": made["person"], "name": "Ada", "role": "technician", "sessions": 1}
    ]
    assert edge_cli.main(["people", "--revoke", made["person"], *config]) == 0
    assert code_of(phone.get("/api/form/me")) == "signin"


def test_the_servers_commands_invite_list_and_put_out(server_door: Door, tmp_path: Path) -> None:
    assert isinstance(server_door.host, ServerHost)
    server = ServerProcess(tmp_path / "server", server_door.host.shop.dsn, 1)
    assert server.command("enrol", "Ada").stderr.endswith('set sign_in = "enrolled" in [form] first\n')
    server.config.write_text(server.config.read_text() + '[form]\nsign_in = "enrolled"\n')
    made = json.loads(server.command("enrol", "Olga", "--role", "operator", "--json").stdout)
    phone = server_door.phone()
    assert phone.post("/api/form/enrol", json={"code": made["code"]}).json()["role"] == "operator"
    assert phone.get("/api/events").status_code == 200
    assert made["person"] in server.command("people").stdout
    assert json.loads(server.command("people", "--revoke", made["person"], "--json").stdout)["sessions_ended"] == 1
    assert code_of(phone.get("/api/events")) == "signin"
    assert value(server_door.host.shop.dsn, "SELECT count(*) FROM form_session") == 0
