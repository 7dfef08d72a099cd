"""Alarms told by the device itself: to a webhook and to a plant's broker, both real, both away now and then."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import ValidationError

from edge_agent.config import Notify
from edge_agent.notify import QUEUE, Notifier
from edge_agent.settings import Broker
from models.contract.events import AlarmEvent, Phase
from models.contract.labels import Severity
from simulators.embedded import broker as embedded
from tests.builders import an_event
from tests.support import eventually


class Hook:
    """Takes what is posted, or answers with `status`."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, Any], str | None, bytes]] = []
        self.status, self.tries = 200, 0
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.tries += 1
                if hook.status == 200:
                    hook.heard.append((json.loads(body), self.headers["X-PDM-Signature"], body))
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/alarms"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def texts(self) -> list[tuple[str, str, str]]:
        return [(said["what"], said["asset"], said["severity"]) for said, *_ in self.heard]


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


@contextmanager
def told(*places: dict[str, Any], counters: Counter[str] | None = None) -> Iterator[Notifier]:
    settings = [Notify.model_validate({"per_hour": 3_600_000} | place) for place in places]
    counted = Counter[str]() if counters is None else counters
    notifier = Notifier("plant1.gw1", settings, None, counted, lambda body: f"text of {type(body).__name__}")
    threads = [threading.Thread(target=place.loop, daemon=True) for place in notifier.places]
    for thread in threads:
        thread.start()
    try:
        yield notifier
    finally:
        notifier.stop()
        for thread in threads:
            thread.join(5)


def an_alarm(of: AlarmEvent | None = None, **changes: Any) -> AlarmEvent:
    return (of or an_event(severity=Severity.MAJOR)).model_copy(update=changes)


def test_one_fault_is_told_once_again_when_it_is_worse_and_at_its_end(hook: Hook) -> None:
    first = an_alarm()
    worse = an_alarm(first, phase=Phase.UPDATED, severity=Severity.STOP)
    with told({"webhook": hook.url, "cleared": True}) as notifier:
        notifier.tell([first])
        notifier.tell([an_alarm(first, phase=Phase.UPDATED, score=0.99)])
        notifier.tell([an_alarm(first, repeats=2)])  # it came back within its hold time
        notifier.tell([worse, worse])
        notifier.tell([an_alarm(muted=True)])
        notifier.tell([an_alarm(first, phase=Phase.CLEARED)])
        eventually(lambda: len(hook.heard) >= 3)
    asset = first.asset
    assert hook.texts() == [("alarm", asset, "major"), ("alarm", asset, "stop"), ("cleared", asset, "major")]
    assert hook.heard[0][0]["text"] == "text of AlarmEvent"
    assert hook.heard[0][0]["device"] == "plant1.gw1"


def test_only_what_is_bad_enough_for_a_place_is_told_there_signed(hook: Hook, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    place = {"webhook": hook.url, "min_severity": "major", "secret_file": tmp_path / "secret"}
    with told(place) as notifier:
        notifier.tell([an_alarm(severity=Severity.MINOR), an_alarm()])
        eventually(lambda: hook.heard)
    ((said, signature, body),) = hook.heard
    assert said["severity"] == "major"
    assert signature == "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()


def test_a_place_that_does_not_answer_is_tried_again_and_holds_no_other_up(hook: Hook) -> None:
    counters: Counter[str] = Counter()
    other = Hook()
    hook.status = 503
    with told({"webhook": hook.url}, {"webhook": other.url}, counters=counters) as notifier:
        notifier.tell([an_alarm(), an_alarm()])
        eventually(lambda: len(other.heard) == 2 and hook.tries >= 1)
        for _ in range(QUEUE + 5):
            notifier.tell([an_alarm()])
        hook.status = 200
        eventually(lambda: hook.heard, timeout=20)
    other.close()
    assert counters["notices_tried_again"] >= 1
    assert counters["notices_lost"] >= 4  # the queue of the one that was away; the oldest gave way, and were counted


def test_a_plants_broker_hears_of_it_also_after_it_was_away(tmp_path: Path) -> None:
    with embedded.embedded_broker(tmp_path / "broker") as broker:
        port = broker.port
        heard: list[dict[str, Any]] = []
        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.on_connect = lambda c, *_: c.subscribe("plant/alarms", 1)
        ready = threading.Event()
        client.on_subscribe = lambda *_: ready.set()
        client.on_message = lambda _c, _u, message: heard.append(json.loads(message.payload))
        client.reconnect_delay_set(1, 1)
        client.connect("127.0.0.1", port)
        client.loop_start()
        assert ready.wait(10)
        place = {"topic": "plant/alarms", "broker": Broker(port=port)}
        try:
            with told(place) as notifier:
                notifier.tell([an_alarm(asset="pump1")])
                eventually(lambda: [each["asset"] for each in heard] == ["pump1"])
                ready.clear()
                broker.stop()
                notifier.tell([an_alarm(asset="pump2")])
                broker.start()
                assert ready.wait(20)
                notifier.tell([an_alarm(asset="pump3")])
                eventually(lambda: {"pump1", "pump3"} <= {each["asset"] for each in heard}, timeout=30)
        finally:
            client.disconnect()
            client.loop_stop()


@pytest.mark.parametrize(
    "place",
    [
        {},
        {"webhook": "http://h/x", "topic": "t"},
        {"topic": "a/#"},
        {"webhook": "ftp://h/x"},
        {"topic": "t", "secret_file": "s"},
        {"webhook": "http://h/x", "min_severity": "terrible"},
    ],
)
def test_a_place_that_can_not_be_is_refused(place: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Notify.model_validate(place)
