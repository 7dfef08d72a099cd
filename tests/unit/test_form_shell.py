"""The phone's form as files: what is served, what the worker names, and words that exist in every language."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from models.form.shell import FOLDER, FormFiles

SCRIPTS = sorted(FOLDER.rglob("*.js"))
LISTED = re.compile(r"^const FILES = (.*);$", re.M)
VERSION = re.compile(r'^const VERSION = "(\w+)";$', re.M)


def client(folder: Path = FOLDER) -> httpx.AsyncClient:
    app = Starlette(routes=[Mount("/form", FormFiles(folder))])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gw", follow_redirects=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_the_worker_names_every_file_by_the_hash_of_what_is_served() -> None:
    async with client() as http:
        worker = (await http.get("/form/worker.js")).text
        listed = dict(json.loads(LISTED.findall(worker)[0]))
        for path, sha256 in listed.items():
            assert hashlib.sha256((await http.get(path)).content).hexdigest() == sha256, path
    here = {f"/form/{path.relative_to(FOLDER).as_posix()}" for path in SCRIPTS}
    assert here - set(listed) == {"/form/worker.js"}
    assert "/form/" in listed


@pytest.mark.anyio
async def test_one_changed_byte_is_another_version(tmp_path: Path) -> None:
    copy = tmp_path / "pwa"
    shutil.copytree(FOLDER, copy)
    versions = []
    for change in ("", "\n/* */", ""):
        (copy / "app.css").write_text((FOLDER / "app.css").read_text() + change)
        async with client(copy) as http:
            versions += VERSION.findall((await http.get("/form/worker.js")).text)
    assert versions[0] == versions[2] != versions[1]


@pytest.mark.anyio
async def test_a_place_in_the_form_is_the_shell_and_a_script_that_is_gone_is_not() -> None:
    async with client() as http:
        shell = await http.get("/form")
        assert shell.headers["content-type"].startswith("text/html")
        for path in ("/form/m/pump1", "/form/a/x?v=fault", "/form/nothing"):
            assert (await http.get(path)).text == shell.text
        assert (await http.get("/form/js/gone.js")).status_code == 404
        assert (await http.post("/form/")).status_code == 405
        assert (await http.get("/form/%2e%2e/shell.py")).text == shell.text  # nothing outside is known here


@pytest.mark.anyio
async def test_what_the_browser_has_is_not_sent_again() -> None:
    async with client() as http:
        first = await http.get("/form/js/app.js")
        assert first.headers["content-encoding"] == "gzip"
        assert first.headers["cache-control"] == "no-cache"
        again = await http.get("/form/js/app.js", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def words(language: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((FOLDER / f"texts/{language}.json").read_text(encoding="utf-8"))
    return found


def test_every_language_says_the_same_things_with_the_same_facts() -> None:
    english, german = words("en"), words("de")
    assert set(english) == set(german)
    for name, text in english.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", german[name])), name


def test_every_text_that_is_asked_for_by_name_exists() -> None:
    known = set(words("en")) | {name.removesuffix("_one").removesuffix("_other") for name in words("en")}
    for script in SCRIPTS:
        for name in re.findall(r'\bt\("(\w+)"', script.read_text(encoding="utf-8")):
            assert name in known, f"{script.name}: {name}"


def test_the_shell_fetches_at_once_all_that_the_first_page_imports() -> None:
    needed, todo = set(), [FOLDER / "js/app.js"]
    while todo:
        script = todo.pop()
        if script not in needed:
            needed.add(script)
            found = re.findall(r'^import .* from "(.*)";$', script.read_text(encoding="utf-8"), re.M)
            todo += [(script.parent / name).resolve() for name in found]
    named = re.findall(r'(?:modulepreload" href|src)="/form/(.*?)"', (FOLDER / "index.html").read_text())
    assert {FOLDER / name for name in named} == {path.resolve() for path in needed}


def test_the_form_is_light() -> None:
    files = [path for path in FOLDER.rglob("*") if path.suffix in (".js", ".css", ".html", ".json", ".webmanifest")]
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) < 60_000
    assert not re.search(r"https?://(?!www\.w3\.org)", "".join(path.read_text(encoding="utf-8") for path in files))
