"""What a technician may say. Codes are added, never renamed or reused: old devices and old labels stay readable."""

from __future__ import annotations

import enum
from typing import Final

LABELS_VERSION: Final = 1


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


NORMAL: Final = "normal"  # the class of a window on which nothing was wrong
FAULT_TEXT: Final[dict[FaultKind, str]] = {
    FaultKind.BEARING: "Bearing worn or damaged",
    FaultKind.IMBALANCE: "Rotor out of balance",
    FaultKind.MISALIGNMENT: "Shaft or coupling misaligned",
    FaultKind.LOOSENESS: "Something is loose",
    FaultKind.CAVITATION: "Cavitation, gas in the fluid",
    FaultKind.LEAK: "Leak",
    FaultKind.VALVE: "Valve stuck or closed",
    FaultKind.ELECTRICAL: "Motor or electrical fault",
    FaultKind.SENSOR: "The sensor is at fault",
    FaultKind.OTHER: "Something else",
}
