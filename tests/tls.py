"""A mini CA and a broker that asks for TLS: certificates of any dates and names, made in a moment."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from simulators.embedded.broker import Mosquitto
from simulators.embedded.processes import free_port

DAY = timedelta(days=1)


class Ca:
    """Its certificate is `folder/ca.pem`; those it makes go beside it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self.path = folder / "ca.pem"
        now = datetime.now(UTC)
        made = self._builder(self._name, self._key, now - DAY, now + 365 * DAY)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.path.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def certificate(
        self, name: str, *, since: timedelta = -DAY, until: timedelta = 30 * DAY, address: str = "127.0.0.1"
    ) -> tuple[Path, Path]:
        """Certificate and key, valid from `since` to `until` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._builder(subject, key, now + since, now + until)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        made = made.add_extension(names, critical=False)
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[0].write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return paths

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, since: datetime, until: datetime
    ) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
        return builder.serial_number(x509.random_serial_number()).not_valid_before(since).not_valid_after(until)


class TlsMosquitto(Mosquitto):
    """Plain on `port`, for the tests' own clients, and with TLS on `tls_port`."""

    def __init__(self, home: Path, ca: Ca, certificate: tuple[Path, Path], *lines: str) -> None:
        super().__init__(home)
        self.tls_port = free_port()
        self._lines = (
            f"listener {self.tls_port} 127.0.0.1",
            f"cafile {ca.path}",
            f"certfile {certificate[0]}",
            f"keyfile {certificate[1]}",
            *lines,
        )

    def _program(self) -> list[str]:
        argv = super()._program()
        with (self.home / "mosquitto.conf").open("a", encoding="utf-8") as config:
            config.write("\n".join(self._lines) + "\n")
        return argv
