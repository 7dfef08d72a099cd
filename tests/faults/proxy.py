"""A TCP proxy between agent and broker that is as bad as it is told to be, at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

NOT_AUTHORIZED: Final = 0x87
UNAVAILABLE: Final = 0x88
BUSY: Final = 0x89
BANNED: Final = 0x8A
_PIECE: Final = 4096


@dataclass
class Way:
    """One direction. Everything may be changed while it runs."""

    latency_s: float = 0.0
    bytes_per_s: float = 0.0  # 0: as fast as it goes
    dropped: bool = False  # taken and not passed on: the sender believes that it arrived
    held: bool = False  # not even taken: the sender's window fills up
    cut_after: int | None = None  # so many bytes on, both sides get an RST, in the middle of a packet
    passed: int = 0  # bytes, since the start


@dataclass
class Proxy:
    """A context manager; connect to `port`.

    Attributes:
        refuse: answer each CONNECT with this reason code, and close. None: pass it on.
        poison: what is sent up with this in it ends the connection, as a broker does that can not bear it.
        connects: when each connection was made, monotonic.
    """

    target: int
    host: str = "127.0.0.1"
    port: int = 0
    up: Way = field(default_factory=Way)  # from the agent
    down: Way = field(default_factory=Way)  # to the agent
    refuse: int | None = None
    connects: list[float] = field(default_factory=list)
    poison: bytes = b""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="proxy", daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def reset(self) -> None:
        """An RST to both sides of every connection, now."""
        self._loop.call_soon_threadsafe(self._reset)

    def connects_since(self, when: float) -> int:
        return sum(moment >= when for moment in self.connects)

    # -- in the proxy's thread ----------------------------------------------------------------------------------

    def _run(self, started: threading.Event) -> None:
        self._loop.run_until_complete(self._serve(started))
        self._loop.close()

    async def _serve(self, started: threading.Event) -> None:
        self._stopping = asyncio.Event()
        server = await asyncio.start_server(self._connection, self.host, self.port)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stopping.wait()
        server.close()
        self._reset()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connects.append(time.monotonic())
        pair = {writer}
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if self.refuse is not None:
                await reader.read(_PIECE)
                writer.write(bytes([0x20, 3, 0, self.refuse, 0]))  # CONNACK of MQTT 5, without properties
                await writer.drain()
            else:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
                pair.add(far_writer)
                self._open |= pair
                await asyncio.gather(self._pass(reader, far_writer, self.up), self._pass(far_reader, writer, self.down))
        self._open -= pair
        for each in pair:
            each.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        """What comes goes on, late: each piece when it is due, so latency does not limit the rate."""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)

        async def deliver() -> None:
            while True:
                at, data = await due.get()
                await asyncio.sleep(max(at - time.monotonic(), 0))
                if not data:
                    break
                if way.bytes_per_s:
                    await asyncio.sleep(len(data) / way.bytes_per_s)
                if self.poison and way is self.up and self.poison in data:
                    self._reset()
                    break
                if way.dropped:
                    continue
                rest = len(data) if way.cut_after is None else min(way.cut_after, len(data))
                writer.write(data[:rest])
                way.passed += rest
                await writer.drain()
                if way.cut_after is not None:
                    way.cut_after -= rest
                    if not way.cut_after:
                        way.cut_after = None
                        self._reset()
                        break

        sender = asyncio.create_task(deliver())
        try:
            while data := await reader.read(_PIECE):
                while way.held:
                    await asyncio.sleep(0.02)
                await due.put((time.monotonic() + way.latency_s, data))
            await due.put((time.monotonic() + way.latency_s, b""))
            await sender
        finally:
            sender.cancel()
            writer.close()

    def _reset(self) -> None:
        for writer in list(self._open):
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._open.clear()
