"""Sources of samples. A new one is a module or folder here with its settings and its reader, a line in `Tables`, a test
against a real server of its protocol, a page in docs/sources and a configuration in docs/examples."""

from __future__ import annotations

from edge_agent.errors import SourceFailed
from edge_agent.sensors.base import Block as Block
from edge_agent.sensors.base import Source as Source
from edge_agent.sensors.base import SourceSettings as SourceSettings
from edge_agent.sensors.channel import Resample
from edge_agent.sensors.csv import CsvSource
from edge_agent.sensors.lines import LinesSource
from edge_agent.sensors.modbus import ModbusSource
from edge_agent.sensors.mqtt import MqttSource
from edge_agent.sensors.opcua import OpcUaSource
from edge_agent.sensors.resampled import Resampled
from edge_agent.sensors.sparkplug import SparkplugSource
from edge_agent.settings import Broker, Settings


class Tables(Settings):
    """The table of each source, by its name. Third-party packages load when a source is opened, not before."""

    csv: CsvSource | None = None
    lines: LinesSource | None = None
    mqtt: MqttSource | None = None
    sparkplug: SparkplugSource | None = None
    modbus: ModbusSource | None = None
    opcua: OpcUaSource | None = None


def open_source(asset: str, table: SourceSettings, resample: Resample | None, fleet: Broker | None) -> Source:
    """The source of an asset, onto a grid where that was asked for. Raises SourceFailed."""
    source = table.open(asset, fleet)
    if table.on_a_grid:
        if resample is not None:
            raise SourceFailed(f"asset {asset}: its source has a grid of its own, at its rate_hz; leave resample out")
        return source
    reports = [channel.report for channel in getattr(table, "signals", ())]
    if resample is None and any(report.filters for report in reports):
        resample = Resample(rate_hz=source.rate_hz)  # what is left after a report policy is irregular
    return Resampled(source, resample, reports) if resample else source
