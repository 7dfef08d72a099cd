"""A Modbus TCP device, by pymodbus's own server. What it holds may be changed while it runs."""

from __future__ import annotations

import asyncio
import struct
import threading
from types import TracebackType
from typing import Any, Self

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from simulators.embedded.processes import free_port


def words(form: str, value: float) -> list[int]:
    """Registers of a value in struct's form, the high word first."""
    raw = struct.pack(f">{form}", value)
    return [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)]


class Plc:
    """A context manager. Each of the four tables has 100 entries, from 0; nothing is beyond.

    Attributes:
        refuse: addresses of holding registers that are answered with a code.
        asked: (function, address, count) of every request.
    """

    def __init__(self, port: int | None = None, units: tuple[int, ...] = (1,)) -> None:
        self.port = port or free_port()
        self.units = units
        self.tables: dict[str, list[Any]] = {
            **{kind: [False] * 100 for kind in ("coil", "discrete")},
            **{kind: [0] * 100 for kind in ("holding", "input")},
        }
        self.refuse: dict[int, ExcCodes] = {}
        self.asked: list[tuple[int, int, int]] = []

    def set(self, kind: str, address: int, *values: float) -> None:
        self.tables[kind][address : address + len(values)] = values

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._server.shutdown(), self._loop).result(10)
        self._thread.join(10)

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        def block(kind: str, datatype: DataType) -> list[SimData]:
            return [SimData(0, values=self.tables[kind], datatype=datatype)]

        data = (
            block("coil", DataType.BITS),
            block("discrete", DataType.BITS),
            block("holding", DataType.REGISTERS),
            block("input", DataType.REGISTERS),
        )
        devices = [SimDevice(unit, simdata=data, action=self._action) for unit in self.units]
        self._server = ModbusTcpServer(devices, address=("127.0.0.1", self.port))
        await self._server.serve_forever(background=True)
        started.set()
        await self._server.serving

    async def _action(
        self, function: int, start: int, address: int, count: int, registers: list[int], values: Any
    ) -> ExcCodes | None:
        self.asked.append((function, address, count))
        if function in (3, 4):
            kind = "holding" if function == 3 else "input"
            registers[address - start : address - start + count] = self.tables[kind][address : address + count]
            if function == 3:
                return next((code for at, code in self.refuse.items() if address <= at < address + count), None)
        else:
            kind = "coil" if function == 1 else "discrete"
            packed = sum(bool(b) << i for i, b in enumerate(self.tables[kind]))
            for i in range(len(registers)):
                registers[i] = packed >> (16 * (i + start)) & 0xFFFF
        return None
