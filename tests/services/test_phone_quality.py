"""The form for everybody: accessible, large targets, by keyboard alone, installable, updated on request."""

from __future__ import annotations

import base64
import shutil
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from models.form.shell import FOLDER, FormFiles
from simulators.embedded.broker import Broker
from simulators.embedded.processes import free_port, http_ready
from tests import support
from tests.services import plant
from tests.services.phone import Phone
from tests.services.station import ServerProcess, query
from tests.support import eventually

pytestmark = pytest.mark.skipif(support.chromium() is None, reason="no Chromium on this machine")
ALARM = plant.alarm("pump-12", 95, 0.93, "bearing")
PAGES = (
    *("/form/", "/form/m/pump-12", f"/form/a/{ALARM.event_id}?v=fault", "/form/m/pump-14/report", "/form/work"),
    *(
        "/form/code",
        "/form/more",
        "/form/settings",
        "/form/questions",
        "/form/outcomes",
        "/form/outbox",
        "/form/sign-in",
    ),
)
SMALLEST = 64  # CSS px
SMALL_TARGETS = """
smallest => [...document.querySelectorAll("a, button, label.tile, summary, input:not(.tile input), textarea")]
  .map(e => [e, e.getBoundingClientRect()])
  .filter(([e, box]) => box.width && (box.height < smallest - 0.5 || box.width < smallest - 0.5))
  .filter(([e]) => !e.classList.contains("cover"))
  .map(([e, box]) => `${e.outerHTML.slice(0, 80)} ${box.width}x${box.height}`)
"""


