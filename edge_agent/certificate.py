"""HTTPS on a plant's network: a small certificate authority of this device's own, and the certificate of its page.

The authority can vouch for nothing but the names it was made for (name constraints, RFC 5280 4.2.1.10): who installs
it on a phone gives nobody power over other sites. Its key lies in the state folder, readable by the agent alone.
"""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_agent.errors import AgentError
from edge_agent.files import write_whole

AUTHORITY_LASTS: Final = timedelta(days=3650)
LASTS: Final = timedelta(days=397)  # browsers refuse what lasts much longer
RENEW_BEFORE: Final = timedelta(days=30)
SLACK: Final = timedelta(days=2)  # a phone's clock may be behind


class Files(NamedTuple):
    """Where everything is. The chain holds the page's certificate and the authority's, as uvicorn wants them."""

    authority: Path
    authority_key: Path
    chain: Path
    key: Path


def files(state_dir: Path) -> Files:
    folder = state_dir / "tls"
    return Files(folder / "authority.pem", folder / "authority-key.pem", folder / "page.pem", folder / "page-key.pem")


def ensure(state_dir: Path, device: str, names: tuple[str, ...], now: datetime, *, anew: bool = False) -> bool:
    """Authority and certificate for these names, made or renewed where it is needed. True: something was written.

    Args:
        anew: a new authority; every phone has to install it.

    Raises:
        AgentError: the authority there is for other names, or cannot be read.
    """
    at = files(state_dir)
    at.chain.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = anew or not at.authority.exists()
    if made:
        _make_authority(at, device, names, now)
    authority = _read(at.authority)
    if missing := set(names) - set(_permitted(authority)):
        raise AgentError(
            f"the authority in {at.authority.parent} cannot vouch for {', '.join(sorted(missing))}: "
            "edge-agent certificate --new-authority makes another, which every phone then has to install"
        )
    if made or _due(at, names, now):
        if not at.authority_key.exists():
            raise AgentError(f"{at.authority_key} is not here: the certificate cannot be renewed")
        _make_certificate(at, authority, names, now)
        return True
    return False


def fingerprint(state_dir: Path) -> str:
    """SHA-256 of the authority, as phones show it: AB:CD:..."""
    return _read(files(state_dir).authority).fingerprint(hashes.SHA256()).hex(":").upper()


def authority_der(state_dir: Path) -> bytes:
    """The authority as phones take it."""
    return _read(files(state_dir).authority).public_bytes(Encoding.DER)


def ends(state_dir: Path) -> datetime:
    """When the page's certificate does."""
    return _read(files(state_dir).chain).not_valid_after_utc


def _due(at: Files, names: tuple[str, ...], now: datetime) -> bool:
    if not at.chain.exists() or not at.key.exists():
        return True
    page = _read(at.chain)
    there = page.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    return set(there) != set(names) or page.not_valid_after_utc - now < RENEW_BEFORE


def _make_authority(at: Files, device: str, names: tuple[str, ...], now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{device} technician's form {now:%Y-%m-%d}")])
    everywhere = [x509.IPAddress(ipaddress.ip_network(net)) for net in ("0.0.0.0/0", "::/0")]
    certificate = (
        _builder(name, name, key.public_key(), now, AUTHORITY_LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints([x509.DNSName(each) for each in names], everywhere), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_key(at.authority_key, key)
    write_whole(at.authority, certificate.public_bytes(Encoding.PEM))


def _make_certificate(at: Files, authority: x509.Certificate, names: tuple[str, ...], now: datetime) -> None:
    signer = load_pem_private_key(at.authority_key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        _builder(subject, authority.subject, key.public_key(), now, LASTS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    # The key first: a chain without its key is made again at the next look, a power cut in between costs nothing.
    _write_key(at.key, key)
    chain = certificate.public_bytes(Encoding.PEM) + authority.public_bytes(Encoding.PEM)
    write_whole(at.chain, chain)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lasts: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - SLACK)
        .not_valid_after(now.astimezone(UTC) - SLACK + lasts)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _permitted(authority: x509.Certificate) -> list[str]:
    try:
        allowed = authority.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
    except x509.ExtensionNotFound:
        return []
    return [each.value for each in allowed or () if isinstance(each, x509.DNSName)]


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise AgentError(f"{path}: {exc}") from exc


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
