"""A technician's phone for tests: Chromium with a profile of its own, which outlives closing and killing it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Locator, Page, Playwright, expect, sync_playwright

from tests import support
from tests.support import eventually

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]
# As on phones without Background Sync: the worker's own requests would pass by the routes of a test.
_NO_SYNC = (
    "if (globalThis.ServiceWorkerRegistration)"
    " Object.defineProperty(ServiceWorkerRegistration.prototype, 'sync', {get() {}})"
)
SMALL = {"width": 360, "height": 740}
PATIENCE_S = 60.0  # a machine may be busy; how fast the form is, tests/bench measures
expect.set_options(timeout=PATIENCE_S * 1000)


class Phone:
    """One profile. `with Phone(folder, url) as phone`: the browser runs; `reopen` and `kill` start it again."""

    def __init__(
        self, profile: Path, url: str, *, network: bool = True, flags: Sequence[str] = (), **context: Any
    ) -> None:
        self._flags = [*FLAGS, *flags]
        self.profile, self.url, self.network = profile, url, network
        self._context_options = {"viewport": SMALL, "is_mobile": True, "has_touch": True, "locale": "en-GB"} | context
        self._manager = sync_playwright()
        self.complaints: list[str] = []
        self.clock_ms = 0  # how far the phone's clock is off
        self._playwright: Playwright | None = None
        self.context: BrowserContext
        self.page: Page

    def __enter__(self) -> Phone:
        self._playwright = self._manager.__enter__()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self.context.close()
        self._manager.__exit__()

    def start(self) -> None:
        assert self._playwright
        self.context = self._playwright.chromium.launch_persistent_context(
            str(self.profile), executable_path=support.chromium(), args=self._flags, **self._context_options
        )
        self.context.set_default_timeout(PATIENCE_S * 1000)
        self.context.set_offline(not self.network)
        self.page = self.context.pages[0]
        self._listen(self.page)

    def _listen(self, page: Page) -> None:
        page.add_init_script(_NO_SYNC)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        if self.clock_ms:
            page.add_init_script(
                f"{{const Real = Date; const off = {self.clock_ms};"
                "globalThis.Date = class extends Real { constructor(...given)"
                " { if (given.length) super(...given); else super(Real.now() + off); }"
                " static now() { return Real.now() + off; } }; }"
            )

    def another_tab(self) -> Page:
        page = self.context.new_page()
        self._listen(page)
        return page

    def close_page(self) -> None:
        """The app is closed and opened again; the browser goes on."""
        old, self.page = self.page, self.another_tab()
        old.close()

    def reopen(self) -> None:
        self.context.close()
        self.start()

    def kill(self) -> None:
        """As when the battery is empty."""
        os.kill(self.process_id(), signal.SIGKILL)
        with contextlib.suppress(Exception):
            self.context.close()
        eventually(lambda: not self._processes(), PATIENCE_S, "the browser has ended")
        (self.profile / "SingletonLock").unlink(missing_ok=True)
        self.start()

    def process_id(self) -> int:
        return next(pid for pid, line in self._processes() if "--type=" not in line)

    def _processes(self) -> list[tuple[int, str]]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if f"--user-data-dir={self.profile}" in line:
                    found.append((int(path.parent.name), line))
        return found

    def set_network(self, there: bool) -> None:
        self.network = there
        self.context.set_offline(not there)

    def open(self, path: str = "/form/") -> Page:
        """The page, drawn."""
        self.page.goto(self.url + path, wait_until="commit")
        self.drawn()
        return self.page

    def drawn(self, path: str | None = None) -> None:
        ready = f'html[data-ready="{path}"]' if path else "html[data-ready]"
        expect(self.page.locator(ready)).to_be_attached()

    @contextlib.contextmanager
    def recorded(self, name: str) -> Iterator[None]:
        """Each step with its picture, in the folder PDM_RECORD where that is set: `playwright show-trace NAME.zip`."""
        folder = os.environ.get("PDM_RECORD")
        if not folder:
            yield
            return
        self.context.tracing.start(screenshots=True, snapshots=True)
        try:
            yield
        finally:
            self.context.tracing.stop(path=Path(folder) / f"{name}.zip")

    def ready_for_offline(self) -> None:
        """The worker has everything and controls the page."""
        eventually(
            lambda: self.page.evaluate("Boolean(navigator.serviceWorker.controller)"),
            timeout=PATIENCE_S,
            message="a worker controls the page",
        )

    def eventually(self, condition: Callable[[], object], timeout: float = PATIENCE_S) -> None:
        """While the browser's requests are answered by the test's own routes, too."""
        eventually(lambda: condition() or self.page.wait_for_timeout(20), timeout)

    @property
    def waiting(self) -> Locator:
        """The strip, which says how many wait in `data-waiting`."""
        return self.page.locator("#strip .state")

    def expect_waiting(self, n: int) -> None:
        expect(self.waiting).to_have_attribute("data-waiting", str(n))

    def tap(self, name: str) -> None:
        """A tile, link or button by its words."""
        self.page.locator("#view").locator("label.tile, a, button, summary").filter(has_text=name).first.tap()

    def introduce(self, name: str) -> None:
        """The first opening, with a network; ready to go offline afterwards."""
        self.open("/form/sign-in")
        self.page.locator("[name=name]").fill(name)
        self.page.locator("#view button.wide").tap()
        self.drawn("/form/")
        self.ready_for_offline()

    def say(self, path: str, *taps: str, note: str = "", then: Callable[[], object] = lambda: None) -> str:
        """A verdict, saved; its id. `then` is done before the save."""
        self.open(path)
        for name in taps:
            self.tap(name)
        if note:
            self.page.get_by_role("textbox", name="Note").fill(note)
        then()
        self.page.get_by_role("button", name="Save").tap()
        expect(self.page.get_by_role("heading", name="Saved")).to_be_visible()
        return self.page.url.rsplit("/", 1)[1]