@pytest.fixture(scope="module")
def server(postgres_server: str, broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with plant.running(tmp_path_factory.mktemp("server"), postgres_server, broker, ALARM) as server:
        yield server


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_has_an_accessibility_finding_or_a_target_that_a_glove_misses(
    tmp_path: Path, server: ServerProcess, theme: str
) -> None:
    with Phone(tmp_path / "profile", server.url, color_scheme=theme) as phone:
        phone.introduce("Ada")
        axe = Axe()
        for path in PAGES:
            phone.open(path)
            found = axe.run(phone.page, options={"resultTypes": ["violations"]})
            assert found.violations_count == 0, f"{path} {theme}: {found.generate_report()}"
            assert phone.page.evaluate(SMALL_TARGETS, SMALLEST) == [], path
            width = phone.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert width[0] <= width[1], f"{path} is wider than the phone"
        for path in ("/voices", "/labels"):
            phone.page.goto(server.url + path)
            found = axe.run(phone.page, options={"resultTypes": ["violations"]})
            assert found.violations_count == 0, f"{path} {theme}: {found.generate_report()}"
        expect(phone.page.locator(".label")).to_have_count(6)
        assert f"{server.url}/form/m/pump-12" in phone.page.locator("main").inner_text()


def test_the_keyboard_alone_says_a_verdict(tmp_path: Path, server: ServerProcess) -> None:
    with Phone(tmp_path / "profile", server.url, is_mobile=False) as phone:
        phone.introduce("Ada")
        page = phone.open("/form/m/pump-14/report")
        reach(page, "[name=verdict]")
        reach(page, "[name=fault]")
        page.keyboard.press("Space")
        page.keyboard.press("ArrowDown")
        expect(page.locator("[value=imbalance]")).to_be_checked()
        reach(page, "button.save")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Saved")).to_be_focused()


def reach(page: Page, selector: str) -> None:
    """By the tab key."""
    for _ in range(40):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the tab key never comes to {selector}")


def test_a_browser_offers_to_install_it(tmp_path: Path, server: ServerProcess) -> None:
    with Phone(tmp_path / "profile", server.url) as phone:
        phone.introduce("Ada")
        devtools = phone.context.new_cdp_session(phone.page)
        assert devtools.send("Page.getInstallabilityErrors") == {"installabilityErrors": []}
        assert devtools.send("Page.getAppManifest")["errors"] == []


def a_photo(page: Page) -> bytes:
    """A JPEG of 3000 x 2000, as a phone's camera makes it: with a place in its EXIF."""
    made = page.evaluate(
        """() => { const c = document.createElement("canvas"); c.width = 3000; c.height = 2000;
        const p = c.getContext("2d"); p.fillStyle = "#a40"; p.fillRect(0, 0, 3000, 2000);
        return c.toDataURL("image/jpeg").split(",")[1] }"""
    )
    body = base64.b64decode(made)
    gps = struct.pack(">2sHI", b"MM", 42, 8) + struct.pack(">HHHII", 1, 0x8825, 4, 1, 26) + b"\0" * 4
    exif = b"Exif\0\0" + gps + struct.pack(">HHHI4s", 1, 1, 2, 2, b"N\0\0\0") + b"\0" * 4 + b"GPS-HERE"
    return body[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + body[2:]


def test_a_photo_is_drawn_again_without_its_place_and_arrives_by_hash(tmp_path: Path, server: ServerProcess) -> None:
    with Phone(tmp_path / "profile", server.url) as phone:
        phone.introduce("Ada")
        photo = a_photo(phone.page)
        phone.set_network(False)
        page = phone.open("/form/m/pump-14/report")
        phone.tap("Leak")
        page.locator("[name=photo]").set_input_files(
            {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"}
        )
        expect(page.get_by_role("alert")).to_contain_text("not a picture")
        page.locator("[name=photo]").set_input_files({"name": "x.jpg", "mimeType": "image/jpeg", "buffer": photo})
        expect(page.locator(".attached canvas")).to_be_visible()
        phone.close_page()  # a draft keeps its photo
        page = phone.open("/form/m/pump-14/report")
        expect(page.locator(".attached canvas")).to_be_visible()
        page.get_by_role("button", name="Save").tap()
        expect(page.get_by_role("heading", name="Saved")).to_be_visible()
        phone.set_network(True)
        phone.tap("Back to pump-14")
        phone.expect_waiting(0)
        ((sha256,),) = query(
            server.dsn, "SELECT body->'attachments'->0->>'sha256' FROM annotation WHERE body->'attachments' <> '[]'"
        )
        kept = phone.context.request.get(f"{server.url}/api/attachments/{sha256}")
        assert kept.status == 200
        assert b"GPS-HERE" not in kept.body()
        assert b"Exif" not in kept.body()
        height, width = size_of(kept.body())
        assert (width, height) == (1280, 853)


def size_of(jpeg: bytes) -> tuple[int, int]:
    """Height and width, from the frame header."""
    at = 2
    while jpeg[at + 1] not in (0xC0, 0xC1, 0xC2):
        at += 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
    height, width = struct.unpack(">HH", jpeg[at + 5 : at + 9])
    return height, width


def test_a_new_version_waits_until_it_is_wanted_and_leaves_one_cache(tmp_path: Path) -> None:
    folder = tmp_path / "pwa"
    shutil.copytree(FOLDER, folder)
    port = free_port()
    with Serving(folder, port), Phone(tmp_path / "profile", f"http://127.0.0.1:{port}") as phone:
        phone.open("/form/settings")
        phone.ready_for_offline()
        before = phone.page.evaluate("caches.keys()")
    words = folder / "texts/en.json"
    words.write_text(words.read_text().replace('"More"', '"Even more"'))
    with Serving(folder, port), Phone(tmp_path / "profile", f"http://127.0.0.1:{port}") as phone:
        phone.open("/form/settings")
        phone.ready_for_offline()
        update = phone.page.locator("[data-notice=update] button")
        expect(update).to_be_visible()
        phone.page.reload()
        expect(phone.page.locator("#tabs")).not_to_contain_text("Even more")  # the old one goes on, whole
        update.tap()
        expect(phone.page.locator("#tabs")).to_contain_text("Even more")
        after = phone.page.evaluate("caches.keys()")
        assert len(before) == len(after) == 1
        assert before != after


class Serving:
    """The form's files from a folder, and nothing else: who asks for more gets no answer that is ours."""

    def __init__(self, folder: Path, port: int) -> None:
        app = Starlette(routes=[Mount("/form", FormFiles(folder))])
        self._url = f"http://127.0.0.1:{port}/form/"
        self._server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        eventually(lambda: http_ready(self._url))

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)


def test_without_https_it_saves_and_says_that_offline_mode_is_off(tmp_path: Path) -> None:
    port = free_port()
    with Serving(FOLDER, port):
        flags = [f"--host-resolver-rules=MAP gateway.plant 127.0.0.1:{port}"]
        with Phone(tmp_path / "profile", f"http://gateway.plant:{port}", flags=flags) as phone:
            phone.open("/form/settings")
            assert not phone.page.evaluate("isSecureContext")
            expect(phone.page.locator("[data-notice=insecure]")).to_contain_text("Offline mode is off")
            phone.page.get_by_label("Your name").fill("Ada")
            phone.page.get_by_label("Your name").press("Tab")
            phone.open("/form/settings")
            expect(phone.page.get_by_label("Your name")).to_have_value("Ada")
            assert phone.complaints == []
