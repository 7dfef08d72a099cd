"""The server's side of MQTT for tests: its ingest parts in this process, or the whole server as a process; and a device
that keeps sending until it has a receipt, as an agent does."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fleet_server.config import Broker as BrokerSettings
from fleet_server.ingest.mailbox import Mailbox
from fleet_server.ingest.subscriber import Subscriber
from fleet_server.ingest.worker import FetchDesk, Worker
from fleet_server.store.migrate import migrate
from fleet_server.store.pool import Pool, connect, open_pool
from models.bundle.signing import PublicKeys, SigningKey
from models.contract import topics
from models.contract.base import Stream
from models.contract.codec import dump, load, wrap
from models.contract.ids import new_epoch
from models.contract.messages import STREAM_OF, Body, Receipt, ReceiptNote
from simulators.embedded.broker import Broker
from simulators.embedded.processes import http_ready
from tests.faults.gateway import program
from tests.services.conftest import Client
from tests.support import eventually


def query(dsn: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with connect(dsn) as conn:
        return conn.execute(statement, values).fetchall()


def value(dsn: str, statement: str, *values: Any) -> Any:
    return query(dsn, statement, *values)[0][0]


class Station:
    """Pool, MQTT client and worker; also what was asked for by way of `fetch`."""

    def __init__(self, dsn: str, broker: Broker, key: SigningKey | None = None) -> None:
        self.dsn, self.key = dsn, key or SigningKey.generate()
        with connect(dsn) as conn:
            migrate(conn)
        self.pool: Pool = open_pool(dsn)
        self.mailbox = Mailbox()
        self.subscriber = Subscriber(BrokerSettings(port=broker.port), self.mailbox)
        self.fetched: list[tuple[str, str, tuple[int, ...]]] = []
        self.fetches = FetchDesk(lambda device, sha256, indexes: self.fetched.append((device, sha256, tuple(indexes))))
        self.worker = Worker(self.pool, self.mailbox, self.subscriber, self.key, self.fetches)

    def start(self) -> Station:
        for part in (self.subscriber, self.fetches, self.worker):
            part.start()
        eventually(lambda: self.subscriber.connected, message="station connected")
        return self

    def stop(self) -> None:
        for part in (self.worker, self.fetches, self.subscriber):
            part.stop()
        self.pool.close()


class Device:
    """Keeps what it made until a receipt names it."""

    def __init__(self, name: str, client: Client, server_key: SigningKey) -> None:
        self.name, self.client, self.epoch = name, client, new_epoch()
        self._keys = PublicKeys([server_key.public])
        self._made: dict[tuple[Stream, int], bytes] = {}
        self._last: dict[Stream, int] = defaultdict(int)
        self.receipts: list[Receipt] = []
        self._read = 0
        self.client.subscribe(topics.all_down(name))

    def make(self, body: Body, kind: Stream | None = None) -> int:
        """Its number; not sent yet."""
        stream = kind or STREAM_OF[type(body)]
        return self.make_raw(stream, dump(body))

    def make_raw(self, stream: Stream, body: bytes) -> int:
        self._last[stream] += 1
        seq = self._last[stream]
        self._made[stream, seq] = wrap(self.name, self.epoch, stream, seq, body)
        return seq

    def send(self, body: Body) -> int:
        seq = self.make(body)
        self.send_again(lambda key: key == (STREAM_OF[type(body)], seq))
        return seq

    def send_again(self, which: Callable[[tuple[Stream, int]], bool] = lambda _: True) -> None:
        """Everything that is not confirmed yet."""
        self.read_receipts()
        for (stream, seq), payload in list(self._made.items()):
            if which((stream, seq)):
                self.client.publish(topics.up(self.name, stream), payload)

    def send_shuffled(self, times: int, seed: int) -> None:
        """Everything, several times each, in any order."""
        plan = [item for item in self._made.items() for _ in range(times)]
        random.Random(seed).shuffle(plan)
        for (stream, _), payload in plan:
            self.client.publish(topics.up(self.name, stream), payload)

    def read_receipts(self) -> list[Receipt]:
        """Forget what is confirmed; the new receipts, each checked against the server's key."""
        new = []
        messages = self.client.received[self._read :]
        self._read += len(messages)
        for message in messages:
            if message.topic == topics.down(self.name, "receipt"):
                receipt = self._keys.open(Receipt, load(ReceiptNote, bytes(message.payload)).receipt)
                assert (receipt.device, receipt.epoch) == (self.name, self.epoch)
                new.append(receipt)
                for key in list(self._made):
                    if key[0] == receipt.stream and confirms(receipt, key[1]):
                        del self._made[key]
        self.receipts += new
        return new

    @property
    def unconfirmed(self) -> list[tuple[Stream, int]]:
        self.read_receipts()
        return sorted(self._made)

    def deliver(self, timeout: float = 30) -> None:
        """Send until everything is confirmed."""

        def done() -> bool:
            if self.unconfirmed:
                self.send_again()
            return not self.unconfirmed

        self.send_again()
        with contextlib.suppress(AssertionError):
            eventually(lambda: not self.unconfirmed, timeout=2)
        eventually(done, timeout=timeout, message=f"receipts for {self.unconfirmed}")


def confirms(receipt: Receipt, seq: int) -> bool:
    return seq <= receipt.up_to or any(low <= seq <= high for low, high in receipt.ranges)


class ServerProcess:
    """`fleet-server serve`, as an operator runs it."""

    def __init__(self, home: Path, dsn: str, broker_port: int, **settings: str) -> None:
        self.home, self.dsn = home, dsn
        home.mkdir(parents=True, exist_ok=True)
        self.key = SigningKey.generate()
        self.key.write(home / "server.pem")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.config = home / "server.toml"
        self.config.write_text(
            f'database = "{dsn}"\n[broker]\nport = {broker_port}\n[keys]\nserver = "server.pem"\n'
            f'[web]\nport = {self.port}\n[retrain]\nmode = "off"\n'
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, crash_at: str = "", wait: bool = True) -> None:
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*program("fleet_server"), "serve", "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env={**os.environ, "PDM_CRASH_AT": crash_at},
            )
        if wait:
            eventually(self._is_ready, timeout=60, message=f"server ready: {self.log()[-2000:]}")

    def _is_ready(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.log()[-2000:]
        return http_ready(self.url + "/ready")

    def log(self) -> str:
        path = self.home / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fleet_server", *words, "--config", str(self.config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


def now() -> datetime:
    return datetime.now(UTC)
