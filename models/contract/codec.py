"""Bytes to messages and back, strictly: what Python's json takes silently (NaN, duplicate keys, endless nesting, huge
integers) is refused here, with a reason that can be shown."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from models.contract.base import Message, Stream
from models.contract.messages import STREAM_OF, AnyBody, Body, Envelope

ZLIB: Final = b"\x78"
MAX_PAYLOAD: Final = 256 * 1024  # bytes; the broker's limit is set a little higher
_body: TypeAdapter[Any] = TypeAdapter(AnyBody)
M = TypeVar("M", bound=Message)


class Unreadable(ValueError):
    """These bytes are not a message; the text says why, without repeating more than a little of them."""


def dump(message: Message) -> bytes:
    """The message as UTF-8 JSON."""
    return message.model_dump_json().encode()


def wrap(device: str, epoch: str, stream: Stream, seq: int, body: bytes) -> bytes:
    """An Envelope around a body that is JSON already (it was when it went to disk)."""
    return b'{"v":1,"device":"%b","epoch":"%b","stream":"%b","seq":%d,"body":%b}' % (
        device.encode(),
        epoch.encode(),
        stream.value.encode(),
        seq,
        body,
    )


def pack(device: str, epoch: str, stream: Stream, records: Sequence[tuple[int, bytes]]) -> bytes:
    """A Pack of several records, compressed: much smaller than each on its own, and one receipt does for all."""
    each = b",".join(b"[%d,%b]" % record for record in records)
    return zlib.compress(
        b'{"v":1,"kind":"pack","device":"%b","epoch":"%b","stream":"%b","records":[%b]}'
        % (device.encode(), epoch.encode(), stream.value.encode(), each)
    )


def unpacked(payload: bytes) -> bytes:
    """What a message holds: compressed ones begin with zlib's first byte, plain ones are JSON. Raises Unreadable."""
    if payload[:1] != ZLIB:
        return payload
    try:
        inflate = zlib.decompressobj()
        plain = inflate.decompress(payload, MAX_PAYLOAD + 1)
    except zlib.error as exc:
        raise Unreadable(f"compressed, and broken: {exc}") from exc
    if not inflate.eof:
        raise Unreadable(f"compressed, and cut off or more than {MAX_PAYLOAD} bytes")
    return plain


def parse_json(payload: bytes) -> Any:
    """JSON as the standard has it.

    Raises:
        Unreadable: too large, not UTF-8, not JSON, a duplicate key, NaN or infinity, too deep, an endless integer.
    """
    if len(payload) > MAX_PAYLOAD:
        raise Unreadable(f"{len(payload)} bytes are more than {MAX_PAYLOAD}")
    try:
        return json.loads(payload.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except Unreadable:
        raise
    except RecursionError as exc:
        raise Unreadable("nested too deep") from exc
    except UnicodeDecodeError as exc:
        raise Unreadable(f"not UTF-8 at byte {exc.start}") from exc
    except ValueError as exc:  # also: integers with thousands of digits
        raise Unreadable(f"not JSON: {exc}"[:300]) from exc


def load(kind: type[M], payload: bytes) -> M:
    """One message of a known class. Raises Unreadable."""
    message: M = _validated(TypeAdapter(kind), parse_json(payload))
    return message


def load_body(envelope: Envelope) -> Body:
    """What an envelope carries. Raises Unreadable, also for a body on the wrong stream."""
    body: Body = _validated(_body, envelope.body)
    if STREAM_OF[type(body)] is not envelope.stream:
        raise Unreadable(f"a {envelope.body['kind']} does not belong on stream {envelope.stream}")
    return body


def _validated(adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as exc:
        first = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'message'}: {e['msg']}" for e in exc.errors()[:3])
        raise Unreadable(first.encode("ascii", "backslashreplace").decode()[:500]) from exc
    except RecursionError as exc:
        raise Unreadable("nested too deep") from exc


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise Unreadable("a key stands twice in one object")
    return unique


def _no_constant(name: str) -> Any:
    raise Unreadable(f"{name} is not JSON")
