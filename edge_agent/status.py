"""What `edge-agent status --json` says, field by field. Fields are added and never renamed. docs/status.md is made
of it: `python -m edge_agent.status` prints that page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.contract.base import ModelRef, TimeQuality
from models.contract.health import AssetHealth, StorageHealth


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Kept(Part):
    """One stream of the outbox."""

    produced: int = Field(description="records made in this epoch")
    waiting: int = Field(description="not confirmed by the server yet")
    waiting_bytes: int = Field(description="what they take on the disk")
    evicted: dict[str, int] = Field(description="given up, by cause: docs/outbox.md")


class Live(Part):
    """What only the running agent knows; the same as `GET /api/status`."""

    device: str = Field(description="its id")
    model: ModelRef = Field(description="the verified model that runs: name, version, sha256")
    step: str = Field(description="of the model switch: docs/model-switch.md")
    switch: dict[str, Any] = Field(description="the fields from `step` to `floor` of `status`")
    connected: bool | None = Field(description="to the fleet's broker; null: none is configured")
    link: str = Field(description="why there is no connection; empty: there is one, or none is wanted")
    budget: float | None = Field(description="share of the uplink's budget of bytes that is used; null: there is none")
    time_quality: TimeQuality = Field(description="what this device's times are worth: docs/operate.md, Clock")
    storage: StorageHealth = Field(description="the outbox's disk: state, reason, bytes free and used, in memory")
    waiting: dict[str, int] = Field(description="records that wait, by stream")
    outbox: dict[str, Kept] = Field(description="by stream, as below")
    assets: dict[str, AssetHealth] = Field(description="by asset: `AssetHealth` in docs/schema.json")
    counters: dict[str, int] = Field(description="whatever was dropped, refused, lost or tried again since the start")
    uptime_s: float = Field(description="since the start, seconds")
    rss_bytes: int = Field(description="memory of the process")


class Status(Part):
    """Of the device, also while the agent is stopped."""

    device: str = Field(description="its id")
    version: str = Field(description="of this program")
    agent: Literal["running", "stopped"] = Field(description="whether an agent holds the state folder")
    page: str | None = Field(description="address of the running agent's page")
    current: str | None = Field(description="SHA-256 of the model that runs; null: it has never started here")
    previous: str | None = Field(description="of the one to go back to")
    step: str = Field(description="of the model switch: docs/model-switch.md")
    reason: str = Field(description="of the last step")
    numbers: str = Field(description="its cause, in words")
    evidence: dict[str, Any] | None = Field(description="the same for programs: `Evidence` in docs/schema.json")
    report: dict[str, Any] | None = Field(description="the last trial: `TrialReport` in docs/schema.json")
    problem: str = Field(description="what keeps the model from being what it should be; empty: nothing")
    denied: int = Field(description="models that this device does not take again")
    floor: int = Field(description="no version below may run")
    assignment: int = Field(description="sequence number of the server's last order")
    waiting: dict[str, int] = Field(description="records that wait for the server, by stream")
    live: Live | None = Field(
        description="what only the running agent knows; null: it does not run, or does not answer"
    )


def as_table() -> str:
    """docs/status.md."""
    lines = [
        "# `edge-agent status --json`",
        "",
        "Fields are added and never renamed. Made by `python -m edge_agent.status > docs/status.md`.",
    ]
    titles: dict[type[Part], str] = {
        Status: "Always",
        Live: "`live`, and `GET /api/status` of the page",
        Kept: "`live.outbox.STREAM`",
    }
    for part, title in titles.items():
        lines += ["", f"## {title}", "", "| field | type | meaning |", "|---|---|---|", *_rows(part)]
    return "\n".join(lines) + "\n"


def _rows(part: type[Part]) -> Iterator[str]:
    for name, field in part.model_json_schema()["properties"].items():
        yield f"| `{name}` | {_type(field)} | {field['description']} |"


def _type(field: dict[str, Any]) -> str:
    """A JSON schema's type in words."""
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if of := field.get("anyOf"):
        return " or ".join(map(_type, of))
    if of := field.get("enum"):
        return " or ".join(f'"{word}"' for word in of)
    of = field.get("additionalProperties")
    return f"object of {_type(of)}" if isinstance(of, dict) else str(field["type"])


if __name__ == "__main__":
    print(as_table(), end="")
