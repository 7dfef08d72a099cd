"""What is said on a plant's broker: topics with the places in their JSON, and the metrics of Sparkplug B nodes."""

from __future__ import annotations

import math
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import paho.mqtt.client as mqtt

from edge_agent.errors import SourceFailed
from edge_agent.probe.offer import Found, Offer, asset_id, names_for
from edge_agent.sensors.base import Block, LineLost
from edge_agent.sensors.mapping import instant, number, path_of, steps
from edge_agent.sensors.plant_broker import Message, PlantLine
from edge_agent.sensors.sparkplug import NAMESPACE
from edge_agent.sensors.sparkplug.payload import TYPES, Payload, read, rebirth
from edge_agent.settings import Broker
from models.contract.codec import parse_json
from models.recordings import epoch_unit

MOST_TOPICS: Final = 2000
MOST_PATHS: Final = 200  # of one topic
MOST_ASSETS: Final = 20
_TIME: Final = re.compile(r"(^|[^a-z])(t|ts|time|timestamp|date|datetime|utc)$", re.IGNORECASE)
_HOUSEKEEPING: Final = re.compile(r"^(bdSeq$|Node Control/|Device Control/|Properties/|Node Info/)")


class Listener(PlantLine):
    """Hears for a while; nothing is queued."""

    def __init__(self, broker: Broker, topic: str) -> None:
        super().__init__("probe", (), 1.0)
        self.aim(broker)
        self._topic = topic

    @property
    def topics(self) -> tuple[str, ...]:
        return (self._topic,)

    def put(self, item: Message) -> None:
        try:
            self.hear(item)
        except (ValueError, KeyError, TypeError, OverflowError) as exc:
            self.unread(exc)

    def hear(self, message: Message) -> None:
        raise NotImplementedError

    def decode(self, item: Any) -> Iterator[Block]:
        return iter(())

    def listen(self, seconds: float) -> None:
        """Raises SourceFailed: the broker can not be reached, or refuses, or the line was lost."""
        timer = threading.Timer(seconds, self.stop)
        timer.start()
        try:
            self.session()
        except (LineLost, OSError) as exc:
            raise SourceFailed(f"{self._broker.host}:{self._broker.port}: {exc}") from exc
        finally:
            timer.cancel()


@dataclass
class Topic:
    """What came on one topic."""

    messages: int = 0
    retained: int = 0
    unreadable: int = 0
    block: dict[str, Any] | None = None  # a block of samples in our own form
    places: dict[str, Any] = field(default_factory=dict)  # path: the newest value


class Topics(Listener):
    def __init__(self, broker: Broker, topic: str) -> None:
        super().__init__(broker, topic)
        self.heard: dict[str, Topic] = {}

    def hear(self, message: Message) -> None:
        if message.topic not in self.heard and len(self.heard) >= MOST_TOPICS:
            self.counts["topics_left_out"] += 1
            return
        topic = self.heard.setdefault(message.topic, Topic())
        topic.messages += 1
        topic.retained += message.retained
        try:
            body = parse_json(message.payload)
        except ValueError:
            topic.unreadable += 1
            return
        if _is_block(body):
            topic.block = body
            return
        for way, value in leaves(body, ()):
            path = path_of(way)
            if path in topic.places or len(topic.places) < MOST_PATHS:
                topic.places[path] = value


