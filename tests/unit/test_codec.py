"""What comes over the wire is a message, or it is refused with a reason: nothing else, whatever the bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_server.ingest.reading import read
from models.contract import topics
from models.contract.base import Stream
from models.contract.codec import MAX_PAYLOAD, Unreadable, dump, load, parse_json, wrap
from models.contract.messages import Envelope
from tests import builders

DEVICE, EPOCH = builders.DEVICE, "0" * 32

MALFORMED = {
    "empty": b"",
    "random": bytes(range(256)),
    "half": b'{"v":1,"device":"plant1.gw1","epo',
    "not UTF-8": b'{"v":1,"device":"\xff\xfe"}',
    "BOM": b"\xef\xbb\xbf{}",
    "lone surrogate": b'{"v":1,"device":"plant1.gw1\\ud800"}',
    "nested 100k deep": b"[" * 100_000 + b"]" * 100_000,
    "an integer of 5000 digits": b'{"v":' + b"1" * 5000 + b"}",
    "duplicate keys": b'{"v":1,"v":1}',
    "NaN": b'{"v":NaN}',
    "Infinity": b'{"v":-Infinity}',
    "a number that overflows": b'{"v":1e999}',
    "not an object": b"[1,2]",
    "null": b"null",
    "too large": b'"' + b"x" * MAX_PAYLOAD + b'"',
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED)
def test_malformed_bytes_are_refused_with_a_short_reason_in_printable_characters(payload: bytes) -> None:
    with pytest.raises(Unreadable) as refused:
        load(Envelope, payload)
    assert 0 < len(str(refused.value)) <= 500
    assert str(refused.value).isprintable()


@given(st.binary(max_size=300))
def test_no_bytes_at_all_get_through_or_raise_anything_else(payload: bytes) -> None:
    for topic in (topics.up(DEVICE, Stream.ALARM), "pdm/v1/#/up/alarm", ""):
        found = read(topic, payload)
        assert found.body is not None or found.reason


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_in_an_envelope_is_read_or_refused(body: object) -> None:
    payload = json.dumps({"v": 1, "device": DEVICE, "epoch": EPOCH, "stream": "alarm", "seq": 1, "body": body}).encode()
    found = read(topics.up(DEVICE, Stream.ALARM), payload)
    assert found.body is None
    assert found.reason


def test_a_wrapped_body_is_the_envelope_it_would_have_been() -> None:
    event = builders.an_event()
    payload = wrap(DEVICE, EPOCH, Stream.ALARM, 7, dump(event))
    found = read(topics.up(DEVICE, Stream.ALARM), payload)
    assert found.key == (DEVICE, EPOCH, "alarm", 7)
    assert found.body == event


def test_a_message_on_another_devices_topic_has_no_identity() -> None:
    payload = wrap(DEVICE, EPOCH, Stream.ALARM, 7, dump(builders.an_event()))
    found = read(topics.up("plant1.gw2", Stream.ALARM), payload)
    assert found.key is None
    assert found.reason == "says it is from plant1.gw1, on the topic of plant1.gw2"


def test_a_message_on_another_streams_topic_has_no_identity() -> None:
    payload = wrap(DEVICE, EPOCH, Stream.ALARM, 7, dump(builders.an_event()))
    assert read(topics.up(DEVICE, Stream.TELEMETRY), payload).key is None


def test_an_unreadable_body_keeps_the_identity_of_its_envelope() -> None:
    found = read(topics.up(DEVICE, Stream.ALARM), wrap(DEVICE, EPOCH, Stream.ALARM, 7, b'{"kind":"of next year"}'))
    assert found.key == (DEVICE, EPOCH, "alarm", 7)
    assert found.body is None
    assert "kind" in found.reason


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_never_reach_a_score(value: str) -> None:
    payload = dump(builders.an_event()).replace(b'"score":0.9', f'"score":{value}'.encode())
    assert read(topics.up(DEVICE, Stream.ALARM), wrap(DEVICE, EPOCH, Stream.ALARM, 1, payload)).body is None


@pytest.mark.parametrize("device", ["", "+", "#", "a/b", "..", "../x", "A", "x" * 42, "\u202egw", "plant 1", "gw\n"])
def test_odd_device_ids_are_refused_everywhere(device: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        topics.up(device, Stream.ALARM)
    assert topics.parse(f"pdm/v1/{device}/up/alarm") is None
    payload = json.dumps({"v": 1, "device": device, "epoch": EPOCH, "stream": "alarm", "seq": 1, "body": {}}).encode()
    with pytest.raises(Unreadable):
        load(Envelope, payload)


def test_json_as_the_standard_has_it_is_read() -> None:
    assert parse_json(b'{"a":[1,2.5,-0.0,true,null,"\\u00e4"]}') == {"a": [1, 2.5, -0.0, True, None, "ä"]}
