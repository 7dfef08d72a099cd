"""Sign and check documents: DSSE envelopes over the exact bytes, Ed25519 keys, one payload type per document.

The payload type is signed too, so a receipt can not be passed off as an approval. A key's id is the SHA-256 of the key,
so the same key under two names counts once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.dsse import Envelope as Dsse
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]

from models.contract.base import Message
from models.contract.codec import Unreadable, dump, load
from models.contract.commands import Command
from models.contract.messages import Approval, Assignment, Receipt, Signed

PAYLOAD_TYPE: Final[dict[type[Message], str]] = {
    Approval: "application/vnd.pdm.approval.v1+json",
    Assignment: "application/vnd.pdm.assignment.v1+json",
    Receipt: "application/vnd.pdm.receipt.v1+json",
    Command: "application/vnd.pdm.command.v1+json",
}
D = TypeVar("D", bound=Message)


class NotTrusted(ValueError):
    """A document is not signed by whom it must be. The text says what was wrong."""


class PublicKeys:
    """The keys of one role, and how many different ones must have signed."""

    def __init__(self, keys: Sequence[Ed25519PublicKey], threshold: int = 1) -> None:
        self._keys = list({key.keyid: key for key in map(_named, keys)}.values())
        if not 1 <= threshold <= len(self._keys):
            raise ValueError(f"{threshold} signatures wanted, {len(self._keys)} different keys given")
        self._threshold = threshold

    @classmethod
    def read(cls, paths: Sequence[Path], threshold: int = 1) -> PublicKeys:
        """From PEM files. Raises ValueError that names the file."""
        return cls([_read_public(path) for path in paths], threshold)

    def open(self, kind: type[D], signed: Signed) -> D:
        """The document inside, once its signatures hold.

        Raises:
            NotTrusted: another type, too few known and different keys, a wrong signature, or no such document.
        """
        if signed.payloadType != PAYLOAD_TYPE[kind]:
            raise NotTrusted(f"a {signed.payloadType!r} is not a {PAYLOAD_TYPE[kind]!r}"[:300])
        try:
            envelope = Dsse.from_dict(json.loads(signed.model_dump_json()))
            envelope.verify(list(self._keys), self._threshold)
            return load(kind, envelope.payload)
        except (VerificationError, FormatError, KeyError, ValueError, Unreadable) as exc:
            raise NotTrusted(f"{kind.__name__.lower()} refused: {exc}"[:300]) from exc


class SigningKey:
    """A private key that signs documents."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key()
        self._signer = CryptoSigner(key, _named(self.public))

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """From an unencrypted PEM file that only its owner can read. Raises ValueError that names the file."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise ValueError(f"{path} is not a readable private key in PEM form: {exc}") from exc
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} is not an Ed25519 key")
        return cls(key)

    def write(self, path: Path) -> None:
        """The private key to `path` (mode 0600, never over an existing file), the public one to `path` + ".pub"."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        path.with_name(path.name + ".pub").write_bytes(public_pem(self.public))

    def sign(self, document: Message) -> Signed:
        """The document in an envelope with one signature."""
        return self.cosign(Dsse(dump(document), PAYLOAD_TYPE[type(document)], {}))

    def add_to(self, signed: Signed) -> Signed:
        """The same envelope with this key's signature added."""
        return self.cosign(Dsse.from_dict(json.loads(signed.model_dump_json())))

    def cosign(self, envelope: Dsse) -> Signed:
        envelope.sign(self._signer)
        return Signed.model_validate(envelope.to_dict())


def public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _named(key: Ed25519PublicKey) -> SSlibKey:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return SSlibKey.from_crypto(key, keyid=hashlib.sha256(raw).hexdigest())


def _read_public(path: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as exc:
        raise ValueError(f"{path} is not a readable public key in PEM form: {exc}") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{path} is not an Ed25519 key")
    return key
