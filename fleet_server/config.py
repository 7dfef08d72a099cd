"""Settings of the server: read once from TOML, refused whole; paths are relative to the file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from fleet_server.errors import BadConfig
from models.contract.release import ShadowLimits, TrialLimits
from models.form.signin import OPEN_TO_ALL, is_loopback
from models.webhook import Url


def _beside_file(path: Path, info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get("base", Path())
    return path if path.is_absolute() else base / path


FilePath = Annotated[Path, AfterValidator(_beside_file)]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Broker(Settings):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    username: str | None = None
    password_file: FilePath | None = None
    ca: FilePath | None = None
    certificate: FilePath | None = None
    key: FilePath | None = None
    client_id: str = "fleet-server"
    keepalive_s: Annotated[int, Field(ge=5)] = 30


class Keys(Settings):
    """`server` signs receipts and assignments and is here; `approval` are the public keys of those who approve, whose
    private halves are not."""

    server: FilePath
    approval: tuple[FilePath, ...] = ()
    approval_threshold: Annotated[int, Field(ge=1)] = 1


class Web(Settings):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8077


class Form(Settings):
    """Who may use the technician's form, and the pages."""

    sign_in: Literal["none", "enrolled"] = "none"  # enrolled: by a code of `fleet-server enrol`
    session_days: Annotated[float, Field(gt=0, le=400)] = 30.0
    work_orders_token_file: FilePath | None = None  # what POST /api/work-orders must bring where people sign in

    def work_orders_token(self) -> str | None:
        """Raises BadConfig."""
        if self.work_orders_token_file is None:
            return None
        try:
            return self.work_orders_token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise BadConfig(f"form.work_orders_token_file: {exc}") from exc


class Retrain(Settings):
    """When a retraining starts by itself: "auto" starts it, "ask" only proposes it."""

    mode: Literal["auto", "ask", "off"] = "auto"
    model: str = "pump"  # the model line, also the asset kind it is trained for
    min_new_labels: Annotated[int, Field(ge=1)] = 20
    min_reference: Annotated[int, Field(ge=10)] = 100
    cool_down_s: Annotated[float, Field(ge=0)] = 3600.0
    check_every_s: Annotated[float, Field(gt=0)] = 10.0


class Rollouts(Settings):
    """What a wave must show before the next one starts, and what stops it."""

    max_harm_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of attempted devices that rejected or reverted
    soak_s: Annotated[float, Field(ge=0)] = 60.0  # after a wave is verified, before the next
    deadline_s: Annotated[float, Field(gt=0)] = 86400.0  # a device that has not answered by then is counted apart
    poll_s: Annotated[float, Field(gt=0)] = 1.0
    trial: TrialLimits = TrialLimits()
    shadow: ShadowLimits = ShadowLimits()
    fetch_seconds: Annotated[float, Field(gt=0)] = 7 * 86400.0  # of a device's running time: then it gives up


class Escalation(Settings):
    """One step: what nobody has acknowledged for so long goes up a level, and is told again."""

    after_min: Annotated[float, Field(gt=0)]
    webhook: Url | None = None  # instead of the one for all


class Alarms(Settings):
    """Who is told of what nobody acknowledged."""

    escalate: Annotated[tuple[Escalation, ...], Field(max_length=9)] = (
        Escalation(after_min=60),
        Escalation(after_min=240),
    )
    webhook: Url | None = None
    webhook_secret_file: FilePath | None = None  # what is posted is signed with it

    @model_validator(mode="after")
    def _steps_rise(self) -> Self:
        times = [step.after_min for step in self.escalate]
        if times != sorted(times):
            raise ValueError("alarms.escalate: each step comes later than the one before")
        return self

    def secret(self) -> bytes | None:
        """Raises BadConfig."""
        if self.webhook_secret_file is None:
            return None
        try:
            return self.webhook_secret_file.read_bytes().strip()
        except OSError as exc:
            raise BadConfig(f"alarms.webhook_secret_file: {exc}") from exc


class Config(Settings):
    database: str  # a libpq connection string or URI
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    broker: Broker = Broker()
    keys: Keys
    web: Web = Web()
    form: Form = Form()
    retrain: Retrain = Retrain()
    rollouts: Rollouts = Rollouts()
    alarms: Alarms = Alarms()

    @model_validator(mode="after")
    def _strangers_sign_in(self) -> Self:
        if self.form.sign_in == "none" and not is_loopback(self.web.host):
            raise ValueError(OPEN_TO_ALL.format(host=self.web.host, program="fleet-server"))
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
