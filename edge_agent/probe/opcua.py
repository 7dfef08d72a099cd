"""The variables of an OPC UA server: what they are called, their type, unit, range and status."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from edge_agent.errors import SourceFailed
from edge_agent.probe.offer import Found, Offer, names_for
from edge_agent.sensors.base import library
from edge_agent.sensors.opcua import Item, OpcUaSource, connect

_NUMBERS: Final = frozenset(
    ["Boolean", "SByte", "Byte", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float", "Double"]
)
_SERVER: Final = "i=2253"  # its own diagnostics


def probe(table: dict[str, Any], most: int = 500, asset: str = "machine") -> Offer:
    """Walks down from the Objects folder. `table`: url, and how to sign in, as in [asset.opcua].

    Raises:
        SourceFailed: no session.
    """
    settings = OpcUaSource.model_validate({**table, "signals": [Item(name="probe", node="i=2258")]})
    settings.open(asset, None)  # says what is missing
    errors = library("asyncua.ua.uaerrors", "opcua")
    try:
        rows, more = asyncio.run(_walk(settings, most))
    except (errors.UaError, OSError, TimeoutError, EOFError) as exc:
        raise SourceFailed(f"{settings.url}: {type(exc).__name__}: {exc}") from exc
    usable = [row for row in rows if row["type"] in _NUMBERS and not row["array"]]
    signals = []
    for row, name in zip(usable, names_for(row["path"].replace("/", ".") for row in usable), strict=True):
        signal = {"name": name, "unit": row["unit"], "node": row["node"], "low": row["low"], "high": row["high"]}
        signals.append({key: value for key, value in signal.items() if value not in (None, "")})
    notes = [f"the first {most} variables; --most reads on"] if more else []
    written = {key: value for key, value in table.items() if value is not None}
    found = [Found(asset, "opcua", {**written, "rate_hz": 1.0, "signals": signals})] if signals else []
    return Offer(("path", "node", "type", "unit", "value", "status"), rows, found, notes)


async def _walk(settings: OpcUaSource, most: int) -> tuple[list[dict[str, Any]], bool]:
    """Of each variable; and whether there are more."""
    ua: Any = library("asyncua.ua", "opcua")
    client = await connect(settings)
    try:
        spaces = await client.get_namespace_array()
        waiting = deque([(client.nodes.objects, "")])
        seen: set[Any] = set()
        rows: list[dict[str, Any]] = []
        while waiting:
            node, path = waiting.popleft()
            for child in await node.get_children_descriptions(refs=ua.ObjectIds.HierarchicalReferences):
                node_id = child.NodeId
                if node_id in seen or node_id.to_string() == _SERVER or child.ReferenceTypeId.Identifier == _PROPERTY:
                    continue
                seen.add(node_id)
                below = f"{path}/{child.BrowseName.Name}".lstrip("/")
                if child.NodeClass == ua.NodeClass.Variable:
                    if len(rows) >= most:
                        return rows, True
                    rows.append(await _variable(client, ua, node_id, below, spaces))
                elif child.NodeClass != ua.NodeClass.Object:
                    continue
                waiting.append((client.get_node(node_id), below))
        return rows, False
    finally:
        await client.disconnect()


_PROPERTY: Final = 46  # HasProperty


async def _variable(client: Any, ua: Any, node_id: Any, path: str, spaces: list[str]) -> dict[str, Any]:
    node = client.get_node(node_id)
    text = node_id.to_string()
    if node_id.NamespaceIndex:
        text = f"nsu={spaces[node_id.NamespaceIndex]};{text.partition(';')[2]}"
    row: dict[str, Any] = {"path": path, "node": text, "type": None, "array": False, "value": None}
    row |= {"unit": None, "low": None, "high": None, "status": "Good"}
    try:
        data = await node.read_data_value(raise_on_bad_status=False)
        row["status"] = ua.StatusCode(data.StatusCode.value).name if data.StatusCode else "Good"
        if data.Value is not None:
            row["type"], row["array"] = data.Value.VariantType.name, bool(data.Value.is_array)
            value = data.Value.Value
            row["value"] = value if isinstance(value, bool | int | float | str) else value and str(value)
        for each in await node.get_properties():
            name = (await each.read_browse_name()).Name
            if name == "EngineeringUnits":
                row["unit"] = ((await each.read_value()).DisplayName.Text or "")[:20] or None
            elif name == "EURange":
                reach = await each.read_value()
                row["low"], row["high"] = float(reach.Low), float(reach.High)
    except ua.UaError as exc:  # this one may not be read: it is shown, with why
        row["status"] = type(exc).__name__
    return row
