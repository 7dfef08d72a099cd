"""Programs that end when their owner does, however that ended.

The owner holds the standard input of a small process (this file, run as a script), which runs the program. End of file
there, after kill -9 of the owner too, ends the program in order; one byte kills it. Portable: a pipe, nothing of Linux.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final

GRACE_S: Final = 20.0


def unprivileged() -> dict[str, Any]:
    """Arguments of Popen that drop root's rights, for programs that refuse to run as root; empty if not root.

    Raises:
        RuntimeError: root, and no user to become.
    """
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise RuntimeError("this must not run as root, and there is neither a user postgres nor nobody to become")


class Guarded:
    """A running program with its watchdog; its output is added to a log file."""

    def __init__(self, program: list[str], log: Path, *, stop: signal.Signals, drop_rights: bool = False) -> None:
        # By path and with -P: it needs nothing of the project, so it runs from any folder.
        watchdog = [sys.executable, "-P", __file__, str(int(stop)), "drop" if drop_rights else "keep"]
        with log.open("ab") as output:
            self._start_of_log = output.tell()
            self._process = subprocess.Popen(
                watchdog + program, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
        self._log = log

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def output(self) -> str:
        """What it wrote since it was started, the end of it."""
        return self._log.read_bytes()[self._start_of_log :][-2000:].decode(errors="replace").strip()

    def stop(self) -> None:
        """Ask it to end, and return when it has."""
        self._finish(b"")

    def kill(self) -> None:
        """SIGKILL, and return when it is gone."""
        self._finish(b"k")

    def _finish(self, last_word: bytes) -> None:
        assert self._process.stdin
        with contextlib.suppress(OSError):  # the watchdog is gone already
            self._process.stdin.write(last_word)
            self._process.stdin.flush()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(3 * GRACE_S)
        if self._process.poll() != 0:  # perhaps the watchdog itself was killed, and the program lives on in its group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def main(argv: list[str]) -> int:
    """Run a program until it ends or the owner is gone: STOP_SIGNAL drop|keep PROGRAM [ARGUMENT ...]."""
    stop, drop, program = signal.Signals(int(argv[0])), argv[1] == "drop", argv[2:]
    for shared in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(shared, lambda *_: None)  # a handler, not SIG_IGN: that would be inherited by the program
    child = subprocess.Popen(program, stdin=subprocess.DEVNULL, **(unprivileged() if drop else {}))

    def follow_owner() -> None:
        kill_now = os.read(0, 1)
        for number in (signal.SIGKILL,) if kill_now else (stop, signal.SIGQUIT, signal.SIGKILL):
            child.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(GRACE_S)
                return

    follower = threading.Thread(target=follow_owner, daemon=True)
    follower.start()
    code = child.wait()
    print(f"watchdog: {Path(program[0]).name} ended with {code}", file=sys.stderr, flush=True)
    return 0  # it was seen to its end; anything else is an end of the watchdog


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
