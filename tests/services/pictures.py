"""`python -m tests.services.pictures FOLDER [PAGE...]`: the form's pages, small and wide, light and dark.

`make pictures` is the same into docs/form.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.services import plant
from tests.services.phone import SMALL, Phone
from tests.services.station import ServerProcess

WIDE = {"width": 1280, "height": 800}
FIRST = plant.alarm("pump-12", 95, 0.93, "bearing")
ALARMS = (
    FIRST,
    plant.alarm("compressor-1", 20, 0.71, "looseness", 2),
    plant.alarm("pump-12", 8, 0.62, "cavitation", 3),
)


def main(folder: str, *only: str) -> int:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    with plant.standing_alone(*ALARMS) as (server, here):
        for size in (SMALL, WIDE):
            for theme in ("light", "dark"):
                take(here / f"{size['width']}{theme}", server, out, size, theme, only)
    return 0


def take(
    profile: Path, server: ServerProcess, out: Path, size: dict[str, int], theme: str, only: tuple[str, ...]
) -> None:
    phone_like = size is SMALL
    options = {"viewport": size, "is_mobile": phone_like, "has_touch": True, "color_scheme": theme}
    with Phone(profile, server.url, **options) as phone:
        phone.introduce("Ada")
        for name, show in PAGES.items():
            if (not only or name in only) and (name, theme) != ("labels", "dark"):  # paper is white
                show(phone)
                phone.page.wait_for_timeout(300)  # what slides in has arrived
                _keep(phone, out / f"{name}-{size['width']}-{theme}.webp")


def _keep(phone: Phone, path: Path) -> None:
    """As WebP, a third of a PNG; Playwright itself does not make them."""
    devtools = phone.context.new_cdp_session(phone.page)
    taken = devtools.send("Page.captureScreenshot", {"format": "webp", "quality": 60})
    path.write_bytes(base64.b64decode(taken["data"]))
    devtools.detach()


def _open(path: str) -> Callable[[Phone], object]:
    def show(phone: Phone) -> None:
        phone.open(path)
        expect(phone.waiting).to_have_attribute("data-contact", "online")

    return show


def _verdict(phone: Phone) -> None:
    phone.open(f"/form/a/{FIRST.event_id}?v=fault")
    phone.tap("Bearing worn or damaged")
    phone.page.locator(".faults legend").evaluate("e => scrollTo(0, e.getBoundingClientRect().top + scrollY - 90)")


def _details(phone: Phone) -> None:
    phone.open(f"/form/a/{FIRST.event_id}?v=fault")
    phone.page.locator("section.more").evaluate("e => scrollTo(0, e.getBoundingClientRect().top + scrollY - 90)")


def _saved(phone: Phone) -> None:
    phone.say(f"/form/a/{FIRST.event_id}", "It is a fault", "Bearing worn or damaged")
    expect(phone.page.locator(".done")).to_have_attribute("data-where", "stored")


def _offline(phone: Phone) -> None:
    phone.set_network(False)
    phone.say("/form/m/pump-14/report", "Leak")
    phone.say("/form/m/mixer-2/report", "Something is loose")
    phone.open("/form/m/fan-3/report")
    phone.tap("Not sure")
    phone.open("/form/outbox")
    phone.expect_waiting(2)


def _online(phone: Phone) -> None:
    phone.set_network(True)
    phone.open("/form/outcomes")
    phone.expect_waiting(0)
    expect(phone.page.locator("[data-outcome]").nth(2)).to_be_visible()


def _voices(phone: Phone) -> None:
    if (score := phone.page.get_by_role("button", name="4", exact=True)).is_visible():
        score.tap()
        phone.expect_waiting(0)
    phone.page.goto(phone.url + "/voices")


def _code(phone: Phone) -> None:
    phone.open("/form/code")
    for digit in "12":
        phone.page.get_by_role("button", name=digit, exact=True).tap()


PAGES: dict[str, Callable[[Phone], object]] = {
    "machines": _open("/form/"),
    "machine": _open("/form/m/pump-12?src=qr"),
    "verdict-top": _open(f"/form/a/{FIRST.event_id}?v=fault"),
    "verdict": _verdict,
    "details": _details,
    "report": _open("/form/m/pump-14/report"),
    "work": _open("/form/work"),
    "code": _code,
    "more": _open("/form/more"),
    "settings": _open("/form/settings"),
    "sign-in": _open("/form/sign-in"),
    "questions": _open("/form/questions"),
    "saved": _saved,
    "outbox": _offline,
    "outcomes": _online,
    "voices": _voices,
    "labels": lambda phone: phone.page.goto(phone.url + "/labels"),
}

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
