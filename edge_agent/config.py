"""Settings of one agent: read once from TOML, refused whole. An unknown key is an error, and one message names all.

A relative path is relative to the configuration file; ${VARIABLES} of the environment are filled in.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from edge_agent import sensors
from edge_agent.errors import BadConfig
from edge_agent.sensors.channel import Resample
from edge_agent.settings import Broker as Broker
from edge_agent.settings import FilePath, InputFile, Settings
from models.contract.alarms import Criticality
from models.contract.base import AssetId, DeviceId, SignalName, Text
from models.contract.labels import Severity
from models.contract.signals import WindowSpec
from models.form.signin import OPEN_TO_ALL, is_loopback
from models.webhook import Url


class Trust(Settings):
    """Whose word counts: the approvers' keys and the server's, as PEM files."""

    approval_keys: tuple[InputFile, ...] = ()
    approval_threshold: Annotated[int, Field(ge=1)] = 1
    server_keys: tuple[InputFile, ...] = ()


WhenFull = Literal["drop_oldest", "drop_newest"]


class OutboxRoom(Settings):
    """How much is kept while the server can not be reached, in bytes, and for how long, in hours.

    Each class has its own room, so telemetry never pushes out an alarm; annotations are never evicted. Attachments are
    not either: one for which there is no room is not taken, and stays on the phone.

    total_bytes: of the file with its log; short of them, or of disk, the lowest class gives way first.
    ballast_bytes: a file to throw off when the disk is full, so that there is room to make room. 0: none.
    memory_bytes: what waits for a slow disk, or for one that takes nothing.
    sync: "full": every record survives a power cut; "urgent": alarms and annotations do, the rest survives a killed
        process; "normal": all survive a killed process, a power cut may cost the last seconds.
    key_file: encrypts the records on the disk (AES-256-GCM).
    """

    raw_bytes: int = 64 * 2**20
    telemetry_bytes: int = 128 * 2**20
    health_bytes: int = 16 * 2**20
    alarm_bytes: int = 64 * 2**20
    attachment_bytes: int = 256 * 2**20
    raw_hours: float = 24
    telemetry_hours: float = 24 * 14
    health_hours: float = 24 * 7
    alarm_hours: float = 24 * 365
    raw_when_full: WhenFull = "drop_oldest"
    telemetry_when_full: WhenFull = "drop_oldest"
    health_when_full: WhenFull = "drop_oldest"
    alarm_when_full: WhenFull = "drop_oldest"
    total_bytes: Annotated[int, Field(ge=2**20)] = 768 * 2**20
    ballast_bytes: Annotated[int, Field(ge=0)] = 4 * 2**20
    memory_bytes: Annotated[int, Field(ge=2**16)] = 8 * 2**20
    sync: Literal["full", "urgent", "normal"] = "full"
    key_file: InputFile | None = None


def _no_address(name: str) -> str:
    if name.rsplit(".", 1)[-1].isdigit():
        raise ValueError("a name, not an address: phones keep what waits on them by it, and addresses change")
    return name


DnsName = Annotated[
    str,
    StringConstraints(to_lower=True, pattern=r"^[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?$"),
    AfterValidator(_no_address),
]


class UplinkSettings(Settings):
    """What may be sent, and how eagerly. A budget counts payloads, topics and what MQTT adds, in both directions.

    bytes_per_day, bytes_per_month, kbit_per_s: none by default; `fleet-server command send DEVICE set_budget` says
        otherwise. Raw stops at half of a budget, telemetry at three quarters, health at nearly all; alarms go on.
    telemetry_every_s: telemetry gathers for so long, so that one message and one receipt do for all of it. 0: at once.
    """

    bytes_per_day: Annotated[int, Field(ge=10_000)] | None = None
    bytes_per_month: Annotated[int, Field(ge=100_000)] | None = None
    kbit_per_s: Annotated[float, Field(gt=0)] | None = None
    telemetry_every_s: Annotated[float, Field(ge=0)] = 600.0


class Form(Settings):
    """The agent's own page: alarms and the technician's form. Port 0 takes a free one, -1 switches it off."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=-1, le=65535)] = 8078
    sign_in: Literal["none", "enrolled"] = "none"  # enrolled: by a code of `edge-agent enrol`
    session_days: Annotated[float, Field(gt=0, le=400)] = 30.0
    names: tuple[DnsName, ...] = ()  # that phones use for this device: then its page is HTTPS, see docs/https.md
    help_port: Annotated[int, Field(ge=-1, le=65535)] = 8079  # plain HTTP: brings the certificate to phones; -1: off

    @model_validator(mode="after")
    def _strangers_sign_in(self) -> Self:
        if self.port >= 0 and self.sign_in == "none" and not is_loopback(self.host):
            raise ValueError(OPEN_TO_ALL.format(host=self.host, program="edge-agent"))
        if self.names and self.sign_in == "none":
            raise ValueError(OPEN_TO_ALL.format(host=self.names[0], program="edge-agent"))
        return self


class Log(Settings):
    """Without `file` lines go to standard error, for the journal to keep and to cap."""

    format: Literal["text", "json"] = "text"
    file: FilePath | None = None
    max_bytes: Annotated[int, Field(ge=10_000)] = 10 * 2**20
    keep: Annotated[int, Field(ge=1, le=100)] = 3  # older files


