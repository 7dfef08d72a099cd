"""The parts of a supervisor: free ports, a lifeline, processes that are ready before the next one starts.

Children get a session of their own, so Ctrl-C reaches only the supervisor, which then stops them in order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from models.lifeline import VARIABLE


def free_port(preferred: int = 0) -> int:
    """The preferred port of 127.0.0.1 if nobody listens there, else one from the kernel."""
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            return int(s.getsockname()[1])
    raise RuntimeError("no free port on 127.0.0.1")


def tcp_ready(port: int) -> bool:
    """True if somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as s:
        # The kernel may take the very port as our own end, and then TCP connects us to ourselves.
        return bool(s.getsockname() != s.getpeername())
    return False


def http_ready(url: str) -> bool:
    """True if the answer is 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - an address of our own
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


class Lifeline:
    """The supervisor's end of a pipe; children inherit the other (models.lifeline.watch)."""

    def __init__(self) -> None:
        self.fd, self._held = os.pipe()

    def close(self) -> None:
        """Let go: every child ends. It may be called twice."""
        for fd in (self.fd, self._held):
            if fd >= 0:
                os.close(fd)
        self.fd = self._held = -1  # the numbers may be somebody else's by now


class Process:
    """One child with its own session and a log file."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        lifeline: Lifeline | None = None,
        ready: Callable[[], bool] | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name, self.argv, self.log = name, list(argv), log
        self._lifeline, self._ready, self._env, self._cwd = lifeline, ready, env or {}, cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._group: int | None = None  # None: nothing of it is left to be signalled

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs, or before it was started."""
        return self._process.poll() if self._process else None

    def start(self, timeout_s: float = 30.0) -> Process:
        """Start it, or start it again, and wait until it is ready. One that still runs is killed first.

        Raises:
            RuntimeError: it ended before it was ready, or was not ready in time; with the end of its log.
        """
        self.kill()
        env = {**os.environ, **self._env, "PYTHONUNBUFFERED": "1"}
        env.pop(VARIABLE, None)  # of a supervisor's supervisor: that pipe is not inherited further
        fds = []
        if self._lifeline:
            env[VARIABLE] = str(self._lifeline.fd)
            fds = [self._lifeline.fd]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=self._cwd,
                pass_fds=fds,
                start_new_session=True,
            )
        self._group = self._process.pid
        deadline = time.monotonic() + timeout_s
        while self._ready and not self._ready():
            if self.returncode is not None or time.monotonic() > deadline:
                what = "was not ready in time" if self.returncode is None else f"ended with {self.returncode}"
                self.stop()
                raise RuntimeError(f"{self.name} {what}: {self.tail()}")
            time.sleep(0.03)
        return self

    def restart(self, timeout_s: float = 30.0) -> Process:
        """`stop` and `start`."""
        self.stop()
        return self.start(timeout_s)

    def terminate(self) -> None:
        """Ask it to end; `stop` waits for it."""
        self._signal(signal.SIGTERM)

    def stop(self, grace_s: float = 10.0) -> None:
        """SIGTERM to its whole group, and SIGKILL to what is left of it after the grace time."""
        if self._process and self.returncode is None:
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to its whole group."""
        self._signal(signal.SIGKILL)
        self._group = None  # the number may be given to somebody else from here on
        if self._process:
            self._process.wait()

    def tail(self, n: int = 2000) -> str:
        """The end of its log."""
        return self.log.read_bytes()[-n:].decode(errors="replace") if self.log.exists() else ""

    def _signal(self, number: int) -> None:
        if self._group is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, number)
