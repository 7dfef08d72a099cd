"""Sparkplug B payloads (Eclipse Sparkplug 3.0, chapter 6), by the protobuf runtime that the ONNX runtime brings.

Only the fields that are read here are described; others are skipped, as protobuf has it.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Final, NamedTuple

from models.contract.signals import Quality

_SCALAR: Final = {
    "uint32": 13,
    "uint64": 4,
    "bool": 8,
    "string": 9,
    "bytes": 12,
    "float": 2,
    "double": 1,
    "message": 11,
}
_VALUES: Final = {"int_value": "uint32", "long_value": "uint64", "float_value": "float", "double_value": "double"}
# Message: field: (number, type). "*" before a type: repeated; a capital: that message.
_MESSAGES: Final = {
    "PropertyValue": {
        "type": (1, "uint32"),
        "is_null": (2, "bool"),
        **{name: (i, kind) for i, (name, kind) in enumerate(_VALUES.items(), 3)},
        "boolean_value": (7, "bool"),
        "string_value": (8, "string"),
    },
    "PropertySet": {"keys": (1, "*string"), "values": (2, "*PropertyValue")},
    "Metric": {
        "name": (1, "string"),
        "alias": (2, "uint64"),
        "timestamp": (3, "uint64"),
        "datatype": (4, "uint32"),
        "is_historical": (5, "bool"),
        "is_null": (7, "bool"),
        "properties": (9, "PropertySet"),
        **{name: (i, kind) for i, (name, kind) in enumerate(_VALUES.items(), 10)},
        "boolean_value": (14, "bool"),
        "string_value": (15, "string"),
    },
    "Payload": {"timestamp": (1, "uint64"), "metrics": (2, "*Metric"), "seq": (3, "uint64")},
}
_SIGNED_BITS: Final = {1: 8, 2: 16, 3: 32, 4: 64}  # datatype: Int8 to Int64, sent as their two's complement
BOOLEAN: Final = 11
_TYPE_NAMES: Final = "Int8 Int16 Int32 Int64 UInt8 UInt16 UInt32 UInt64 Float Double Boolean String DateTime Text"
TYPES: Final = dict(enumerate(_TYPE_NAMES.split(), 1))
_UNIT: Final = ("engunit", "engunits", "engineeringunit", "engineeringunits", "unit", "units")
_GOOD_QUALITY: Final = 192  # the "Quality" property, as OPC counted it; 500 is stale


class Metric(NamedTuple):
    """One metric of a payload."""

    name: str  # empty where an alias stands for it
    alias: int | None
    stamp: float | None  # epoch seconds
    datatype: int  # 0: not said
    historical: bool
    raw: int | float | bool | None  # None: null, or no number
    quality: Quality
    unit: str = ""  # where the node says so, as many do in a property engUnit

    def value(self, datatype: int) -> float:
        """As a number, by the type that its birth gave it; nan where there is none."""
        if self.raw is None:
            return math.nan
        if (bits := _SIGNED_BITS.get(self.datatype or datatype)) and isinstance(self.raw, int):
            low = self.raw & ((1 << bits) - 1)
            return float(low - (1 << bits) if low >> (bits - 1) else low)
        return float(self.raw)


class Payload(NamedTuple):
    stamp: float | None  # epoch seconds
    seq: int | None
    metrics: tuple[Metric, ...]

    def metric(self, name: str) -> Metric | None:
        return next((m for m in self.metrics if m.name == name), None)


def read(raw: bytes) -> Payload:
    """Raises ValueError."""
    from google.protobuf.message import DecodeError

    try:
        message = _payload_class().FromString(raw)
    except DecodeError as exc:
        raise ValueError(f"no Sparkplug payload: {exc}") from exc
    return Payload(
        message.timestamp / 1000 if message.HasField("timestamp") else None,
        message.seq if message.HasField("seq") else None,
        tuple(map(_metric, message.metrics)),
    )


def rebirth(stamp: float) -> bytes:
    """The command with which a host asks an edge node for its births."""
    message = _payload_class()(timestamp=round(stamp * 1000))
    message.metrics.add(
        name="Node Control/Rebirth", timestamp=round(stamp * 1000), datatype=BOOLEAN, boolean_value=True
    )
    raw: bytes = message.SerializeToString()
    return raw


def _metric(m: Any) -> Metric:
    field = m.WhichOneof("value")
    raw = getattr(m, field) if field and field != "string_value" and not m.is_null else None
    quality = Quality.BAD if raw is None else Quality.GOOD
    unit = ""
    for key, value in zip(m.properties.keys, m.properties.values, strict=False):
        if key.lower() == "quality":
            quality = max(quality, _quality(value.int_value or value.long_value))
        elif key.lower() in _UNIT:
            unit = value.string_value
    return Metric(
        m.name,
        m.alias if m.HasField("alias") else None,
        m.timestamp / 1000 if m.HasField("timestamp") else None,
        m.datatype,
        m.is_historical,
        raw,
        quality,
        unit,
    )


def _quality(code: int) -> Quality:
    if code >= 256:  # 500 is stale, others are vendors' own
        return Quality.BAD
    return (Quality.BAD, Quality.UNCERTAIN, Quality.BAD, Quality.GOOD)[code >> 6]


@cache
def _payload_class() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="pdm/sparkplug_b.proto", package="pdm.sparkplug", syntax="proto2")
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        if message_name == "Metric":
            message.oneof_decl.add(name="value")
        for name, (number, kind) in fields.items():
            bare = kind.removeprefix("*")
            field = message.field.add(
                name=name, number=number, label=3 if kind != bare else 1, type=_SCALAR.get(bare, _SCALAR["message"])
            )
            if bare not in _SCALAR:
                field.type_name = f".pdm.sparkplug.{bare}"
            if message_name == "Metric" and name.endswith("_value"):
                field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pdm.sparkplug.Payload"))
