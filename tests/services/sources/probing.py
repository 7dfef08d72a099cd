"""`edge-agent probe` as people and scripts call it, and what it has written as the agent would read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_agent import config, sensors
from edge_agent.cli import main
from tests.services.sources.reading import Reading


class Probed:
    """One run: what it lists, and the configuration, which `edge-agent check` has accepted."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        assert main(["probe", *words, "--json", "--write", str(path)]) == 0, capsys.readouterr().err
        said = json.loads(capsys.readouterr().out)
        self.offers: list[dict[str, Any]] = said["offers"]
        self.notes: list[str] = said["notes"]
        assert main(["check", "--config", str(path)]) == 0, capsys.readouterr().out
        assert path.read_text() == said["config"]
        self.assets = config.load(path).asset

    def row(self, **facts: Any) -> dict[str, Any]:
        """The only one with these."""
        (found,) = [row for row in self.offers if facts.items() <= row.items()]
        return found

    def reading(self, i: int = 0) -> Reading:
        """Of the asset, by the configuration as it was written."""
        asset = self.assets[i]
        return Reading(sensors.open_source(asset.id, asset.settings, asset.resample, None))
