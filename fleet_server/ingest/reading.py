"""Bytes to a message with an identity, or to a reason why not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from fleet_server.store.ledger import Key
from fleet_server.store.quarantine import Aside
from models.contract import topics
from models.contract.codec import Unreadable, load, load_body, unpacked, wrap
from models.contract.messages import Body, Envelope, Pack

PACK: Final = b'{"v":1,"kind":"pack"'  # as the codec writes it


@dataclass(frozen=True)
class Read:
    """One message. Without a key nobody knows whose it is; without a body it is put aside for the reason given."""

    topic: str
    payload: bytes
    key: Key | None = None
    body: Body | None = None
    reason: str = ""

    def aside(self, reason: str) -> Aside:
        """This message as a row of the quarantine."""
        topic = topics.parse(self.topic)
        return Aside(
            topic=_storable(self.topic),
            payload=self.payload,
            reason=_storable(reason)[:1000],
            device=self.key.device if self.key else topic and topic.device,
            epoch=self.key.epoch if self.key else None,
            stream=self.key.stream if self.key else topic and topic.name,
            seq=self.key.seq if self.key else None,
        )


def read_all(topic: str, payload: bytes) -> list[Read]:
    """Every record of one message, compressed or not. Never raises."""
    try:
        plain = unpacked(payload)
    except Unreadable as exc:
        return [Read(topic, payload, reason=str(exc))]
    if plain is payload or not plain.startswith(PACK):
        return [read(topic, plain)]
    try:
        pack = load(Pack, plain)
    except Unreadable as exc:
        return [Read(topic, plain, reason=str(exc))]
    return [
        read(topic, wrap(pack.device, pack.epoch, pack.stream, seq, json.dumps(body).encode()))
        for seq, body in pack.records
    ]


def read(topic: str, payload: bytes) -> Read:
    """Parse one message, strictly. Never raises.

    What one device says in another's name has no identity: it must not use up a number of that other device's sequence.
    """
    where = topics.parse(topic)
    if where is None or where.direction != "up":
        return Read(topic, payload, reason="not a topic of a device")
    try:
        envelope = load(Envelope, payload)
    except Unreadable as exc:
        return Read(topic, payload, reason=str(exc))
    if envelope.device != where.device:
        return Read(topic, payload, reason=f"says it is from {envelope.device}, on the topic of {where.device}")
    if envelope.stream.value != where.name:
        return Read(
            topic, payload, reason=f"says it is for stream {envelope.stream.value}, on the topic of {where.name}"
        )
    key = Key(envelope.device, envelope.epoch, envelope.stream.value, envelope.seq)
    try:
        return Read(topic, payload, key, load_body(envelope))
    except Unreadable as exc:
        return Read(topic, payload, key, reason=str(exc))


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
