"""A page over plain HTTP that brings the authority to a phone: nothing else is there, and nothing is taken."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path

import segno
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from edge_agent.certificate import authority_der, fingerprint
from models import form
from models.form.speech import language, words


def make_help(state_dir: Path, device: str, https_url: str) -> Starlette:
    """`https_url`: where the form is, with the name that phones use."""

    def page(request: Request) -> Response:
        lang = language(request.query_params.get("lang") or request.headers.get("accept-language"))
        html = _page(device, https_url, fingerprint(state_dir), lang)
        return HTMLResponse(html, headers={**form.HEADERS, "Cache-Control": "no-store"})

    def authority(request: Request) -> Response:
        headers = {"Content-Disposition": f'attachment; filename="{device}.crt"', "X-Content-Type-Options": "nosniff"}
        return Response(authority_der(state_dir), media_type="application/x-x509-ca-cert", headers=headers)

    def code(request: Request) -> Response:
        drawn = io.BytesIO()
        segno.make(f"{https_url}/form/", error="m").save(drawn, kind="svg", scale=6, border=4)
        return Response(drawn.getvalue(), media_type="image/svg+xml", headers=form.HEADERS)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/authority.crt", authority),
            Route("/form.svg", code),
            Mount("/static", StaticFiles(directory=form.STATIC)),
        ]
    )


def _page(device: str, https_url: str, sha256: str, lang: str) -> str:
    say = words(lang)
    steps = "".join(
        f"<h2>{escape(say[f'help.{system}'])}</h2><p>{escape(say[f'help.{system}.steps'])}</p>"
        for system in ("android", "ios", "firefox")
    )
    link = f"{https_url}/form/"
    body = f"""<p>{escape(say["help.why"])}</p>
<p><a class="button" href="/authority.crt">{escape(say["help.get"])}</a></p>
<p>{escape(say["help.compare"])}<br><code>{sha256}</code></p>
{steps}
<h2>{escape(say["help.then"])}</h2>
<p><a href="{escape(link)}">{escape(link)}</a></p>
<p><img src="/form.svg" alt="{escape(link)}" width="240" height="240"></p>
<p><a href="/?lang=de" lang="de">Deutsch</a> · <a href="/?lang=en" lang="en">English</a></p>"""
    return form.document(say["help.title"], device, body).replace('<html lang="en">', f'<html lang="{lang}">', 1)
