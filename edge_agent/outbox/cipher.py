"""Records encrypted on the disk: AES-256-GCM, a fresh nonce each, with a key that lies in a file elsewhere."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edge_agent.errors import BadConfig

SEALED: Final = b"\x01"  # first byte of what is encrypted; what is not is JSON and begins with a brace
NONCE_BYTES: Final = 12
_ABOUT: Final = b"pdm outbox"


class WrongKey(ValueError):
    """This key does not open it."""


class Cipher:
    """One key."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    @classmethod
    def read(cls, path: Path) -> Cipher:
        """From a file with 32 bytes, raw or as 64 hex digits, that only its owner can read. Raises BadConfig."""
        try:
            if path.stat().st_mode & 0o077:
                raise BadConfig(f"outbox.key_file: {path} can be read by others: chmod 600 {path}")
            raw = path.read_bytes()
        except OSError as exc:
            raise BadConfig(f"outbox.key_file: {exc}") from exc
        try:
            key = raw if len(raw) == 32 else bytes.fromhex(raw.decode("ascii").strip())
        except ValueError:
            key = b""
        if len(key) != 32:
            raise BadConfig(f"outbox.key_file: {path} holds no key: 32 bytes, as `openssl rand -hex 32` writes them")
        return cls(key)

    def seal(self, body: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return SEALED + nonce + self._aead.encrypt(nonce, body, _ABOUT)

    def unseal(self, sealed: bytes) -> bytes:
        """Raises WrongKey, also where the bytes were altered."""
        nonce, rest = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            return self._aead.decrypt(nonce, rest, _ABOUT)
        except (InvalidTag, ValueError) as exc:
            raise WrongKey("the key does not open it") from exc