class ModeRule(Settings):
    """What the machine is doing, told by one signal's mean or unrest (standard deviation) over half a window."""

    signal: SignalName
    by: Literal["mean", "unrest"] = "mean"
    off_below: float | None = None
    bands: tuple[float, ...] = ()  # edges between loads, rising; each load has a normal of its own
    learn: Annotated[int, Field(ge=0, le=2000)] = 0  # find them from so many windows instead
    start_up_s: Annotated[float, Field(ge=0)] = 30.0
    settle_s: Annotated[float, Field(ge=0)] = 0.0  # after a change of load
    score: tuple[Literal["off", "start_up", "change"], ...] = ()  # modes that are scored, with alarms, all the same

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        edges = (*(() if self.off_below is None else (self.off_below,)), *self.bands)
        if list(edges) != sorted(set(edges)):
            raise ValueError("off_below and bands must rise")
        if bool(self.learn) == bool(self.bands) and not (self.off_below is not None and not self.learn):
            raise ValueError("give off_below, bands, or learn, the number of windows to find bands from")
        return self


class Asset(sensors.Tables):
    """One machine and where its samples come from: `source = "modbus"` and a table [asset.modbus], and so on."""

    id: AssetId
    kind: Text = "machine"
    hall: Annotated[Text, Field(max_length=40)] = ""  # for finding it in the form
    code: Annotated[Text, Field(max_length=12)] = ""  # short, on its plate; empty: five digits made from its id
    source: str
    resample: Resample | None = None  # onto one grid of instants, where samples are irregular or signals differ in rate
    silent_after_s: Annotated[float, Field(gt=0)] | None = None  # None: three periods of the source
    criticality: Criticality = "normal"  # low, normal or high: how much the site depends on it
    window: WindowSpec | None = None  # None: the bundle's; without one there, by the rate
    mode: ModeRule | None = None  # None: always the same, and always scored
    sample_share: Annotated[float, Field(ge=0, le=1)] = 0.05  # of quiet windows sent with their features
    hard_share: Annotated[float, Field(ge=0, le=1)] = 0.5  # of windows scored close to the threshold

    @model_validator(mode="after")
    def _source_is_there(self) -> Self:
        known = sensors.Tables.model_fields
        if self.source not in known:
            raise ValueError(f'there is no source "{self.source}"; there are {", ".join(known)}')
        if getattr(self, self.source) is None:
            raise ValueError(f'source = "{self.source}" needs a table [asset.{self.source}]')
        return self

    @property
    def settings(self) -> sensors.SourceSettings:
        """The table of its source."""
        table: sensors.SourceSettings = getattr(self, self.source)
        return table


class Alarms(Settings):
    """The life of an alarm. Seconds are of the samples, so a replay at any speed gives the same alarms."""

    hold_s: Annotated[float, Field(ge=0)] = 60.0  # raised again within this is the same alarm, with one more repeat
    min_open_s: Annotated[float, Field(ge=0)] = 0.0  # it stays open for so long at least
    settle_s: Annotated[float, Field(ge=0)] = 600.0  # after maintenance: muted and kept out of training
    suppress_days: Annotated[float, Field(gt=0, le=366)] = 14.0  # a false alarm is quiet for so long,
    suppress_hours: Annotated[float, Field(gt=0)] = 24.0  # and for so many hours of windows in all
    suppressions: Annotated[int, Field(ge=0, le=50)] = 8  # at once on one asset


class Notify(Settings):
    """Who is told of an alarm on the spot, by the device itself: a webhook, or a topic of a plant's broker."""

    webhook: Url | None = None
    secret_file: InputFile | None = None  # signs the webhook's body
    topic: Annotated[str, Field(min_length=1, pattern=r"^[^+#]+$")] | None = None
    broker: Broker | None = None  # of the topic; None: the fleet's
    min_severity: Severity = Severity.MINOR
    cleared: bool = False  # told of the end, too
    per_hour: Annotated[float, Field(gt=0)] = 120.0

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.webhook is None) == (self.topic is None):
            raise ValueError("give either webhook or topic")
        if self.topic and self.secret_file:
            raise ValueError("secret_file goes with webhook")
        return self

    @property
    def where(self) -> str:
        return self.webhook or f"topic {self.topic}"

    def secret(self) -> bytes | None:
        """Raises BadConfig."""
        try:
            return self.secret_file.read_bytes().strip() if self.secret_file else None
        except OSError as exc:
            raise BadConfig(f"notify.secret_file: {exc}") from exc


class Config(Settings):
    device: DeviceId = "local.device"
    state_dir: FilePath = Field(default=Path("agent-state"), validate_default=True)
    baseline: InputFile | None = None  # a bundle to start with instead of the shipped one
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    heartbeat_s: Annotated[float, Field(gt=0)] | None = None  # None: at most every 10 s on a change, else every 30 min
    broker: Broker | None = None  # None: nothing is sent; everything works on the device alone
    trust: Trust = Trust()
    outbox: OutboxRoom = OutboxRoom()
    log: Log = Log()
    uplink: UplinkSettings = UplinkSettings()
    form: Form = Form()
    alarms: Alarms = Alarms()
    notify: tuple[Notify, ...] = ()
    asset: Annotated[tuple[Asset, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _asset_ids_differ(self) -> Self:
        ids = [asset.id for asset in self.asset]
        if len(ids) != len(set(ids)):
            raise ValueError("two assets have the same id")
        return self


def load(path: Path) -> Config:
    """The settings in a TOML file.

    Raises:
        BadConfig: with every mistake in one message.
    """
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return Config.model_validate(raw, context={"base": path.resolve().parent})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise BadConfig(f"{path}: {exc}") from exc
    except ValidationError as exc:
        mistakes = "\n".join(f"  {line}" for line in lines(exc))
        raise BadConfig(f"{path}:\n{mistakes}") from exc


def lines(exc: ValidationError) -> list[str]:
    """Each mistake with its place."""
    return [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in exc.errors()]
