"""Browsers beside Chromium, by what they speak themselves: Firefox's Marionette, and W3C WebDriver of WebKitGTK. Both
know the same few commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Final

import httpx

from simulators.embedded.processes import free_port
from tests import support
from tests.support import eventually

_ELEMENT: Final = "element-6066-11e4-a52e-4f735466cecf"  # W3C WebDriver, 12
_PREFERENCES: Final = {
    "marionette.port": 0,  # a free one, which is then in MarionetteActivePort
    "app.normandy.enabled": False,
    "browser.aboutwelcome.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "data:,",
}


class Browser(ABC):
    """One profile in one folder: `with Firefox(folder) as browser`."""

    def __init__(self, profile: Path) -> None:
        self.profile = profile
        self._processes: list[subprocess.Popen[bytes]] = []

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def command(self, name: str, element: str = "", **values: Any) -> Any:
        """Its answer. Raises AssertionError with the browser's words."""

    def __enter__(self) -> Browser:
        self.profile.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def goto(self, url: str) -> None:
        self.command("Navigate", url=url)

    def run(self, script: str, *args: Any) -> Any:
        """What the body of a function returns."""
        return self.command("ExecuteScript", script=script, args=list(args))

    def find(self, xpath: str) -> str:
        found = eventually(lambda: self.command("FindElements", using="xpath", value=xpath), 30, f"{xpath} is there")
        return str(found[0][_ELEMENT])

    def tap(self, words: str) -> None:
        """A tile, link or button of the page by its words."""
        inside = "//*[@id='view']//*[self::label or self::a or self::button]"
        element = self.find(f"{inside}[contains(., '{words}')]")
        self.run("arguments[0].scrollIntoView({block: 'center'})", {_ELEMENT: element})  # as a thumb does
        self.command("ElementClick", element)

    def write(self, xpath: str, text: str) -> None:
        self.command("ElementSendKeys", self.find(xpath), text=text)

    def _run(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.profile / "log").open("ab") as log:
            process = subprocess.Popen(
                words, stdout=log, stderr=log, env=os.environ | environment, start_new_session=True
            )
        self._processes.append(process)
        return process


class Firefox(Browser):
    """By Marionette: [0, number, command, values] there, [1, number, error, answer] back, each after its length."""

    def start(self) -> None:
        lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in _PREFERENCES.items())
        (self.profile / "user.js").write_text("\n".join(lines))
        port = self.profile / "MarionetteActivePort"
        port.unlink(missing_ok=True)
        program = support.firefox()
        assert program
        self._run(program, "--headless", "--marionette", "--profile", str(self.profile), HOME=str(self.profile))
        eventually(lambda: port.exists() and port.read_text(), 60, "Firefox answers")
        self._socket = socket.create_connection(("127.0.0.1", int(port.read_text())), 60)
        self._file = self._socket.makefile("rb")
        self._read()  # who it is
        self.command("NewSession")

    def command(self, name: str, element: str = "", **values: Any) -> Any:
        said = json.dumps([0, 1, f"WebDriver:{name}", values | ({"id": element} if element else {})])
        self._socket.sendall(f"{len(said)}:{said}".encode())
        _, _, error, answer = self._read()
        assert error is None, error["message"]
        return answer["value"] if isinstance(answer, dict) and "value" in answer else answer

    def _read(self) -> Any:
        digits = b""
        while (byte := self._file.read(1)) != b":":
            assert byte, "Firefox has ended"
            digits += byte
        return json.loads(self._file.read(int(digits)))


class WebKit(Browser):
    """By HTTP to WebKitWebDriver, on a display of its own. An automated WebKit keeps nothing when it ends."""

    _PATHS: Final = {
        "Navigate": "url",
        "Refresh": "refresh",
        "ExecuteScript": "execute/sync",
        "FindElements": "elements",
        "ElementClick": "click",
        "ElementSendKeys": "value",
    }

    def start(self) -> None:
        program = support.webkit()
        assert program
        reading, writing = os.pipe()
        self._processes.append(
            subprocess.Popen(
                ["Xvfb", "-displayfd", str(writing), "-screen", "0", "800x1000x24", "-nolisten", "tcp"],
                stderr=subprocess.DEVNULL,
                pass_fds=[writing],
                start_new_session=True,
            )
        )
        os.close(writing)
        with os.fdopen(reading) as said:
            display = f":{said.readline().strip()}"
        port, home = free_port(), str(self.profile)
        self._run(
            *("WebKitWebDriver", f"--port={port}"),
            DISPLAY=display,
            HOME=home,
            XDG_RUNTIME_DIR=home,
            GDK_BACKEND="x11",
            # As root its sandbox does not start; what it opens is our own page.
            WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS="1",
            LIBGL_ALWAYS_SOFTWARE="1",
        )
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        eventually(self._answers, 30, "WebKitWebDriver answers")
        options = {"binary": program, "args": ["--automation"]}
        wanted = {"alwaysMatch": {"browserName": "MiniBrowser", "webkitgtk:browserOptions": options}}
        self._session = self._post("/session", {"capabilities": wanted})["sessionId"]

    def command(self, name: str, element: str = "", **values: Any) -> Any:
        at = f"element/{element}/" if element else ""
        return self._post(f"/session/{self._session}/{at}{self._PATHS[name]}", values)

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self._http.get("/status").is_success
        return False

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._http.post(path, json=body)
        value = answer.json()["value"]
        assert answer.is_success, value["message"]
        return value
