"""A child ends when its supervisor does, however that ended: the supervisor holds the other end of a pipe."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Final

VARIABLE: Final = "LIFELINE_FD"
GRACE_S: Final = 10.0


def watch() -> None:
    """Start watching the inherited pipe, if any. At its end this process gets a SIGTERM, and 10 s later it is ended."""
    if fd := os.environ.pop(VARIABLE, ""):  # our own children do not inherit the pipe, so they must not look for it
        threading.Thread(target=_wait_for_end, args=(int(fd),), name="lifeline", daemon=True).start()


def _wait_for_end(fd: int) -> None:
    try:
        while os.read(fd, 1):
            pass  # nobody writes; only the end of file says something
    except OSError:
        return  # not a pipe of ours: nobody supervises this process
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)
