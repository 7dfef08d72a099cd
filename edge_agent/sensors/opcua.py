"""OPC UA: monitored items of a subscription; status codes as quality, the server's own time stamps."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from edge_agent.errors import SourceFailed
from edge_agent.sensors.base import Block, LineLost, SourceSettings, library
from edge_agent.sensors.channel import Channel, Report
from edge_agent.sensors.resampled import JoinedSource
from edge_agent.settings import Broker, FilePath, Settings
from models.contract.signals import Quality

log = logging.getLogger(__name__)

GATHER_S: Final = 0.05  # notifications of so long are handed over together
OVERFLOW: Final = 0x480  # DataValue info bits: the server's queue was full, samples were lost (part 4, 7.39)
POLICIES: Final = {
    "Basic256Sha256": "SecurityPolicyBasic256Sha256",
    "Aes128_Sha256_RsaOaep": "SecurityPolicyAes128Sha256RsaOaep",
    "Aes256_Sha256_RsaPss": "SecurityPolicyAes256Sha256RsaPss",
}


class Security(Settings):
    """Certificates of application instances. The server's is pinned: what it shows on the line must be this one."""

    policy: Literal["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"] = "Basic256Sha256"
    mode: Literal["sign", "sign_and_encrypt"] = "sign_and_encrypt"
    certificate: FilePath  # this agent's, PEM or DER; its subjectAltName holds the application URI
    key: FilePath
    server_certificate: FilePath


class Item(Channel):
    """One variable. The server sends changes, so the last value holds for as long as the line does."""

    node: str  # "ns=2;s=Pump1.Speed", or by the namespace's own name: "nsu=urn:plant:line1;s=Pump1.Speed"
    report: Report = Report(on="change")
    stamp: Literal["source", "server"] = "source"  # whose time counts; the other's where it is missing


