"""Registers of a real Modbus TCP server."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pymodbus.constants import ExcCodes

from edge_agent.cli import main
from edge_agent.sensors.modbus import MAX_REGISTERS, ModbusSource, Register, decode, requests
from tests.faults.proxy import Proxy
from tests.services.sources.plc import Plc, words
from tests.services.sources.probing import Probed
from tests.services.sources.reading import Reading
from tests.support import eventually

EVERY_KIND = [
    {"name": "valve", "kind": "coil", "address": 5},
    {"name": "door", "kind": "discrete", "address": 17},
    {"name": "speed", "address": 0, "type": "int16", "scale": 0.1, "offset": -5},
    {"name": "power", "address": 2, "type": "float32"},
    {"name": "swapped", "address": 4, "type": "float32", "word_order": "little"},
    {"name": "intel", "address": 6, "type": "int32", "word_order": "little", "byte_order": "little"},
    {"name": "energy", "kind": "input", "address": 10, "type": "uint64"},
    {"name": "exact", "kind": "input", "address": 14, "type": "float64"},
    {"name": "half", "kind": "input", "address": 20, "type": "float16"},
    {"name": "trip", "kind": "input", "address": 21, "bit": 3},
]


def a_source(port: int, signals: list[dict[str, object]], **more: object) -> Reading:
    fields = {"host": "127.0.0.1", "port": port, "rate_hz": 20, "timeout_s": 1, "signals": signals} | more
    return Reading(ModbusSource.model_validate(fields).open("pump1", None))


def test_every_table_type_and_order_with_scale_and_offset() -> None:
    with Plc() as plc:
        plc.set("coil", 5, True)
        plc.set("discrete", 17, True)
        plc.set("holding", 0, -300 & 0xFFFF)
        plc.set("holding", 2, *words("f", 1234.5))
        plc.set("holding", 4, *reversed(words("f", -0.25)))
        plc.set("holding", 6, *(int.from_bytes(struct.pack("<i", -70000)[i : i + 2], "big") for i in (0, 2)))
        plc.set("input", 10, *words("Q", 2**40 + 1))
        plc.set("input", 14, *words("d", math.pi))
        plc.set("input", 20, *words("e", 0.5))
        plc.set("input", 21, 0b1000)
        with a_source(plc.port, EVERY_KIND) as reading:
            eventually(lambda: len(reading.times) > 3)
        got = dict(zip((r["name"] for r in EVERY_KIND), reading.values[:, 0].tolist(), strict=True))
        asked = {(function, address, count) for function, address, count in plc.asked}
    assert got.pop("exact") == pytest.approx(math.pi)
    assert got.pop("energy") == pytest.approx(2**40)
    assert got.pop("speed") == pytest.approx(-35.0)
    expected = {"valve": 1, "door": 1, "power": 1234.5, "swapped": -0.25, "intel": -70000, "half": 0.5, "trip": 1}
    assert got == expected
    assert asked == {(1, 5, 1), (2, 17, 1), (3, 0, 8), (4, 10, 12)}, "one request for neighbours"
    steps = {round(b - a, 6) for a, b in zip(reading.times, reading.times[1:], strict=False)}
    assert steps <= {0.05, 0.1, 0.15, 0.2}, "polled at its rate, on the grid's instants"


def test_an_exception_is_bad_quality_of_these_signals_only_and_is_counted() -> None:
    with Plc() as plc:
        plc.set("holding", 0, 7)
        plc.set("holding", 50, 8)
        signals: list[dict[str, object]] = [{"name": "good", "address": 0}, {"name": "dead", "address": 50}]
        with a_source(plc.port, signals) as reading:
            eventually(lambda: len(reading.times) > 2)
            plc.refuse[50] = ExcCodes.DEVICE_FAILURE
            eventually(lambda: math.isnan(reading.row("dead")[-1]))
            plc.refuse.clear()
            eventually(lambda: reading.row("dead")[-1] == 8)
        assert reading.source.counts["modbus_exception_4"] > 0
        assert "line_lost" not in reading.source.counts
    assert reading.row("good") == [7] * len(reading.times)
    assert {q for v, q in zip(reading.row("dead"), reading.quality("dead"), strict=True) if math.isnan(v)} == {2}


def test_a_device_that_refuses_registers_between_is_asked_without_them() -> None:
    """Two wanted registers with one between that it does not have: as many maps are."""
    with Plc() as plc:
        plc.set("holding", 1, 5)
        plc.set("holding", 3, 6)
        plc.refuse[2] = ExcCodes.ILLEGAL_ADDRESS
        with a_source(plc.port, [{"name": "a", "address": 1}, {"name": "b", "address": 3}]) as reading:
            eventually(lambda: len(reading.times) > 2)
        assert plc.asked[0] == (3, 1, 3)
        assert set(plc.asked[1:]) == {(3, 1, 1), (3, 3, 1)}
    assert reading.values[:, 0].tolist() == [5, 6]


def test_a_unit_that_does_not_answer_is_bad_and_the_others_go_on() -> None:
    with Plc(units=(1,)) as plc:
        plc.set("holding", 0, 7)
        signals: list[dict[str, object]] = [
            {"name": "here", "address": 0},
            {"name": "gone", "address": 0, "unit_id": 9},
        ]
        with a_source(plc.port, signals, rate_hz=5, timeout_s=0.1) as reading:
            eventually(lambda: len(reading.times) > 8, 20)
    assert set(reading.row("here")) == {7}
    assert all(map(math.isnan, reading.row("gone")))


def test_a_device_that_goes_away_and_comes_back() -> None:
    """On the same port; what was read before and after is there, and nothing between."""
    with Plc() as plc:
        plc.set("holding", 0, 1)
        with Proxy(plc.port) as proxy, a_source(proxy.port, [{"name": "a", "address": 0}]) as reading:
            for turn in range(1, 4):
                plc.set("holding", 0, turn)
                eventually(lambda n=turn: n in reading.row("a"), 20)  # type: ignore[misc]
                proxy.reset()
                eventually(lambda n=turn: reading.source.counts["line_lost"] == n)  # type: ignore[misc]
    values = reading.row("a")
    assert sorted(set(values)) == [1, 2, 3]
    assert values == sorted(values)
    polls = reading.source.counts["polls"]
    assert len(values) == polls - reading.source.counts["samples_late"], "every poll is there once"


def test_nobody_there_is_tried_again_and_told_as_no_failure() -> None:
    with Plc() as plc:
        port = plc.port
    with a_source(port, [{"name": "a", "address": 0}]) as reading, Plc(port) as plc:
        eventually(lambda: reading.times, 20)
    assert reading.failed is None


@pytest.mark.parametrize(
    "register",
    [
        {"address": 70000},
        {"address": 65535, "type": "int32"},
        {"address": 1, "bit": 3, "type": "float32"},
        {"address": 1, "kind": "coil", "bit": 3},
        {"address": 1, "type": "int8"},
        {"address": 1, "scal": 2},
    ],
)
def test_registers_that_can_not_be_meant_are_refused(register: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Register.model_validate({"name": "a"} | register)


def test_a_device_says_itself_that_it_has_no_value() -> None:
    register = Register(name="a", address=0, type="int16", not_a_value=(0x8000,))
    assert math.isnan(decode(register, [0x8000]))
    assert decode(register, [0x7FFF]) == 32767


@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["uint16", "float32", "float64"])), min_size=1))
def test_requests_hold_every_value_whole_and_none_is_too_long(wanted: list[tuple[int, str]]) -> None:
    registers = [Register(name=f"s{i}", address=a, type=t) for i, (a, t) in enumerate(wanted)]  # type: ignore[arg-type]
    found = requests(registers, range(len(registers)), unit_id=1)
    assert sorted(i for request in found for i in request.signals) == list(range(len(registers)))
    for request in found:
        assert request.size <= MAX_REGISTERS
        for i in request.signals:
            assert request.address <= registers[i].address
            assert registers[i].address + registers[i].size <= request.address + request.size


def test_a_probe_finds_what_can_be_read_and_as_what_it_makes_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Plc() as plc:
        plc.set("holding", 0, 1450, -300 & 0xFFFF)
        plc.set("holding", 7, 3, *words("f", 49.98), *words("f", 12.5))
        plc.set("input", 20, *reversed(words("f", 0.025)))
        for gone in (*range(30, 40), 77):
            plc.refuse[gone] = ExcCodes.ILLEGAL_ADDRESS
        where = ["--host", "127.0.0.1", "--port", str(plc.port), "--last", "109", "--seconds", "0.01"]
        probed = Probed(tmp_path / "agent.toml", capsys, "modbus", *where)
        assert probed.row(kind="holding", address=8)["float32"] == pytest.approx(49.98)
        there = {row["address"] for row in probed.offers if row["kind"] == "holding"}
        assert there == set(range(100)) - {*range(30, 40), 77}
        assert any("30-39, 77, 100-109" in note for note in probed.notes)
        with probed.reading() as reading:
            eventually(lambda: reading.times)
    got = dict(zip((s.name for s in reading.source.signals), reading.values[:, 0].tolist(), strict=True))
    expected = {"holding_0": 1450, "holding_1": -300, "holding_7": 3, "holding_8": 49.98, "holding_10": 12.5}
    assert got == pytest.approx(expected | {"input_20": 0.025})
    assert main(["probe", "modbus", *where]) == 2, "it is gone"
    assert "nothing answers" in capsys.readouterr().err
