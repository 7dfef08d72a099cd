"""The server's part in the promise, and nothing else of it: stores each record once, then sends a signed receipt."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fleet_server.ingest.reading import PACK
from models.contract import topics
from models.contract.base import SeqRange, Stream
from models.contract.codec import dump, load, unpacked, wrap
from models.contract.health import StreamCount
from models.contract.messages import Envelope, Fetch, Pack, Session
from tests.builders import Fleet


class Receiver:
    """One device's records in a SQLite file. A context manager.

    Attributes:
        receipts_for: streams that get receipts; the others are stored all the same.
        stores: False: what comes is lost behind the broker's acknowledgement.
        copies: how often each record came.
        conflicts: numbers under which two different records came: the device has forgotten that it had used them.
    """

    def __init__(self, port: int, path: Path, fleet: Fleet) -> None:
        self.fleet, self.stores = fleet, True
        self.receipts_for = set(Stream)
        self.takes_packs, self.packs = False, 0
        self.copies: dict[tuple[str, str, int], int] = {}
        self.conflicts: list[tuple[str, str, int]] = []
        self.fetches: list[Fetch] = []
        self.sessions: list[Session] = []
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS record (epoch TEXT, stream TEXT, seq INTEGER, body BLOB,"
            " PRIMARY KEY (epoch, stream, seq))"
        )
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"receiver-{fleet.device}", protocol=mqtt.MQTTv5
        )
        self._client.reconnect_delay_set(min_delay=0.1, max_delay=0.1)  # type: ignore[arg-type] - seconds, of any kind
        self._client.on_connect = lambda client, *_: client.subscribe(f"{topics.ROOT}/{fleet.device}/up/+", 1)
        self._client.on_message = lambda _c, _u, message: self._take(message.topic, bytes(message.payload))
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600
        self._client.connect_async("127.0.0.1", port, clean_start=False, properties=session)

    def __enter__(self) -> Self:
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._db.close()

    def publish(self, kind: topics.Down, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topics.down(self.fleet.device, kind), payload, 1, retain).wait_for_publish(5)

    def numbers(self, stream: Stream, epoch: str | None = None) -> list[int]:
        """What is stored of a stream, of one epoch or of all."""
        rows = self._query("SELECT seq, epoch FROM record WHERE stream = ? ORDER BY seq", stream)
        return [seq for seq, found in rows if epoch in (None, found)]

    def epochs(self) -> list[str]:
        """In the order in which they came."""
        return [epoch for (epoch,) in self._query("SELECT epoch FROM record GROUP BY epoch ORDER BY min(rowid)")]

    def bodies(self, stream: Stream) -> list[bytes]:
        return [body for (body,) in self._query("SELECT body FROM record WHERE stream = ? ORDER BY seq", stream)]

    def missing(self, counts: dict[Stream, StreamCount]) -> dict[Stream, set[int]]:
        """Numbers given out that are neither stored nor waiting nor evicted."""
        lost = {}
        for stream, count in counts.items():
            every = set(range(1, count.produced + 1))
            held = _numbers(count.waiting) | _numbers(r for ranges in count.evicted.values() for r in ranges)
            if rest := every - held - {*self.numbers(stream)}:
                lost[stream] = rest
        return lost

    def _query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def _take(self, topic: str, payload: bytes) -> None:
        if topic == topics.fetch(self.fleet.device):
            self.fetches.append(load(Fetch, payload))
            return
        if topic == topics.session(self.fleet.device):
            self.sessions.append(load(Session, payload))
            return
        payload = unpacked(payload)
        if payload.startswith(PACK):
            self.packs += 1
            each = load(Pack, payload)
            for seq, body in each.records:
                text = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
                self._take(topic, wrap(each.device, each.epoch, each.stream, seq, text))
            return
        record = load(Envelope, payload)
        place = (record.epoch, record.stream.value, record.seq)
        self.copies[place] = self.copies.get(place, 0) + 1
        if not self.stores:
            return
        body = payload[payload.index(b'"body":') + 7 : -1]
        with self._lock:
            if not self._db.execute("INSERT OR IGNORE INTO record VALUES (?, ?, ?, ?)", (*place, body)).rowcount:
                known = self._db.execute("SELECT body FROM record WHERE (epoch, stream, seq) = (?, ?, ?)", place)
                if known.fetchone()[0] != body:
                    self.conflicts.append(place)
        if record.stream in self.receipts_for:
            note = self.fleet.receipt(
                record.epoch, record.stream, ranges=[(record.seq, record.seq)], packs=self.takes_packs
            )
            self._client.publish(topics.down(self.fleet.device, "receipt"), dump(note), 1)


def _numbers(ranges: Iterable[SeqRange]) -> set[int]:
    return {n for first, last in ranges for n in range(first, last + 1)}