class OpcUaSource(SourceSettings):
    """A server's variables, sampled every `sampling_s` and sent every `publishing_s`; on a grid of `rate_hz`."""

    url: Annotated[str, Field(pattern=r"^opc\.tcp://")]
    rate_hz: Annotated[float, Field(gt=0, le=1000)] = 1.0
    sampling_s: Annotated[float, Field(ge=0)] | None = None  # None: the grid's step
    publishing_s: Annotated[float, Field(gt=0)] = 0.5
    queue_size: Annotated[int, Field(ge=1, le=100_000)] | None = None  # per item; None: four publishings' worth
    wait_s: Annotated[float, Field(gt=0)] | None = None  # a change may come so late; None: three publishings
    timeout_s: Annotated[float, Field(gt=0)] = 4.0
    username: str | None = None
    password_file: FilePath | None = None
    user_certificate: FilePath | None = None  # instead of a user name
    user_key: FilePath | None = None
    security: Security | None = None
    signals: Annotated[tuple[Item, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_way_to_sign_in(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file go together")
        if (self.user_certificate is None) != (self.user_key is None):
            raise ValueError("user_certificate and user_key go together")
        if self.username is not None and self.user_certificate is not None:
            raise ValueError("give a username or a user_certificate, not both")
        return self

    @property
    def on_a_grid(self) -> bool:
        return True

    @property
    def sampling(self) -> float:
        return 1 / self.rate_hz if self.sampling_s is None else self.sampling_s

    def open(self, asset: str, fleet: Broker | None) -> OpcUa:
        library("asyncua", "opcua")
        secret = (self.password_file, self.user_certificate, self.user_key)
        own = (self.security.certificate, self.security.key, self.security.server_certificate) if self.security else ()
        for path in (*secret, *own):
            if path is not None and not path.is_file():
                raise SourceFailed(f"asset {asset}: there is no file {path}")
        return OpcUa(self, asset)


class Change(NamedTuple):
    """One notification."""

    signal: int
    value: float
    quality: Quality
    stamp: float  # epoch seconds


class OpcUa(JoinedSource):
    """Subscribes anew on each connection. Counts `opcua_uncertain`, `opcua_bad`, `opcua_overflow`, `opcua_refused`."""

    def __init__(self, settings: OpcUaSource, asset: str) -> None:
        wait_s = settings.wait_s or 3 * settings.publishing_s
        super().__init__(asset, settings.signals, settings.rate_hz, 1 / settings.rate_hz, wait_s)
        self.period_s = max(1 / settings.rate_hz, settings.publishing_s)
        self._settings = settings

    def session(self) -> None:
        ua_errors = library("asyncua.ua.uaerrors", "opcua")
        try:
            asyncio.run(self._session())
        except (ua_errors.UaError, TimeoutError, EOFError) as exc:
            raise LineLost(f"{type(exc).__name__}: {exc}") from exc

    def decode(self, item: Any) -> Iterator[Block]:
        changes: list[Change] = item
        by_signal: defaultdict[int, list[Change]] = defaultdict(list)
        for change in changes:
            by_signal[change.signal].append(change)
        for i, own in by_signal.items():
            self.joiner.add(
                i,
                np.array([c.stamp for c in own]),
                np.array([c.value for c in own]),
                np.array([c.quality for c in own], np.uint8),
            )
        self.joiner.heard(max(c.stamp for c in changes))
        yield from self.joiner.take()

    async def _session(self) -> None:
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def on_loss(exc: Exception) -> None:
            if not lost.done():
                lost.set_result(str(exc) or type(exc).__name__)

        client = await connect(self._settings)
        client.connection_lost_callback = on_loss
        inbox = _Inbox(lost)
        try:
            subscription = await client.create_subscription(self._settings.publishing_s * 1000, inbox)
            await self._subscribe(client, subscription)
            self.up()
            seen: set[int] = set()
            while not self.stopping:
                await asyncio.wait([lost], timeout=GATHER_S)
                if changes := [self._change(item, seen) for item in inbox.take()]:
                    self.put(changes)
                if lost.done():
                    raise LineLost(lost.result())
        finally:
            await _leave(client)

    async def _subscribe(self, client: Any, subscription: Any) -> None:
        """One monitored item a signal, whose client handle is the signal's position."""
        ua: Any = library("asyncua.ua", "opcua")
        for i, item in enumerate(self._settings.signals):
            try:
                request = self._request(ua, (await resolve(client, item.node)).nodeid, i)
                (result,) = await subscription.create_monitored_items([request])
                if isinstance(result, ua.StatusCode) and request.RequestedParameters.Filter is not None:
                    request.RequestedParameters.Filter = None  # not every server knows dead bands: ours does
                    (result,) = await subscription.create_monitored_items([request])
                refusal = result.name if isinstance(result, ua.StatusCode) else None
            except (ua.UaError, ValueError) as exc:
                refusal = f"{type(exc).__name__}: {exc}"
            if refusal:
                self.counts["opcua_refused"] += 1
                log.warning("node refused", extra={"asset": self.asset, "node": item.node, "reason": refusal[:200]})
                self.put([Change(i, math.nan, Quality.BAD, time.time())])

    def _request(self, ua: Any, node_id: Any, i: int) -> Any:
        settings, item = self._settings, self._settings.signals[i]
        size = settings.queue_size or 1 + math.ceil(4 * settings.publishing_s / max(settings.sampling, 0.001))
        parameters = ua.MonitoringParameters(
            ClientHandle=i, SamplingInterval=settings.sampling * 1000, QueueSize=size, DiscardOldest=True
        )
        if item.report.on == "change" and item.report.dead_band:  # the server need not send what is no news
            parameters.Filter = ua.DataChangeFilter(
                Trigger=ua.DataChangeTrigger.StatusValue,
                DeadbandType=ua.DeadbandType.Absolute,
                DeadbandValue=item.report.dead_band,
            )
        return ua.MonitoredItemCreateRequest(
            ItemToMonitor=ua.ReadValueId(NodeId=node_id, AttributeId=ua.AttributeIds.Value),
            MonitoringMode=ua.MonitoringMode.Reporting,
            RequestedParameters=parameters,
        )

    def _change(self, item: Any, seen: set[int]) -> Change:
        i, data = item.ClientHandle, item.Value
        code = data.StatusCode.value if data.StatusCode is not None else 0
        quality = (Quality.GOOD, Quality.UNCERTAIN, Quality.BAD, Quality.BAD)[code >> 30]
        try:
            value = float(data.Value.Value)
        except (AttributeError, TypeError, ValueError):  # nothing, text, an array
            value, quality = math.nan, Quality.BAD
        if quality is not Quality.GOOD:
            self.counts["opcua_bad" if quality is Quality.BAD else "opcua_uncertain"] += 1
        if code & OVERFLOW == OVERFLOW:
            self.counts["opcua_overflow"] += 1
        stamps = [data.SourceTimestamp, data.ServerTimestamp]
        if self._settings.signals[i].stamp == "server":
            stamps.reverse()
        stamp = next((s.timestamp() for s in stamps if s is not None), time.time())
        first = i not in seen
        seen.add(i)
        if first and data.ServerTimestamp is not None:  # it may have stood there for days, and it stands there now
            stamp = max(stamp, data.ServerTimestamp.timestamp())
        return Change(i, value, quality, stamp)


async def connect(settings: OpcUaSource) -> Any:
    """A client with a session. Raises LineLost, SourceFailed, UaError, OSError, TimeoutError."""
    asyncua: Any = library("asyncua", "opcua")
    client = asyncua.Client(settings.url, timeout=settings.timeout_s)
    client.name = client.description = "edge-agent"
    client.session_timeout = 60_000
    if security := settings.security:
        policies: Any = library("asyncua.crypto.security_policies", "opcua")
        modes = library("asyncua.ua", "opcua").MessageSecurityMode
        mode = modes.Sign if security.mode == "sign" else modes.SignAndEncrypt
        client.application_uri = _application_uri(security.certificate) or client.application_uri
        try:
            await client.set_security(
                getattr(policies, POLICIES[security.policy]),
                security.certificate,
                security.key,
                server_certificate=str(security.server_certificate),
                mode=mode,
            )
        except (OSError, ValueError) as exc:
            raise SourceFailed(f"opcua security: {exc}") from exc
    if settings.username is not None and settings.password_file is not None:
        client.set_user(settings.username)
        client.set_password(_secret(settings.password_file))
    if settings.user_certificate is not None:
        await client.load_client_certificate(str(settings.user_certificate))
        await client.load_private_key(str(settings.user_key))
    try:
        await client.connect()
    except BaseException:
        await _leave(client)
        raise
    return client


async def resolve(client: Any, node: str) -> Any:
    """A node by its id; a namespace by its name is looked up, for a server may number them otherwise each time."""
    if node.startswith("nsu="):
        uri, _, rest = node.removeprefix("nsu=").partition(";")
        node = f"ns={await client.get_namespace_index(uri)};{rest}"
    return client.get_node(node)


class _Inbox:
    """What the subscription calls, on the session's loop."""

    def __init__(self, lost: asyncio.Future[str]) -> None:
        self._lost = lost
        self._items: list[Any] = []

    def datachange_notification(self, _node: Any, _value: Any, data: Any) -> None:
        self._items.append(data.monitored_item)

    def status_change_notification(self, status: Any) -> None:
        if not self._lost.done():
            self._lost.set_result(f"the server has ended the subscription: {status}"[:200])

    def take(self) -> list[Any]:
        items, self._items = self._items, []
        return items


def _application_uri(certificate: Path) -> str | None:
    """What a certificate says its application is called. Raises SourceFailed."""
    from cryptography import x509

    try:
        raw = certificate.read_bytes()
        pem = raw.lstrip().startswith(b"-----BEGIN")
        loaded = x509.load_pem_x509_certificate(raw) if pem else x509.load_der_x509_certificate(raw)
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), None)
    except (OSError, ValueError) as exc:
        raise SourceFailed(f"opcua security: {certificate}: {exc}") from exc
    except x509.ExtensionNotFound:
        return None


def _secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise SourceFailed(f"opcua password_file: {exc}") from exc


async def _leave(client: Any) -> None:
    """Whatever state it is in."""
    try:
        await asyncio.wait_for(client.disconnect(), 2.0)
    except Exception as exc:  # the line may be gone in any way
        log.debug("opcua disconnect", extra={"reason": str(exc)})
