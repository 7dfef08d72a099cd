"""Labels for machines: a page to be printed, with a link to each machine's place in the form as a QR code.

A link and no secret: whoever finds a label learns the machine's name and the host's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from models.form import STATIC
from models.form.api import short_code
from models.form.signin import is_loopback
from models.form.speech import LANGUAGES, say

_STYLE: Final = "labels.css"
SHEET: Final = f'<link rel="stylesheet" href="/static/{_STYLE}">'  # where a host serves it


class Machine(NamedTuple):
    """What stands on a label. `code`: as configured, may be empty."""

    id: str
    kind: str = ""
    hall: str = ""
    code: str = ""


def link(url: str, machine: Machine) -> str:
    return f"{url.rstrip('/')}/form/m/{quote(machine.id, safe='')}"


def page(machines: Sequence[Machine], url: str, lang: str, style: str = SHEET) -> str:
    """The whole page. `url`: the host by the name that phones use; `style`: the element that brings the style sheet."""
    title = escape(say(lang, "labels.title"))
    warning = ""
    if is_loopback(urlsplit(url).hostname or ""):
        warning = f'<p class="problem" role="alert">{escape(say(lang, "labels.local", url=url))}</p>'
    empty = "" if machines else f"<p>{escape(say(lang, 'labels.none'))}</p>"
    return f"""<!doctype html>
<html lang="{lang}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
{style}
</head>
<body>
<header><h1>{title}</h1><p>{escape(say(lang, "labels.how"))}</p>{warning}</header>
<main>{empty}{"".join(_label(machine, url, lang) for machine in machines)}</main>
</body>
</html>
"""


def _label(machine: Machine, url: str, lang: str) -> str:
    import segno  # only where it is used: commands start without it

    address = link(url, machine)
    # High correction: a label gets oil and scratches. No size of its own: the style sheet says it in millimetres.
    drawn = segno.make(address, error="q", boost_error=False).svg_inline(border=4, omitsize=True, svgclass="qr")
    where = " · ".join(filter(None, (machine.kind, machine.hall)))
    return f"""<section class="label">
<a href="{escape(address)}" aria-label="{escape(machine.id)}">{drawn}</a>
<div><h2>{escape(machine.id)}</h2><p>{escape(where)}</p>
<p class="code">{short_code(machine.id, machine.code)}</p>
<p class="say">{escape(say(lang, "labels.say"))}</p></div>
<p class="link">{escape(address)}</p>
</section>"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="the address that phones use, with its name: https://gw7.plant.example")
    parser.add_argument("--asset", action="append", metavar="ID", help="this machine; may be given again; default: all")
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="default: en")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page, to be opened and printed")
    parser.add_argument("--json", action="store_true", help="names, codes and links instead of a page")


def run(args: argparse.Namespace, machines: Sequence[Machine], url: str) -> str:
    """What the command says; the page itself, unless it goes to `--out`.

    Raises:
        ValueError: there is no such machine, the address is none, or the page can not be written.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError(f"{url} is no address for phones: --url https://gw7.plant.example")
    if unknown := set(args.asset or ()) - {each.id for each in machines}:
        raise ValueError(f"there is no machine {', '.join(sorted(unknown))}")
    chosen = [each for each in machines if not args.asset or each.id in args.asset]
    if args.json:
        rows = [{"asset": each.id, "code": short_code(each.id, each.code), "link": link(url, each)} for each in chosen]
        return json.dumps(rows)
    html = page(chosen, url, args.lang, f"<style>{(STATIC / _STYLE).read_text(encoding='utf-8')}</style>")
    if args.out is None:
        return html
    try:
        args.out.write_text(html, encoding="utf-8")
    except OSError as exc:
        raise ValueError(f"{args.out} can not be written: {exc.strerror}") from exc
    return f"{len(chosen)} labels in {args.out}, with links to {url}"
