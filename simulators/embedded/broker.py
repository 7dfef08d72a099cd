"""An MQTT 5 broker on 127.0.0.1: mosquitto where it is installed, else the embedded one. Both are real brokers."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Literal, Self

from models.contract.codec import MAX_PAYLOAD
from simulators.embedded.processes import free_port, tcp_ready
from simulators.embedded.watchdog import Guarded

MAX_PACKET: Final = 400_000  # a payload, its topic and properties, and room to see an oversized payload refused
assert MAX_PACKET > MAX_PAYLOAD

Kind = Literal["auto", "mosquitto", "iotcore"]


class Broker(ABC):
    """A broker in a folder, on one port for its whole life; it ends when its owner does, even by kill -9."""

    name: ClassVar[str] = "broker"
    kind: ClassVar[str]
    persistent: ClassVar[bool]  # what it queues and retains outlives `stop`; after `kill` only what it had saved
    host: ClassVar[str] = "127.0.0.1"

    def __init__(self, home: Path, port: int | None = None) -> None:
        self.home = home.resolve()
        self.port = port or 0  # 0: found at the first start
        self._broker: Guarded | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self, timeout_s: float = 15.0) -> int:
        """Have it running, on the same port as before if it ran already; its port.

        Raises:
            RuntimeError: the port is somebody else's, or the broker does not start; with the end of its log.
        """
        if self._broker:
            if tcp_ready(self.port):
                return self.port
            self.kill()  # what is left of one that ended by itself
        self.home.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()  # not 1883: two runs would find it free at the same moment
        deadline = time.monotonic() + timeout_s
        while tcp_ready(self.port):  # a predecessor whose owner was killed is just ending
            if time.monotonic() > deadline:
                raise RuntimeError(f"something else listens on 127.0.0.1:{self.port}")
            time.sleep(0.05)
        self._broker = Guarded(self._program(), self.home / "broker.log", stop=signal.SIGTERM)
        while not tcp_ready(self.port):
            if self._broker.ended or time.monotonic() > deadline:
                output = self._broker.output()
                self.kill()
                raise RuntimeError(f"the broker did not start: {output}")
            time.sleep(0.02)
        return self.port

    @property
    def ended(self) -> bool:
        """True: it was started, and has ended by itself or by somebody's hand."""
        return self._broker is not None and self._broker.ended

    def stop(self) -> None:
        """As a service manager would: SIGTERM."""
        if self._broker:
            self._broker.stop()
            self._broker = None

    def kill(self) -> None:
        """SIGKILL; `start` brings it back on the same port."""
        if self._broker:
            self._broker.kill()
            self._broker = None

    def restart(self) -> int:
        """`stop` and `start`; its port."""
        self.stop()
        return self.start()

    @abstractmethod
    def _program(self) -> list[str]:
        """What to run."""


class Mosquitto(Broker):
    """The machine's mosquitto, with persistence."""

    kind, persistent = "mosquitto", True

    @staticmethod
    def binary() -> str | None:
        """None: not installed. Debian puts it where an ordinary user's PATH does not look."""
        beyond = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
        return shutil.which("mosquitto") or shutil.which("mosquitto", path=beyond)

    def _program(self) -> list[str]:
        binary = self.binary()
        if binary is None:
            raise RuntimeError("mosquitto is not installed")
        config = self.home / "mosquitto.conf"
        lines = [
            f"listener {self.port} {self.host}",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {self.home}/",
            "autosave_interval 5",
            "max_queued_messages 100000",
            "max_inflight_messages 200",
            f"max_packet_size {MAX_PACKET}",
            "set_tcp_nodelay true",
            *(["user root"] if os.geteuid() == 0 else []),  # else it becomes a user who can not write to this folder
        ]
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [binary, "-c", str(config)]


class IotCore(Broker):
    """The embedded broker of the `iotcore` wheel, for machines with pip alone. It forgets everything when it ends."""

    kind, persistent = "iotcore", False

    def _program(self) -> list[str]:
        config = self.home / "iotcore.toml"
        config.write_text(
            f"""\
id = 0

[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10

[v5.1]
name = "v5"
listen = "{self.host}:{self.port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = {MAX_PACKET}
max_inflight_count = 200
dynamic_filters = true
""",
            encoding="utf-8",
        )
        return [sys.executable, "-P", str(Path(__file__).with_name("iotcore_process.py")), str(config)]


def embedded_broker(home: Path, port: int | None = None, prefer: Kind = "auto") -> Broker:
    """Mosquitto where it is installed, else the embedded one; or the kind that is asked for."""
    if prefer == "mosquitto" or (prefer == "auto" and Mosquitto.binary()):
        return Mosquitto(home, port)
    return IotCore(home, port)
