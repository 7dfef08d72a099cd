"""Places where a test may cut the power: `PDM_CRASH_AT=name` ends the process there, as kill -9 would.

One list for both programs, so that a test can prove that each point was reached.
"""

from __future__ import annotations

import os
import signal
from typing import Final

VARIABLE: Final = "PDM_CRASH_AT"
POINTS: Final = frozenset(
    {
        "outbox.before_commit",
        "outbox.after_commit",
        "receipt.before_delete",
        "receipt.after_delete",
        "bundle.before_rename",
        "bundle.after_rename",
        "rollout.offered",
        "rollout.fetching",
        "rollout.checking",
        "rollout.shadow",
        "rollout.trial",
        "rollout.active",
        "rollout.shadowed",
        "rollout.rejected",
        "rollout.rolled_back",
        "rollout.inconsistent",
        "ingest.before_commit",
        "ingest.after_commit",
        "ingest.after_receipt",
        "train.dataset",
        "train.train",
        "train.export",
        "train.gate",
        "train.candidate",
    }
)


def crash_point(name: str) -> None:
    """Nothing, unless this is the point that the environment names."""
    assert name in POINTS, name
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
