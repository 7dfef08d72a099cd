"""What every table of settings is made of: an unknown key is an error, a path is relative to the configuration file."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

from edge_agent.errors import BadConfig


def _beside_file(path: Path, info: ValidationInfo) -> Path:
    filled = os.path.expandvars(path)
    if "${" in filled:
        raise ValueError(f"{path}: this variable is not set in the environment")
    base: Path = (info.context or {}).get("base", Path())
    return base / filled


def _is_there(path: Path, info: ValidationInfo) -> Path:
    if (info.context or {}).get("look") and not (path.is_file() and os.access(path, os.R_OK)):
        raise ValueError(f"{path} is not a file that this user can read")
    return path


FilePath = Annotated[Path, AfterValidator(_beside_file)]
InputFile = Annotated[FilePath, AfterValidator(_is_there)]  # must be there; looked for with {"look": True} as context


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Broker(Settings):
    """Where the fleet's broker listens. TLS: with `ca`, and `certificate` and `key` for a device's own identity."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    username: str | None = None
    password_file: InputFile | None = None
    ca: InputFile | None = None
    certificate: InputFile | None = None
    key: InputFile | None = None
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
