"""What the running agent says of itself to programs on the device: one JSON document for whoever connects to the socket
in its state folder, and may do so by the folder's rights. Also with the page off, over HTTPS, or behind a sign-in."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

log = logging.getLogger(__name__)

NAME: Final = "agent.sock"
WAIT_S: Final = 5.0


class Local:
    """Listens from here on."""

    def __init__(self, state_dir: Path, status: Callable[[], dict[str, Any]]) -> None:
        self._path, self._status = state_dir / NAME, status
        self._stop = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(0.5)
        try:
            self._path.unlink(missing_ok=True)  # of an agent that was killed
            with _address(state_dir) as address:
                self._socket.bind(address)
            self._path.chmod(0o600)
            self._socket.listen(4)
        except OSError as exc:  # a disk that takes nothing is no reason not to watch machines
            log.warning("status and doctor will not see what runs", extra={"reason": str(exc)})
            self._stop.set()

    def loop(self, pulse: Callable[[], object]) -> None:
        """Until `stop`."""
        while not self._stop.is_set():
            pulse()
            with suppress(OSError):  # nobody asks, or they have gone again
                asker, _ = self._socket.accept()
                with asker:
                    asker.settimeout(WAIT_S)
                    asker.sendall(json.dumps(self._status()).encode())

    def stop(self) -> None:
        self._stop.set()
        self._socket.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def ask(state_dir: Path) -> dict[str, Any] | None:
    """What runs there says now; None: nothing runs, or it does not answer."""
    with socket.socket(socket.AF_UNIX) as line, suppress(OSError, ValueError):
        line.settimeout(WAIT_S)
        with _address(state_dir) as address:
            line.connect(address)
        with line.makefile("rb") as said:
            found: dict[str, Any] = json.load(said)
            return found
    return None


@contextmanager
def _address(state_dir: Path) -> Iterator[str]:
    """A socket's path may have a hundred bytes, and a state folder's more."""
    if not Path("/proc/self/fd").is_dir():
        yield str(state_dir / NAME)
        return
    folder = os.open(state_dir, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{folder}/{NAME}"
    finally:
        os.close(folder)