def topics(broker: Broker, written: dict[str, Any], topic: str, seconds: float, asset: str | None = None) -> Offer:
    """Everything under a topic filter, for so long. `written`: the broker as the configuration has it.

    Raises:
        SourceFailed
    """
    listener = Topics(broker, topic)
    listener.listen(seconds)
    rows: list[dict[str, Any]] = []
    groups: defaultdict[str, list[tuple[str, str, str]]] = defaultdict(list)  # name, topic, path, by what goes together
    times: dict[str, str] = {}
    blocks: list[Found] = []
    for name, heard in sorted(listener.heard.items()):
        facts = {"topic": name, "messages": heard.messages, "retained": heard.retained}
        if heard.block:
            signals = heard.block["signals"]
            rate_hz = float(heard.block.get("rate_hz", 1.0))
            rows += [facts | {"path": f"a block's {s}", "value": (v or [None])[0]} for s, v in signals.items()]
            table = written | {"topic": name, "rate_hz": rate_hz, "signals": [{"name": s} for s in signals]}
            blocks.append(Found(asset_id(name), "mqtt", table))
            continue
        if heard.unreadable == heard.messages:
            rows.append(facts | {"path": None, "value": "no JSON"})
        for path, value in heard.places.items():
            rows.append(facts | {"path": path, "value": value})
            if looks_like_a_time(path, value):
                times.setdefault(name, path)
            elif looks_like_a_value(value):
                parent, _, leaf = name.rpartition("/")
                alone = path == "$"
                groups[parent if alone and parent else name].append(
                    (leaf if alone else ".".join(map(str, steps(path))), name, path)
                )
    found = [_samples(key, signals, times, listener.heard, written, seconds) for key, signals in groups.items()]
    assets = (blocks + found)[:MOST_ASSETS]
    if asset and len(assets) == 1:
        assets = [assets[0]._replace(asset=asset)]
    notes = [
        f"{sum(t.messages for t in listener.heard.values())} messages on {len(listener.heard)} topics in {seconds:g} s"
    ]
    if n := len(blocks) + len(found) - len(assets):
        notes.append(
            f"a configuration would have the first {MOST_ASSETS} assets, and leave out {n}: give a narrower topic"
        )
    if n := listener.counts["topics_left_out"]:
        notes.append(f"{n} messages on more than {MOST_TOPICS} topics were left out: give a narrower topic")
    return Offer(("topic", "messages", "retained", "path", "value"), rows, assets, notes)


def _samples(
    key: str,
    signals: list[tuple[str, str, str]],
    times: dict[str, str],
    heard: dict[str, Topic],
    written: dict[str, Any],
    seconds: float,
) -> Found:
    """Signals that go together, as single samples. Their time counts only where all of them have it at one place."""
    own = Counter(topic for _, topic, _ in signals)
    main = own.most_common(1)[0][0]
    fresh = max(heard[topic].messages - heard[topic].retained for topic in own)
    table: dict[str, Any] = written | {"topic": main, "rate_hz": round_rate(fresh / seconds)}
    paths = {times.get(topic) for topic in own}
    if len(paths) == 1 and (path := paths.pop()):
        table["time"] = path
    table["signals"] = [
        {"name": name, "value": path} | ({} if topic == main else {"topic": topic})
        for name, (_, topic, path) in zip(names_for(s[0] for s in signals), signals, strict=True)
    ]
    return Found(asset_id(key), "mqtt", table)


def _is_block(body: Any) -> bool:
    signals = body.get("signals") if isinstance(body, dict) else None
    return isinstance(signals, dict) and "t" in body and all(isinstance(v, list) for v in signals.values())


