"""What a host knows of one edge node: births, deaths, sequence, aliases (Eclipse Sparkplug 3.0, chapter 5). Pure.

The rules:

1. Only a birth gives metrics their names, aliases and types; a metric of no known alias asks for a rebirth.
2. Each message of a node is numbered, 0 to 255 and around; a number left out is a message lost: what was known is
   stale, and a rebirth is asked for. The same number again is the same message again.
3. A death counts only for the birth whose bdSeq it names: a late will of an earlier connection says nothing.
4. The death of a node is that of its devices.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from edge_agent.sensors.sparkplug.payload import Metric, Payload


class Kind(StrEnum):
    NBIRTH = "NBIRTH"
    NDEATH = "NDEATH"
    NDATA = "NDATA"
    DBIRTH = "DBIRTH"
    DDEATH = "DDEATH"
    DDATA = "DDATA"


class Known(NamedTuple):
    """What a birth said of a metric."""

    device: str  # "" is the node itself
    name: str
    datatype: int


class Given(NamedTuple):
    """A metric of a message, by its name."""

    known: Known
    metric: Metric


@dataclass
class Told:
    """What one message means."""

    given: list[Given] = field(default_factory=list)
    birth: bool = False
    stale: bool = False  # nothing that was known holds any more
    dead_device: str | None = None
    rebirth: bool = False  # ask for it


class Node:
    """One edge node. Counts births, deaths, gaps (messages lost), duplicates, unknown (metrics)."""

    def __init__(self) -> None:
        self.alive = False
        self.counts: Counter[str] = Counter()
        self._bd_seq: int | None = None
        self._seq = 0
        self._aliases: dict[int, Known] = {}
        self._names: dict[tuple[str, str], Known] = {}

    def forget(self) -> None:
        """The line was lost: whatever the node said meanwhile was not heard."""
        self.alive = False

    def take(self, kind: Kind, device: str, payload: Payload) -> Told:
        if kind is Kind.NBIRTH:
            return self._born(payload)
        if kind is Kind.NDEATH:
            return self._died(payload)
        if not self.alive:
            return Told(rebirth=True)
        told = self._in_sequence(payload)
        if told is None:
            return Told()
        if kind is Kind.DDEATH:
            self.counts["deaths"] += 1
            told.dead_device = device
        elif kind is Kind.DBIRTH:
            self.counts["births"] += 1
            told.birth = True
            self._learn(device, payload)
        self._name(device, payload, told)
        return told

    def _born(self, payload: Payload) -> Told:
        self.counts["births"] += 1
        self._aliases, self._names = {}, {}
        bd_seq = payload.metric("bdSeq")
        self._bd_seq = None if bd_seq is None else int(bd_seq.value(0))
        self._seq, self.alive = payload.seq or 0, True
        self._learn("", payload)
        told = Told(birth=True, stale=True)
        self._name("", payload, told)
        return told

    def _died(self, payload: Payload) -> Told:
        bd_seq = payload.metric("bdSeq")
        named = None if bd_seq is None else int(bd_seq.value(0))
        if not self.alive or (named is not None and self._bd_seq is not None and named != self._bd_seq):
            self.counts["deaths_of_earlier"] += 1
            return Told()
        self.counts["deaths"] += 1
        self.alive = False
        return Told(stale=True)

    def _in_sequence(self, payload: Payload) -> Told | None:
        """None: it came before."""
        if payload.seq is None:
            return Told()
        ahead = (payload.seq - self._seq) % 256
        if ahead == 0:
            self.counts["duplicates"] += 1
            return None
        self._seq = payload.seq
        if ahead > 1:
            self.counts["gaps"] += ahead - 1
            return Told(stale=True, rebirth=True)
        return Told()

    def _learn(self, device: str, payload: Payload) -> None:
        for metric in payload.metrics:
            known = Known(device, metric.name, metric.datatype)
            self._names[device, metric.name] = known
            if metric.alias is not None:
                self._aliases[metric.alias] = known

    def _name(self, device: str, payload: Payload, told: Told) -> None:
        for metric in payload.metrics:
            known = self._names.get((device, metric.name)) if metric.name else None
            if known is None and metric.alias is not None:
                known = self._aliases.get(metric.alias)
            if known is None or known.device != device:
                self.counts["unknown"] += 1
                told.rebirth = True
            else:
                told.given.append(Given(known, metric))
