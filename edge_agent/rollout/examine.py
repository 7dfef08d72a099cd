"""A new bundle first runs in a process of its own, whose death is an answer."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import models
from edge_agent.errors import BundleRejected
from models.bundle.files import Bundle
from models.contract.release import Cause

WALL_S: Final = 30.0


def examine(bundle: Bundle, give_up: Callable[[], bool], wall_s: float = WALL_S) -> None:
    """Check the graph and the golden scores of these very bytes. The agent goes on scoring meanwhile.

    Args:
        give_up: asked now and then; True ends the check without a result, as a refusal.

    Raises:
        BundleRejected: not on the allow-list, other scores, or it took the process down, too long or too much memory.
    """
    title = f"{bundle.manifest.name} {bundle.manifest.version}"
    child = subprocess.Popen(
        [sys.executable, "-s", "-m", "models.examiner"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=_environment(),
        start_new_session=True,  # a terminal's Ctrl-C is for the agent
    )
    threading.Thread(target=_feed, args=(child.stdin, bundle.data), daemon=True).start()
    deadline = time.monotonic() + wall_s
    try:
        while child.poll() is None:
            if give_up():
                raise BundleRejected(title, "the check was broken off")
            if time.monotonic() > deadline:
                raise BundleRejected(title, f"its check took over {wall_s:g} s", Cause.CANARY)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.1)
        assert child.stdout
        out = child.stdout.read()
    finally:
        child.kill()
        child.wait()
    try:
        answer = json.loads(out)
    except ValueError:
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
        raise BundleRejected(title, f"it took its check down: {how}", Cause.CANARY) from None
    if answer["cause"] is not None:
        raise BundleRejected(title, str(answer["reason"]), Cause(answer["cause"]))


def _feed(pipe: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(OSError), pipe:  # it may die before it has read all
        pipe.write(data)


def _environment() -> dict[str, str]:
    """Nothing of the agent's but where its code is: no proxies, no passwords. One thread for each library."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return one | {
        "PATH": os.defpath,
        "PYTHONPATH": str(Path(models.__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