def leaves(here: Any, way: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Everything that holds nothing further; of a long list the first ones."""
    if isinstance(here, dict):
        for name, value in here.items():
            if name and not ('"' in name and "'" in name):
                yield from leaves(value, (*way, name))
    elif isinstance(here, list):
        for i, value in enumerate(here[:MOST_PATHS]):
            yield from leaves(value, (*way, i))
    else:
        yield way, here


def looks_like_a_value(value: Any) -> bool:
    try:
        return math.isfinite(number(value))
    except ValueError:
        return False


def looks_like_a_time(path: str, value: Any) -> bool:
    """By its name, and a time of our day."""
    try:
        stamp = instant(value, None)
    except ValueError:
        return False
    return bool(_TIME.search(path)) and epoch_unit(stamp) == "s"


def round_rate(rate_hz: float) -> float:
    """One digit; a grid that is a little too fast holds the last value, one too slow loses some."""
    if rate_hz <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(rate_hz))
    return float(f"{math.ceil(rate_hz / scale - 0.05) * scale:.6g}")


class Nodes(Listener):
    """Sparkplug B. Asks each node that talks without having been born here for its births, once."""

    def __init__(self, broker: Broker, group: str | None, node: str | None, *, ask: bool) -> None:
        super().__init__(broker, f"{NAMESPACE}/{group or '+'}/+/{node or '+'}/#")
        self._group, self._node, self._ask = group, node, ask
        self._asked: set[tuple[str, str]] = set()
        self.metrics: dict[tuple[str, str, str, str], dict[str, Any]] = {}
        self._aliases: dict[tuple[str, str, str, int], str] = {}

    def greet(self, client: mqtt.Client) -> None:
        if self._group and self._node:
            self._ask_for_births(self._group, self._node)

    def hear(self, message: Message) -> None:
        _, group, kind, node, *rest = message.topic.split("/")
        device = rest[0] if rest else ""
        if kind in ("NBIRTH", "DBIRTH"):
            self._asked.add((group, node))
            self._take(group, node, device, read(message.payload), birth=True)
        elif kind in ("NDATA", "DDATA"):
            if not any(key[:2] == (group, node) for key in self.metrics):
                self._ask_for_births(group, node)
            self._take(group, node, device, read(message.payload), birth=False)

    def _ask_for_births(self, group: str, node: str) -> None:
        if self._ask and (group, node) not in self._asked:
            self._asked.add((group, node))
            self.counts["asked"] += 1
            self.publish(f"{NAMESPACE}/{group}/NCMD/{node}", rebirth(time.time()))

    def _take(self, group: str, node: str, device: str, payload: Payload, *, birth: bool) -> None:
        for metric in payload.metrics:
            name = metric.name
            if not name and metric.alias is not None:
                name = self._aliases.get((group, node, device, metric.alias), "")
            known = self.metrics.get((group, node, device, name))
            if birth and name:
                known = {"alias": metric.alias, "code": metric.datatype, "unit": metric.unit or None, "changes": 0}
                self.metrics[group, node, device, name] = known
                if metric.alias is not None:
                    self._aliases[group, node, device, metric.alias] = name
            if known:
                known["changes"] += not birth
                known["value"] = None if metric.raw is None else metric.value(known["code"])
                known["quality"] = metric.quality.name.lower()


def nodes(
    broker: Broker, written: dict[str, Any], seconds: float, group: str | None, node: str | None, *, ask: bool
) -> Offer:
    """Nodes, devices and their metrics, by their births. Raises SourceFailed."""
    listener = Nodes(broker, group, node, ask=ask)
    listener.listen(seconds)
    rows: list[dict[str, Any]] = []
    by_device: defaultdict[tuple[str, str, str], list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for (of_group, of_node, device, name), facts in sorted(listener.metrics.items()):
        kind = TYPES.get(facts["code"], str(facts["code"]))
        rows.append(
            {"group": of_group, "node": of_node, "device": device or None, "metric": name, "type": kind} | facts
        )
        if facts["value"] is not None and not _HOUSEKEEPING.match(name):
            by_device[of_group, of_node, device].append((name, facts))
    assets = []
    for (of_group, of_node, device), metrics in list(by_device.items())[:MOST_ASSETS]:
        table: dict[str, Any] = written | {"group": of_group, "node": of_node}
        if device:
            table["device"] = device
        names = names_for(name.replace("/", ".") for name, _ in metrics)
        table |= {"rate_hz": 1.0, "signals": []}
        for name, (metric, facts) in zip(names, metrics, strict=True):
            unit = {"unit": facts["unit"][:20]} if facts["unit"] else {}
            table["signals"].append({"name": name, **unit, "metric": metric})
        assets.append(Found(asset_id("-".join(filter(None, (of_group, of_node, device)))), "sparkplug", table))
    births = len({key[:2] for key in listener.metrics})
    notes = [f"births of {births} nodes in {seconds:g} s, {listener.counts['asked']} asked for"]
    if not births:
        notes.append("a node that says nothing is heard only if it is asked: give --group and --node, or listen longer")
    columns = ("group", "node", "device", "metric", "alias", "type", "unit", "value", "quality", "changes")
    return Offer(columns, rows, assets, notes)
