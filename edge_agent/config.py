"""Settings of one agent: read once from TOML, refused whole. An unknown key is an error, and one message names all.

A relative path is relative to the configuration file; ${VARIABLES} of the environment are filled in.
"""

from __future__ import annotations

import os
import ssl
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from edge_agent.errors import BadConfig
from models.contract.base import AssetId, DeviceId, Text
from models.contract.signals import Signal, WindowSpec
from models.recordings import RecordingOptions


def _beside_file(path: Path, info: ValidationInfo) -> Path:
    filled = os.path.expandvars(path)
    if "${" in filled:
        raise ValueError(f"{path}: this variable is not set in the environment")
    base: Path = (info.context or {}).get("base", Path())
    return base / filled


FilePath = Annotated[Path, AfterValidator(_beside_file)]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Broker(Settings):
    """Where the fleet's broker listens. TLS: with `ca`, and `certificate` and `key` for a device's own identity."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    username: str | None = None
    password_file: FilePath | None = None
    ca: FilePath | None = None
    certificate: FilePath | None = None
    key: FilePath | None = None
    keepalive_s: Annotated[int, Field(ge=5)] = 30

    def password(self) -> str | None:
        """What the password file holds, without the line's end. Raises BadConfig."""
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as exc:
            raise BadConfig(f"broker.password_file: {exc}") from exc

    def tls(self) -> ssl.SSLContext | None:
        """None: the connection is not encrypted. Raises BadConfig."""
        if self.ca is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as exc:
            raise BadConfig(f"broker.ca, certificate or key: {exc}") from exc
        return context


class Trust(Settings):
    """Whose word counts: the approvers' keys and the server's, as PEM files."""

    approval_keys: tuple[FilePath, ...] = ()
    approval_threshold: Annotated[int, Field(ge=1)] = 1
    server_keys: tuple[FilePath, ...] = ()


class OutboxRoom(Settings):
    """How much is kept while the server can not be reached, in bytes, and for how long, in hours.

    Each class has its own room, so telemetry never pushes out an alarm; annotations are never evicted. Attachments are
    not either: one for which there is no room is not taken, and stays on the phone.
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


class Form(Settings):
    """The agent's own page: alarms and the technician's form. Port 0 takes a free one, -1 switches it off."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=-1, le=65535)] = 8078


class CsvSource(Settings):
    """Recorded files, in the order of their names, read as `RecordingOptions` says. `speed` 0: as fast as it goes."""

    path: FilePath  # a file, or a pattern such as data/*.csv
    speed: Annotated[float, Field(ge=0)] = 0.0
    recording: RecordingOptions = RecordingOptions()
    normal_rows: Annotated[int, Field(ge=0)] | None = None  # at the start of each file; for `evaluate`


class MqttSource(Settings):
    """Blocks of samples as JSON on a plant's broker: {"t": epoch seconds of the first sample, "rate_hz": ...,
    "signals": {name: [...]}}. Without host and port: the fleet's broker."""

    topic: str
    host: str | None = None
    port: int | None = None
    rate_hz: Annotated[float, Field(gt=0)]
    signals: Annotated[tuple[Signal, ...], Field(min_length=1)]


class Asset(Settings):
    """One machine and where its samples come from."""

    id: AssetId
    kind: Text = "machine"
    hall: Annotated[Text, Field(max_length=40)] = ""  # for finding it in the form
    code: Annotated[Text, Field(max_length=12)] = ""  # short, on its plate; empty: five digits made from its id
    source: Literal["csv", "mqtt"]
    csv: CsvSource | None = None
    mqtt: MqttSource | None = None
    window: WindowSpec | None = None  # None: the bundle's; without one there, by the rate
    sample_share: Annotated[float, Field(ge=0, le=1)] = 0.05  # of quiet windows sent with their features
    hard_share: Annotated[float, Field(ge=0, le=1)] = 0.5  # of windows scored close to the threshold

    @model_validator(mode="after")
    def _source_is_there(self) -> Self:
        if getattr(self, self.source) is None:
            raise ValueError(f'source = "{self.source}" needs a table [asset.{self.source}]')
        return self


class Config(Settings):
    device: DeviceId = "local.device"
    state_dir: FilePath = Field(default=Path("agent-state"), validate_default=True)
    baseline: FilePath | None = None  # a bundle to start with instead of the shipped one
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    heartbeat_s: Annotated[float, Field(gt=0)] = 10.0
    broker: Broker | None = None  # None: nothing is sent; everything works on the device alone
    trust: Trust = Trust()
    outbox: OutboxRoom = OutboxRoom()
    form: Form = Form()
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
        mistakes = "\n".join(f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in exc.errors())
        raise BadConfig(f"{path}:\n{mistakes}") from exc
