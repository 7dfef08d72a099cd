"""What systemd is told (sd_notify(3)): one datagram to the socket that it names. Nothing where no systemd asked.

By hand, for the protocol is this short and a library would be one more thing on the gateway.
"""

from __future__ import annotations

import contextlib
import os
import socket

READY, RELOADING, STOPPING, ALIVE = "READY=1", "RELOADING=1", "STOPPING=1", "WATCHDOG=1"


def notify(*lines: str) -> bool:
    """Tell it; False: nobody listens."""
    where = os.environ.get("NOTIFY_SOCKET", "")
    if not where.startswith(("/", "@")):
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        to.setblocking(False)  # a manager that is busy holds up no machine's watching
        to.connect("\0" + where[1:] if where[0] == "@" else where)
        to.sendall("\n".join(lines).encode())
        return True
    return False


def watchdog_s() -> float | None:
    """How long it waits for ALIVE before it kills; None: it does not."""
    wanted = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    with contextlib.suppress(ValueError):
        return int(os.environ.get("WATCHDOG_USEC", "")) / 1e6 if wanted else None
    return None
