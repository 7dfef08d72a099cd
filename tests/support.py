"""What tests of every kind share: waiting with a deadline, databases of one's own, what this machine has."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

T = TypeVar("T")


def eventually(condition: Callable[[], T], timeout: float = 10, message: str = "") -> T:
    """The first true answer of the condition; an AssertionError of the condition's is a "not yet".

    Raises:
        AssertionError: the deadline passed; with the message, or with the condition's own last words.
    """
    deadline = time.monotonic() + timeout
    while True:
        said = ""
        try:
            if answer := condition():
                return answer
        except AssertionError as exc:
            said = str(exc)
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {message or said or condition}")
        time.sleep(0.02)


@contextlib.contextmanager
def reachable_folder() -> Iterator[Path]:
    """A fresh folder that an unprivileged server may enter (pytest's own are private), removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="pdm-test-")).resolve()
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def fresh_database(server: str, extension: str | None = None) -> Iterator[str]:
    """The URI of a new database on that server, dropped afterwards with whoever is still connected."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    uri = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    with psycopg.connect(server, autocommit=True) as admin:
        # template0: nothing that somebody left in template1, and nobody is connected to it
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    try:
        if extension:
            with psycopg.connect(uri, autocommit=True) as conn:
                conn.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier(extension)))
        yield uri
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def processes_naming(text: str) -> list[str]:
    """The command lines of live processes that hold the text; without those that merely wait to be reaped."""
    if sys.platform == "linux":
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    else:
        lines = subprocess.run(
            ["ps", "-Aww", "-o", "args="], capture_output=True, text=True, check=True
        ).stdout.splitlines()
    return [line for line in lines if text in line]


def chromium() -> str | None:
    """The machine's Chromium or Chrome; None: there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def firefox() -> str | None:
    return shutil.which("firefox-esr") or shutil.which("firefox")


def webkit() -> str | None:
    """WebKitGTK's MiniBrowser, which comes with its driver and is in nobody's PATH; None: it or what drives it is not
    here."""
    if not (shutil.which("WebKitWebDriver") and shutil.which("Xvfb")):
        return None
    return next((str(path) for path in Path("/usr/lib").glob("*/webkit2gtk-4*/MiniBrowser")), None)


def timescale_dsn() -> str | None:
    """A server with the extension, where there is one; its user may create databases."""
    return os.environ.get("TEST_TIMESCALE_DSN") or None


def real_data() -> Path | None:
    """The folder of real recordings, where there is one."""
    path = os.environ.get("PDM_DATA")
    return Path(path).resolve() if path and Path(path).is_dir() else None
