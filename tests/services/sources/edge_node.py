"""A Sparkplug B edge node with a device, that publishes real payloads. Its encoder is written from the wire format by
hand (protobuf, "Encoding"), so that reader and writer share no mistake."""

from __future__ import annotations

import struct
import time
from types import TracebackType
from typing import Any, Final, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.support import eventually

INT32, INT64, DOUBLE, BOOLEAN = 3, 4, 10, 11
_VARINT, _FIXED64, _LENGTH = 0, 1, 2
ALIASES: Final = {"": {"Load": 1}, "motor": {"Speed": 7, "Temperature": 8}}


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def number(field: int, n: int) -> bytes:
    return varint(field << 3 | _VARINT) + varint(n)


def text(field: int, raw: bytes) -> bytes:
    return varint(field << 3 | _LENGTH) + varint(len(raw)) + raw


def metric(
    value: float | bool | None,
    *,
    name: str | None = None,
    alias: int | None = None,
    datatype: int = DOUBLE,
    stamp: float | None = None,
    historical: bool = False,
    quality: int | None = None,
) -> bytes:
    out = b""
    if name is not None:
        out += text(1, name.encode())
    if alias is not None:
        out += number(2, alias)
    if stamp is not None:
        out += number(3, round(stamp * 1000))
    out += number(4, datatype)
    if historical:
        out += number(5, 1)
    if value is None:
        out += number(7, 1)
    if quality is not None:  # PropertySet: keys, values; PropertyValue: type, int_value
        out += text(9, text(1, b"Quality") + text(2, number(1, INT32) + number(3, quality)))
    if value is None:
        return out
    if datatype == DOUBLE:
        return out + varint(13 << 3 | _FIXED64) + struct.pack("<d", value)
    if datatype == BOOLEAN:
        return out + number(14, int(value))
    if datatype == INT64:
        return out + number(11, int(value) & (1 << 64) - 1)
    return out + number(10, int(value) & (1 << 32) - 1)


def payload(metrics: list[bytes], seq: int | None, stamp: float | None = None) -> bytes:
    out = number(1, round((time.time() if stamp is None else stamp) * 1000))
    out += b"".join(text(2, m) for m in metrics)
    return out if seq is None else out + number(3, seq)


class EdgeNode:
    """A context manager: born when it enters, dead when it leaves. Answers rebirth requests.

    Attributes:
        values: by device ("" is the node) and metric.
        births: how many NBIRTH it has sent.
    """

    def __init__(self, port: int, group: str = "plant", name: str = "gw") -> None:
        self.port, self.group, self.name = port, group, name
        self.values = {"": {"Load": 0.5}, "motor": {"Speed": 1450.0, "Temperature": 40.0}}
        self.births = self.bd_seq = 0
        self.seq = 0
        self.lose = 0  # so many of the next messages get a number and are not sent

    def __enter__(self) -> Self:
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, f"{self.group}-{self.name}", protocol=mqtt.MQTTv5)
        self._client.will_set(self._topic("NDEATH"), self.death(self.bd_seq), qos=1)
        self._client.on_message = lambda *_: self.born()
        self._client.connect("127.0.0.1", self.port)
        self._client.loop_start()
        eventually(self._client.is_connected)
        self._client.subscribe(self._topic("NCMD"), 1)
        self.born()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._client.is_connected():
            self.publish("NDEATH", self.death(self.bd_seq))
        self._client.disconnect()
        self._client.loop_stop()

    def death(self, bd_seq: int) -> bytes:
        return payload([metric(bd_seq, name="bdSeq", datatype=INT64)], None)

    def born(self) -> None:
        self.births += 1
        self.seq = 0
        own = [metric(self.bd_seq, name="bdSeq", datatype=INT64)]
        self.publish("NBIRTH", payload(own + self._all(""), 0))
        self.send("DBIRTH", self._all("motor"), "motor")

    def change(self, device: str, name: str, value: float, **more: Any) -> None:
        """By alias, as most nodes do after the birth."""
        self.values[device][name] = value
        more = {"stamp": time.time()} | more
        self.send("DDATA" if device else "NDATA", [metric(value, alias=ALIASES[device][name], **more)], device)

    def send(self, kind: str, metrics: list[bytes], device: str = "") -> None:
        self.seq = (self.seq + 1) % 256
        if self.lose:
            self.lose -= 1
        else:
            self.publish(kind, payload(metrics, self.seq), device)

    def publish(self, kind: str, raw: bytes, device: str = "") -> None:
        self._client.publish(self._topic(kind) + (f"/{device}" if device else ""), raw, qos=0 if "DATA" in kind else 1)

    def _all(self, device: str) -> list[bytes]:
        now = time.time()
        return [
            metric(value, name=name, alias=ALIASES[device][name], stamp=now - 3600)
            for name, value in self.values[device].items()
        ]

    def _topic(self, kind: str) -> str:
        return f"spBv1.0/{self.group}/{kind}/{self.name}"
