"""A bundle is one file: a stored (not compressed) zip with manifest.json, the ONNX models and canary.json.

Packing the same contents gives the same bytes, so the SHA-256 of the file is the bundle's identity. Whoever loads a
model loads it from the bytes that were hashed, never from a file that could change in between.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final

from pydantic import Field

from models.bundle.manifest import Manifest
from models.contract.base import Message, ModelRef
from models.contract.codec import Unreadable, dump, load

MAX_BUNDLE: Final = 32 * 2**20  # bytes
CANARY: Final = "canary.json"
MANIFEST: Final = "manifest.json"
_NAMES: Final = frozenset({MANIFEST, CANARY, "novelty.onnx", "classifier.onnx", "life.onnx"})
_MAX_TEXT: Final = 8 * 2**20  # of the two parts in JSON: what is read of them takes many times their room
_MAX_ENTRIES: Final = 16  # headers in the file, before the zip library makes an object of each
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the zip format's zero


class BadBundle(ValueError):
    """These bytes are not a bundle this program can use."""


class CanaryCase(Message):
    """A vector in `inputs` order with the scores the trainer's machine gave. For self-calibrated bundles also the
    reference the score was given against."""

    vector: tuple[float, ...]
    score: float
    probabilities: tuple[float, ...] | None = None
    center: tuple[float, ...] | None = None
    whiten: tuple[tuple[float, ...], ...] | None = None
    limit: float | None = None


class LifeCase(Message):
    """Inputs of the remaining life's regression, and what it gave."""

    inputs: tuple[float, ...]
    value: float


class Canary(Message):
    """Windows with golden scores: a device gives the same ones within `tolerance`, or does not run the bundle."""

    tolerance: Annotated[float, Field(gt=0, le=0.05)] = 1e-4
    cases: Annotated[tuple[CanaryCase, ...], Field(min_length=1, max_length=256)]
    lives: Annotated[tuple[LifeCase, ...], Field(max_length=64)] = ()  # within `tolerance` of the cap


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory, as it was hashed."""

    manifest: Manifest
    files: dict[str, bytes]
    canary: Canary
    data: bytes
    sha256: str

    @cached_property
    def ref(self) -> ModelRef:
        return ModelRef(name=self.manifest.name, version=self.manifest.version, sha256=self.sha256)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pack(manifest: dict[str, Any], models: dict[str, bytes], canary: Canary) -> bytes:
    """One file's bytes. `manifest` holds the fields of Manifest without `files`, which is filled in here."""
    contents = {**models, CANARY: dump(canary)}
    whole = Manifest.model_validate({**manifest, "files": {name: digest(data) for name, data in contents.items()}})
    contents[MANIFEST] = dump(whole)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), contents[name])
    data = buffer.getvalue()
    unpack(data)  # what cannot be read back is not shipped
    return data


def unpack(data: bytes) -> Bundle:
    """The bundle in these bytes.

    Raises:
        BadBundle: too large, not such a file, an unknown or missing part, a part that is not what the manifest says.
    """
    if len(data) > MAX_BUNDLE:
        raise BadBundle(f"{len(data)} bytes are more than {MAX_BUNDLE}")
    if data.count(b"PK\x01\x02") > _MAX_ENTRIES:
        raise BadBundle("too many parts")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if len(names) != len(set(names)) or not set(names) <= _NAMES:
                raise BadBundle(f"unexpected parts: {sorted(names)}"[:300])
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise BadBundle("compressed parts are not accepted")
            if any(archive.getinfo(name).file_size > _MAX_TEXT for name in (MANIFEST, CANARY)):
                raise BadBundle(f"a part in JSON is larger than {_MAX_TEXT} bytes")
            parts = {name: archive.read(name) for name in names}
        manifest = load(Manifest, parts.pop(MANIFEST))
        if manifest.files != {name: digest(part) for name, part in parts.items()}:
            raise BadBundle("a part is not what the manifest says")
        canary = Canary.model_validate_json(parts.pop(CANARY))
    except (zipfile.BadZipFile, KeyError, Unreadable, ValueError, RuntimeError, NotImplementedError) as exc:
        raise BadBundle(f"not a bundle: {exc}"[:300]) from exc
    return Bundle(manifest, parts, canary, data, digest(data))
