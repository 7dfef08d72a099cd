"""An OPC UA server, by asyncua's own, in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from asyncua import Server, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from cryptography.x509.oid import ExtendedKeyUsageOID

from simulators.embedded.processes import free_port

NAMESPACE = "urn:plant:line1"


class OnlyReader:
    """One user name and its password."""

    def get_user(
        self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None
    ) -> User | None:
        return User(role=UserRole.User) if (username, password) == ("reader", "s3cret") else None


def certificate(folder: Path, name: str, uri: str) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    cert, key = folder / f"{name}.der", folder / f"{name}.pem"
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    asyncio.run(setup_self_signed_certificate(key, cert, uri, "localhost", uses, {"commonName": name}))
    return cert, key


class UaServer:
    """A context manager. Its variables are made at the start: name to first value."""

    def __init__(
        self, variables: dict[str, Any], port: int | None = None, secured: tuple[Path, Path] | None = None
    ) -> None:
        self._wanted, self.port = port, port or free_port()
        self._variables, self._secured = variables, secured

    @property
    def url(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.port}/plant/"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        for more in range(4, -1, -1):
            try:
                self._do(self._start())
                break
            except OSError:  # it takes a while to start, and somebody may have taken the port meanwhile
                if self._wanted or not more:
                    raise
                self.port = free_port()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        if self._loop.is_running():
            self._do(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)

    async def _end(self) -> None:
        """And what the server leaves running: its clock would be waited for, up to a second."""
        internal = self._server.iserver
        if internal.time_task:
            internal.time_task.cancel()
            internal.time_task = None
        await self._server.stop()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def write(self, name: str, value: Any, status: int = 0, stamp: float | None = None) -> None:
        """`stamp`: the source's time, epoch seconds; now."""
        when = datetime.now(UTC) if stamp is None else datetime.fromtimestamp(stamp, UTC)
        data = ua.DataValue(
            ua.Variant(value), ua.StatusCode(status), SourceTimestamp=when, ServerTimestamp=datetime.now(UTC)
        )
        self._do(self._nodes[name].write_value(data))

    def describe(self, name: str, unit: str, low: float, high: float) -> None:
        """Its engineering unit and range, as an analog item has them."""

        async def add() -> None:
            node = self._nodes[name]
            units = ua.EUInformation(DisplayName=ua.LocalizedText(unit))
            await node.add_property(ua.NodeId(f"{name}.unit", 2), ua.QualifiedName("EngineeringUnits", 0), units)
            await node.add_property(ua.NodeId(f"{name}.range", 2), ua.QualifiedName("EURange", 0), ua.Range(low, high))

        self._do(add())

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _start(self) -> None:
        self._server = Server(user_manager=OnlyReader() if self._secured else None)  # type: ignore[arg-type]
        await self._server.init()
        self._server.set_endpoint(self.url)
        if self._secured:
            await self._server.set_application_uri("urn:plant:server")
            self._server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
            self._server.set_identity_tokens([ua.UserNameIdentityToken])
            await self._server.load_certificate(str(self._secured[0]))
            await self._server.load_private_key(str(self._secured[1]))
        index = await self._server.register_namespace(NAMESPACE)
        machine = await self._server.nodes.objects.add_object(index, "Pump1")
        self._nodes = {
            name: await machine.add_variable(ua.NodeId(f"Pump1.{name}", index), name, value)
            for name, value in self._variables.items()
        }
        await self._server.start()
