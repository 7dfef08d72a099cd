"""Photos and sounds, looked at without decoding them: nothing but the picture or the sound may be in there.

A phone's form draws a photo on a canvas again, which leaves position and maker behind. What still carries more than its
picture is refused and never altered: its hash is what the annotation names, and a decoder is a large door to open for
strangers' bytes. Refused are text and position blocks (EXIF, XMP, comments), anything after the end, and archives or
documents that hide in a file that is also a picture.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from typing import Final

from models.contract.people import MediaType

_HIDDEN: Final = {b"PK\x05\x06": "an archive", b"%PDF-": "a document", b"<script": "a script", b"<html": "a page"}
_AFTER_SCAN: Final = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_PNG: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"sBIT"})
_MP4: Final = frozenset({b"ftyp", b"moov", b"mdat", b"moof", b"free", b"styp", b"sidx", b"mfra"})


class BadMedia(ValueError):
    """Not taken. `code`: wrong_type (it is something else) or carries_more (something beside the picture)."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def inspect(data: bytes, media_type: MediaType) -> None:
    """Raises BadMedia unless the bytes are what they say, and nothing else."""
    for mark, what in _HIDDEN.items():
        # An archive's directory is at its end, whatever is before it; the others are looked for where readers look.
        where = data[-66_000:] if mark.startswith(b"PK") else data[:4096].lower() + data[-4096:].lower()
        if mark in where or mark.lower() in where:
            raise BadMedia("carries_more", f"there is {what} inside")
    try:
        _WALK[media_type](data)
    except (IndexError, struct.error) as exc:
        raise BadMedia("wrong_type", f"this is no whole {media_type}") from exc


def _jpeg(data: bytes) -> None:
    _starts(data, b"\xff\xd8", "JPEG")
    at = 2
    while True:
        if data[at] != 0xFF:
            raise BadMedia("wrong_type", f"no JPEG marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xD9:
            return _ends(data, at + 2)
        (length,) = struct.unpack_from(">H", data, at + 2)
        segment = data[at + 4 : at + 2 + length]
        if length < 2 or len(segment) != length - 2:
            raise BadMedia("wrong_type", f"a JPEG segment at byte {at} is cut off")
        plain = marker in (0xC4, 0xDB, 0xDD) or 0xC0 <= marker <= 0xCF or marker == 0xDA
        known = (
            (marker == 0xE0 and segment.startswith(b"JFIF\0") and length == 16)  # without a thumbnail
            or (marker == 0xE2 and segment.startswith(b"ICC_PROFILE\0") and length < 8192)
            or (marker == 0xEE and segment.startswith(b"Adobe") and length == 14)
        )
        if not plain and not known:
            what = {0xE1: "EXIF or XMP", 0xFE: "a comment"}.get(marker, f"application data {marker:02x}")
            raise BadMedia("carries_more", f"the picture carries {what}")
        at += 2 + length
        if marker == 0xDA:  # the compressed picture: up to the next marker that is none of its own
            found = _AFTER_SCAN.search(data, at)
            if found is None:
                raise BadMedia("wrong_type", "the JPEG has no end")
            at = found.start()


def _png(data: bytes) -> None:
    _starts(data, b"\x89PNG\r\n\x1a\n", "PNG")
    at = 8
    while True:
        (length,) = struct.unpack_from(">I", data, at)
        name, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (check,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(name + content) != check:
            raise BadMedia("wrong_type", f"the PNG is damaged at byte {at}")
        if name not in _PNG:
            raise BadMedia("carries_more", f"the picture carries {name.decode('ascii', 'replace')}")
        at += 12 + length
        if name == b"IEND":
            return _ends(data, at)


def _wav(data: bytes) -> None:
    _starts(data, b"RIFF", "WAV")
    (size,) = struct.unpack_from("<I", data, 4)
    if data[8:12] != b"WAVE":
        raise BadMedia("wrong_type", "no WAV")
    at = 12
    while at < size + 8:
        name, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        if name not in (b"fmt ", b"data", b"fact"):
            raise BadMedia("carries_more", f"the sound carries {name.decode('ascii', 'replace')}")
        at += 8 + length + length % 2
    _ends(data, at)


def _ogg(data: bytes) -> None:
    at = 0
    while at < len(data):
        _starts(data, b"OggS", "Ogg", at)
        n = data[at + 26]
        at += 27 + n + sum(data[at + 27 : at + 27 + n])
    _ends(data, at)


def _mp4(data: bytes) -> None:
    _starts(data, b"ftyp", "MP4", 4)
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name = data[at + 4 : at + 8]
        if name not in _MP4 or length < 8:
            raise BadMedia("carries_more", f"the sound carries {name.decode('ascii', 'replace')}")
        if name == b"moov" and any(mark in data[at : at + length] for mark in (b"\xa9xyz", b"loci", b"ISO6709")):
            raise BadMedia("carries_more", "the sound carries a position")
        at += length
    _ends(data, at)


def _webm(data: bytes) -> None:
    _starts(data, b"\x1a\x45\xdf\xa3", "WebM")
    if b"webm" not in data[:64]:
        raise BadMedia("wrong_type", "no WebM")


def _starts(data: bytes, mark: bytes, what: str, at: int = 0) -> None:
    if not data.startswith(mark, at):
        raise BadMedia("wrong_type", f"this does not begin as {what} does")


def _ends(data: bytes, at: int) -> None:
    if at < len(data):
        raise BadMedia("carries_more", f"{len(data) - at} bytes come after the end")
    if at > len(data):
        raise BadMedia("wrong_type", f"{at - len(data)} bytes are missing at the end")


_WALK: Final[dict[MediaType, Callable[[bytes], None]]] = {
    "image/jpeg": _jpeg,
    "image/png": _png,
    "audio/wav": _wav,
    "audio/ogg": _ogg,
    "audio/mp4": _mp4,
    "audio/webm": _webm,
}
