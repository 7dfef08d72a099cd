"""Samples from a plant's broker, as JSON: {"t": epoch seconds of the first, "rate_hz": ..., "signals": {...}}."""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Iterator

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.config import Broker, MqttSource
from edge_agent.errors import SourceFailed
from edge_agent.sensors import Block
from models.contract.codec import Unreadable, parse_json

log = logging.getLogger(__name__)
QUEUE = 64  # messages between the network and the detector; the oldest give way, and are counted
MAX_BLOCK = 2**18  # samples


class MqttJson:
    """One topic of one broker."""

    ends = False

    def __init__(self, settings: MqttSource, asset: str, fleet: Broker | None) -> None:
        host = settings.host or (fleet.host if fleet else None)
        port = settings.port or (fleet.port if fleet else None)
        if host is None or port is None:
            raise SourceFailed(f"asset {asset}: the mqtt source needs host and port where there is no [broker]")
        self._settings = settings
        self.signals, self.rate_hz = settings.signals, settings.rate_hz
        self.dropped = 0
        self.unreadable = 0
        self._queue: queue.Queue[bytes] = queue.Queue(QUEUE)
        self._stop = threading.Event()
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"source-{asset}-{random.getrandbits(32):08x}",
            protocol=mqtt.MQTTv5,
        )
        self._client.on_connect = lambda client, *_: client.subscribe(settings.topic, 0)
        self._client.on_message = lambda _client, _data, message: self._take(bytes(message.payload))
        self._client.reconnect_delay_set(min_delay=1, max_delay=5)
        if fleet is not None and settings.host is None:  # the fleet's broker asks who we are
            if fleet.username:
                self._client.username_pw_set(fleet.username, fleet.password())
            if context := fleet.tls():
                self._client.tls_set_context(context)
        self._client.connect_async(host, port)

    def blocks(self) -> Iterator[Block | None]:
        self._client.loop_start()
        try:
            while not self._stop.is_set():
                try:
                    payload = self._queue.get(timeout=0.2)
                except queue.Empty:
                    yield None
                    continue
                try:
                    yield self._block(payload)
                except (Unreadable, KeyError, TypeError, ValueError, OverflowError) as exc:
                    self.unreadable += 1
                    if self.unreadable == 1:  # the others are counted: a flood of them is no log
                        facts = {"topic": self._settings.topic, "reason": f"{type(exc).__name__}: {exc}"[:200]}
                        log.warning("samples not readable", extra=facts)
                    yield None
        finally:
            self._client.disconnect()
            self._client.loop_stop()

    def stop(self) -> None:
        self._stop.set()

    def _take(self, payload: bytes) -> None:
        """On the network's thread: only queues, for an exception here would end that thread."""
        while True:
            try:
                self._queue.put_nowait(payload)
                return
            except queue.Full:
                try:
                    self._queue.get_nowait()
                    self.dropped += 1
                except queue.Empty:
                    continue

    def _block(self, payload: bytes) -> Block:
        message = parse_json(payload)
        columns = [message["signals"][s.name] for s in self.signals]
        n = len(columns[0])
        if not 0 < n <= MAX_BLOCK or any(len(c) != n for c in columns):
            raise ValueError("the signals must have the same number of samples, at least one")
        start, rate = float(message["t"]), float(message.get("rate_hz", self.rate_hz))
        values = np.array([[np.nan if v is None else v for v in c] for c in columns], np.float64)
        with np.errstate(over="ignore"):
            return Block(start + np.arange(n) / rate, values.astype(np.float32))
