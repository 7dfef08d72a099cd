"""Photos and sounds small enough to be made here, and what strangers make of them."""

from __future__ import annotations

import io
import struct
import wave
import zlib


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def a_jpeg(*extra: bytes, scan: int = 2000) -> bytes:
    """With these segments after the head; as a canvas writes it."""
    head = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    tables = segment(0xDB, bytes(65)) + segment(0xC0, bytes(15)) + segment(0xC4, bytes(28))
    picture = segment(0xDA, bytes(10)) + b"\x12\xff\x00\x34\xff\xd0" * (scan // 6)
    return b"\xff\xd8" + head + b"".join(extra) + tables + picture + b"\xff\xd9"


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def a_png(*extra: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\1\2\0\3\4"))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + pixels + chunk(b"IEND", b"")


def a_wav(n: int = 400) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(2 * n))
    return file.getvalue()


def an_ogg() -> bytes:
    return (b"OggS\0\2" + bytes(20) + b"\1\x13" + b"OpusHead" + bytes(11)) * 2


def a_webm() -> bytes:
    return b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm" + bytes(500)


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + name + content


def an_mp4(inside: bytes = b"") -> bytes:
    return box(b"ftyp", b"M4A \0\0\0\0") + box(b"moov", b"mvhd" + inside) + box(b"mdat", bytes(300))


EXIF_WITH_POSITION = segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08GPS 48.2082 N 16.3738 E")
A_ZIP_AT_THE_END = b"PK\x03\x04" + bytes(40) + b"PK\x05\x06" + bytes(18)
GOOD = {
    "image/jpeg": a_jpeg(),
    "image/png": a_png(),
    "audio/wav": a_wav(),
    "audio/ogg": an_ogg(),
    "audio/webm": a_webm(),
    "audio/mp4": an_mp4(),
}
BAD = {
    "position in EXIF": ("image/jpeg", a_jpeg(EXIF_WITH_POSITION), "carries_more"),
    "XMP": ("image/jpeg", a_jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")), "carries_more"),
    "a comment": ("image/jpeg", a_jpeg(segment(0xFE, b"taken by Ada")), "carries_more"),
    "maker's notes": ("image/jpeg", a_jpeg(segment(0xED, b"Photoshop 3.0\0")), "carries_more"),
    "an archive behind the picture": ("image/jpeg", a_jpeg() + A_ZIP_AT_THE_END, "carries_more"),
    "a page behind the picture": ("image/jpeg", a_jpeg() + b"<html><script>alert(1)</script>", "carries_more"),
    "one byte behind the picture": ("image/jpeg", a_jpeg() + b"\0", "carries_more"),
    "a cut picture": ("image/jpeg", a_jpeg()[:-2], "wrong_type"),
    "text in a PNG": ("image/png", a_png(chunk(b"tEXt", b"Author\0Ada")), "carries_more"),
    "EXIF in a PNG": ("image/png", a_png(chunk(b"eXIf", b"MM\0*")), "carries_more"),
    "an archive behind a PNG": ("image/png", a_png() + A_ZIP_AT_THE_END, "carries_more"),
    "a damaged PNG": ("image/png", a_png().replace(b"IDAT", b"IDAX"), "wrong_type"),
    "a page that says it is a picture": ("image/jpeg", b"<html><script>alert(1)</script>", "carries_more"),
    "a GIF that says it is a JPEG": ("image/jpeg", b"GIF89a" + bytes(100), "wrong_type"),
    "a program": ("image/png", b"\x7fELF" + bytes(100), "wrong_type"),
    "a document in a sound": ("audio/webm", a_webm().replace(bytes(5), b"%PDF-", 1), "carries_more"),
    "position in a sound": ("audio/mp4", an_mp4(b"\xa9xyz+48.2+016.3/"), "carries_more"),
    "more behind a sound": ("audio/wav", a_wav() + b"more", "carries_more"),
    "nothing": ("audio/ogg", b"x", "wrong_type"),
}
