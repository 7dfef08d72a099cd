"""Modbus TCP: registers polled at a rate, neighbours in one request, exceptions as quality."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edge_agent.sensors.base import Block, LineLost, SourceSettings, library
from edge_agent.sensors.channel import Channel
from edge_agent.sensors.resampled import JoinedSource
from edge_agent.settings import Broker
from models.contract.signals import Quality

log = logging.getLogger(__name__)

Kind = Literal["coil", "discrete", "holding", "input"]
Type = Literal["bool", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]
MAX_REGISTERS: Final = 125  # in one request, by the standard (6.3); 2000 bits (6.1)
MAX_BITS: Final = 2000
SKIP: Final = 8  # registers nobody asked for, read along where that saves a request
ILLEGAL_ADDRESS: Final = 2
_BITS: Final = ("coil", "discrete")
_DTYPES: Final = {
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "int64": "i8",
    "uint64": "u8",
    "float16": "f2",
    "float32": "f4",
    "float64": "f8",
}


class Register(Channel):
    """One signal in a device's registers: value = raw * scale + offset."""

    kind: Kind = "holding"
    address: Annotated[int, Field(ge=0, le=65535)]  # as on the wire, from 0: 40001 of a manual is holding 0
    type: Type = "uint16"
    byte_order: Literal["big", "little"] = "big"  # of the two bytes in a register
    word_order: Literal["big", "little"] = "big"  # of the registers of one value; big: the high word first
    scale: float = 1.0
    offset: float = 0.0
    bit: Annotated[int, Field(ge=0, le=15)] | None = None  # of a register: 0 is the lowest
    not_a_value: tuple[int, ...] = ()  # raw unsigned values with which the device says that it has none
    unit_id: Annotated[int, Field(ge=0, le=255)] | None = None  # None: the table's

    @model_validator(mode="after")
    def _bits_are_bits(self) -> Self:
        if self.bit is not None and (self.is_bit or self.type != "uint16"):
            raise ValueError("bit goes with a register of type uint16")
        if self.address + self.size > 65536:
            raise ValueError(f"a {self.type} at {self.address} ends after the last register")
        return self

    @property
    def is_bit(self) -> bool:
        return self.kind in _BITS

    @property
    def size(self) -> int:
        """How many registers (or bits) it takes."""
        return 1 if self.is_bit or self.type == "bool" else max(1, np.dtype(_DTYPES[self.type]).itemsize // 2)


class ModbusSource(SourceSettings):
    """A Modbus TCP device, or devices behind a gateway. All registers are read `rate_hz` times a second."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 502
    unit_id: Annotated[int, Field(ge=0, le=255)] = 1
    rate_hz: Annotated[float, Field(gt=0, le=100)] = 1.0
    timeout_s: Annotated[float, Field(gt=0)] = 2.0
    signals: Annotated[tuple[Register, ...], Field(min_length=1)]

    @property
    def on_a_grid(self) -> bool:
        return True

    def open(self, asset: str, fleet: Broker | None) -> Modbus:
        library("pymodbus", "modbus")
        return Modbus(self, asset)


class Request(NamedTuple):
    """Neighbouring registers of one device, read at once."""

    unit_id: int
    kind: Kind
    address: int
    size: int
    signals: tuple[int, ...]  # positions in the settings


def requests(registers: Sequence[Register], wanted: Iterable[int], unit_id: int, skip: int = SKIP) -> list[Request]:
    """As few requests as it takes. No value is split between two: its halves would be of different moments."""
    found: list[Request] = []
    order = sorted(wanted, key=lambda i: (_unit(registers[i], unit_id), registers[i].kind, registers[i].address))
    for i in order:
        register, unit = registers[i], _unit(registers[i], unit_id)
        most = MAX_BITS if register.is_bit else MAX_REGISTERS
        if found:
            last = found[-1]
            size = max(last.size, register.address + register.size - last.address)
            near = register.address <= last.address + last.size + skip
            if (last.unit_id, last.kind) == (unit, register.kind) and near and size <= most:
                found[-1] = last._replace(size=size, signals=(*last.signals, i))
                continue
        found.append(Request(unit, register.kind, register.address, register.size, (i,)))
    return found


def decode(register: Register, words: Sequence[int]) -> float:
    """A value in the signal's unit from its registers (or its bit). nan: the device says that there is none."""
    if register.is_bit:
        return float(words[0]) * register.scale + register.offset
    order = list(words) if register.word_order == "big" else list(reversed(words))
    pair: Literal["big", "little"] = register.byte_order
    raw = b"".join(int(word).to_bytes(2, pair) for word in order)
    if int.from_bytes(raw, "big") in register.not_a_value:
        return math.nan
    if register.bit is not None or register.type == "bool":
        value = float(int.from_bytes(raw, "big") >> (register.bit or 0) & 1)
    else:
        value = float(np.frombuffer(raw, f">{_DTYPES[register.type]}")[0])
    return value * register.scale + register.offset


class Modbus(JoinedSource):
    """Polls. Counts `polls`, `polls_skipped`, and `modbus_exception_CODE` and `modbus_timeout` of single requests."""

    def __init__(self, settings: ModbusSource, asset: str) -> None:
        super().__init__(asset, settings.signals, settings.rate_hz, 1 / settings.rate_hz)
        self._settings = settings
        self._requests = requests(settings.signals, range(len(settings.signals)), settings.unit_id)

    def session(self) -> None:
        with self.client() as client:
            due = math.ceil(time.time() * self.rate_hz)  # polls are made at the grid's own instants
            # At most two periods: a clock that was set back must not make us wait until it is as late again.
            while not self._stopping.wait(min(max(0.0, due / self.rate_hz - time.time()), 2 / self.rate_hz)):
                self.put((due / self.rate_hz, *self._poll(client)))
                coming = math.floor(time.time() * self.rate_hz) + 1
                self.counts["polls_skipped"] += max(0, coming - due - 1)  # the device is slower than asked for
                due = due + 1 if coming == due else coming

    @contextmanager
    def client(self) -> Iterator[Any]:
        """A connection. Raises LineLost."""
        client: Any = library("pymodbus.client", "modbus").ModbusTcpClient(
            self._settings.host, port=self._settings.port, timeout=self._settings.timeout_s, retries=0
        )
        if not client.connect():
            raise LineLost(f"nothing answers at {self._settings.host}:{self._settings.port}")
        try:
            yield client
        finally:
            client.close()

    def decode(self, item: Any) -> Iterator[Block]:
        stamp, values, quality = item
        for i in range(len(self.signals)):
            self.joiner.add(i, np.array([stamp]), values[i : i + 1], quality[i : i + 1])
        yield from self.joiner.take()

    def _poll(self, client: Any) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Values and quality of all signals. Raises LineLost: nobody answered."""
        values = np.full(len(self.signals), np.nan)
        quality = np.full(len(self.signals), Quality.BAD, np.uint8)
        answered = False
        waiting = list(self._requests)
        while waiting:
            request = waiting.pop(0)
            words = self.ask(client, request)
            answered |= words is not None
            if words == ILLEGAL_ADDRESS and (smaller := self._split(request)):
                waiting = smaller + waiting
            if not isinstance(words, list):
                continue
            for i in request.signals:
                register = self._settings.signals[i]
                begin = register.address - request.address
                values[i] = decode(register, words[begin : begin + register.size])
                quality[i] = Quality.BAD if math.isnan(values[i]) else Quality.GOOD
        if not answered:
            raise LineLost("no request was answered")
        if not self.connected:
            self.up()
        self.counts["polls"] += 1
        return values, quality

    def _split(self, request: Request) -> list[Request]:
        """A device may refuse a request for one register in it: without those nobody asked for, then one by one."""
        registers, unit_id = self._settings.signals, self._settings.unit_id
        smaller = requests(registers, request.signals, unit_id, skip=0)
        if len(smaller) == 1:
            smaller = [r for i in request.signals for r in requests(registers, [i], unit_id)]
        if len(smaller) == 1:
            return []
        at = self._requests.index(request)
        self._requests[at : at + 1] = smaller
        return smaller

    def ask(self, client: Any, request: Request) -> list[int] | int | None:
        """Registers or bits; the code of an exception; None: no answer."""
        read = getattr(client, _READ[request.kind])
        errors = library("pymodbus.exceptions", "modbus")
        try:
            answer = read(request.address, count=request.size, device_id=request.unit_id)
        except errors.ConnectionException as exc:
            raise LineLost(str(exc)) from exc
        except errors.ModbusException:
            self.counts["modbus_timeout"] += 1
            if not client.connected and not client.connect():
                raise LineLost("the line is lost") from None
            return None
        if answer.isError():
            code = int(getattr(answer, "exception_code", 0))
            if self.counts[f"modbus_exception_{code}"] == 0:
                facts = {"asset": self.asset, "code": code, "kind": request.kind, "address": request.address}
                log.warning("modbus exception", extra=facts)
            self.counts[f"modbus_exception_{code}"] += 1
            return code
        got: list[int] = list(answer.bits if request.kind in _BITS else answer.registers)
        if len(got) < request.size:
            self.counts["modbus_short"] += 1
            return None
        return got


_READ: Final = {
    "coil": "read_coils",
    "discrete": "read_discrete_inputs",
    "holding": "read_holding_registers",
    "input": "read_input_registers",
}


def _unit(register: Register, default: int) -> int:
    return default if register.unit_id is None else register.unit_id
