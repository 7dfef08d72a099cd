"""What a technician may say. Codes are added, never renamed or reused: old devices and old labels stay readable."""

from __future__ import annotations

import enum
import json
from functools import cache
from importlib import resources
from typing import Final

from models.contract.base import Message

LABELS_VERSION: Final = 2  # of the newest file in models/contract/taxonomies


class Verdict(enum.StrEnum):
    """What one person says of an event or a stretch of time."""

    FAULT = "fault"
    FALSE_ALARM = "false_alarm"
    UNSURE = "unsure"


class FaultKind(enum.StrEnum):
    """Failure modes, after ISO 13372 and ISO 14224 in plain words."""

    BEARING = "bearing"
    IMBALANCE = "imbalance"
    MISALIGNMENT = "misalignment"
    LOOSENESS = "looseness"
    CAVITATION = "cavitation"
    LEAK = "leak"
    VALVE = "valve"
    ELECTRICAL = "electrical"
    SENSOR = "sensor"
    LUBRICATION = "lubrication"
    GEAR = "gear"
    OTHER = "other"


class Severity(enum.StrEnum):
    MINOR = "minor"
    MAJOR = "major"
    STOP = "stop"


class Provenance(enum.StrEnum):
    """Where a label comes from; models teaching models is capped by it."""

    EXPLICIT = "explicit"
    IMPLICIT = "implicit"
    AUTOMATED = "automated"
    MODEL = "model"


class Term(Message):
    """One thing that can be said: its code for ever, its text and guide by language."""

    code: str
    text: dict[str, str]
    guide: dict[str, str]


class Taxonomy(Message):
    """What the form offers, in the order in which it does. A code that a newer version leaves out is still accepted."""

    version: int
    languages: tuple[str, ...]
    verdicts: tuple[Term, ...]
    faults: tuple[Term, ...]
    severities: tuple[Term, ...]


@cache
def taxonomy(version: int = LABELS_VERSION) -> Taxonomy:
    """The file of this version. Raises KeyError: there is none."""
    file = resources.files("models.contract") / "taxonomies" / f"{version:d}.json"
    if not file.is_file():
        raise KeyError(version)
    return Taxonomy.model_validate(json.loads(file.read_text(encoding="utf-8")))


NORMAL: Final = "normal"  # the class of a window on which nothing was wrong
FAULT_TEXT: Final[dict[FaultKind, str]] = {
    FaultKind(term.code): term.text["en"] for term in taxonomy(LABELS_VERSION).faults
}
