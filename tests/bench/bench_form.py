"""The phone's form on a slow phone: bytes over the wire, and how long it takes to be of use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import expect

from tests.bench.figure import Bench
from tests.faults.proxy import Proxy
from tests.services import plant
from tests.services.phone import Phone
from tests.support import eventually

# WebPageTest's "3G Slow" on a cheap phone: 400 kbit/s each way, 400 ms for each request, a CPU four times slower.
SLOW: Final = {"offline": False, "latency": 400, "downloadThroughput": 50_000, "uploadThroughput": 50_000}
TRIES: Final = 3


@cache
def measured() -> dict[str, float]:
    """kB of the first visit with everything that the worker fetches; seconds to the list of machines, cold and warm."""
    with plant.standing_alone(plant.alarm("pump-12", 9, 0.9, "leak")) as (server, here), Proxy(server.port) as wire:
        found = [_visit(here / f"profile{i}", wire) for i in range(TRIES)]
    return {name: sorted(each[name] for each in found)[TRIES // 2] for name in found[0]}


def _visit(profile: Path, wire: Proxy) -> dict[str, float]:
    before = wire.down.passed
    with Phone(profile, f"http://127.0.0.1:{wire.port}") as phone:
        _slow(phone)
        first = _until_machines(phone)
        phone.context.new_cdp_session(phone.page).send("Emulation.setCPUThrottlingRate", {"rate": 1})
        phone.ready_for_offline()
        weight = (wire.down.passed - before) / 1000
        phone.close_page()
        _slow(phone)
        return {"weight": weight, "first": first, "cached": _until_machines(phone)}


def _slow(phone: Phone) -> Any:
    devtools = phone.context.new_cdp_session(phone.page)
    devtools.send("Network.enable")
    devtools.send("Network.emulateNetworkConditions", SLOW)
    devtools.send("Emulation.setCPUThrottlingRate", {"rate": 4})


# The page's own clock, which begins when it is asked for; a test that looks now and then sees the list too late.
_WATCH: Final = """
new MutationObserver(() => {
  if (!globalThis.shown && document.querySelector("#view .card"))
    requestAnimationFrame(() => { globalThis.shown ??= performance.now(); });
}).observe(document, { childList: true, subtree: true });
"""


def _until_machines(phone: Phone) -> float:
    """Seconds until the list is painted."""
    phone.page.add_init_script(_WATCH)
    phone.page.goto(phone.url + "/form/", wait_until="commit")
    expect(phone.page.locator("#view .card").first).to_be_visible()
    return eventually(lambda: float(phone.page.evaluate("globalThis.shown ?? 0"))) / 1000


def against(name: str, bar: float) -> Callable[[], tuple[float, float]]:
    return lambda: (measured()[name], measured()[name] / bar)


FIGURES = [
    Bench("form_weight", "120 kB over the wire", "kB", 1, 0.7, "lower", against("weight", 120)),
    Bench("form_first_load_slow_phone", "4 s", "s", 1, 0.8, "lower", against("first", 4)),
    Bench("form_from_cache_slow_phone", "1 s", "s", 1, 0.6, "lower", against("cached", 1)),
]
