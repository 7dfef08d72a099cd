"""HTTPS on a plant's network: one small authority for one device's names, and a page that brings it to phones."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from edge_agent import certificate, cli
from edge_agent.agent import Agent
from edge_agent.config import load
from edge_agent.errors import AgentError, BadConfig
from edge_agent.page.serving import LOOK_S, Serving
from edge_agent.tls import NO_CHECK_TIME
from tests import support
from tests.services.test_form_api import AGENT
from tests.support import eventually

NAME = "gw7.plant.example"
SETTINGS = AGENT.replace("port = -1", f'sign_in = "enrolled"\nport = 0\nhelp_port = 0\nnames = ["{NAME}"]')


class Site:
    """An agent's pages, and a client that trusts only its authority."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "agent.toml"
        self.config.write_text(SETTINGS)
        self.agent = Agent(load(self.config), tell=lambda _: None)
        self.state_dir = self.agent.config.state_dir
        self.serving = Serving(self.agent.desk(), self.agent.config.form, self.state_dir)
        self._threads = [threading.Thread(target=server.loop, daemon=True) for server in self.serving.servers]
        for thread in self._threads:
            thread.start()
        self.port = int(self.serving.page.url.rpartition(":")[2])
        self.help = self.serving.servers[1].url.replace(NAME, "127.0.0.1")

    def handshake(self, name: str = NAME, *, any_day: bool = False) -> x509.Certificate:
        """What the page shows, verified as a phone does that has installed the authority."""
        context = ssl.create_default_context(cafile=certificate.files(self.state_dir).authority)
        context.verify_flags |= NO_CHECK_TIME if any_day else 0
        with (
            socket.create_connection(("127.0.0.1", self.port), 10) as plain,
            context.wrap_socket(plain, server_hostname=name) as tls,
        ):
            der = tls.getpeercert(True)
            assert der is not None
            return x509.load_der_x509_certificate(der)

    def stop(self) -> None:
        self.serving.stop()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.stop()


def test_a_phone_that_has_the_authority_trusts_this_name_and_no_other(site: Site) -> None:
    shown = site.handshake()
    assert shown.not_valid_after_utc - datetime.now(UTC) < timedelta(days=398)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"elsewhere\.example"):
        site.handshake("elsewhere.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(
            socket.create_connection(("127.0.0.1", site.port)), server_hostname=NAME
        )
    for path in (certificate.files(site.state_dir).authority_key, certificate.files(site.state_dir).key):
        assert path.stat().st_mode & 0o077 == 0


def test_the_authority_cannot_vouch_for_anybody_else(site: Site) -> None:
    """Its key, stolen, signs a bank's name: a phone that has installed the authority refuses it."""
    at = certificate.files(site.state_dir)
    authority = x509.load_pem_x509_certificate(at.authority.read_bytes())
    forged = at._replace(chain=site.folder / "forged.pem", key=site.folder / "forged-key.pem")
    certificate._make_certificate(forged, authority, (NAME, "bank.example"), datetime.now(UTC))
    shutil.copy(forged.chain, at.chain)
    shutil.copy(forged.key, at.key)
    site.serving.page.reload()
    for name in ("bank.example", NAME):
        with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
            site.handshake(name)


def test_the_certificate_is_renewed_while_the_agent_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    before = site.handshake()
    monkeypatch.setattr("edge_agent.page.serving.LOOK_S", 0.0)
    site.serving.look(datetime.now(UTC))
    assert site.handshake() == before, "not yet"
    site.serving.look(datetime.now(UTC) + timedelta(days=370))
    after = site.handshake(any_day=True)
    assert after.not_valid_after_utc > before.not_valid_after_utc + timedelta(days=300)
    assert certificate.fingerprint(site.state_dir), "and the authority on the phones is the same"
    certificate.files(site.state_dir).authority_key.unlink()
    site.serving.look(datetime.now(UTC) + timedelta(days=800))
    assert site.handshake(any_day=True) == after, "what cannot be renewed stays, and the log says why"
    assert LOOK_S > 0


def test_the_plain_page_brings_the_authority_and_nothing_else(site: Site) -> None:
    with httpx.Client(base_url=site.help) as phone:
        page = phone.get("/", headers={"Accept-Language": "de-AT"})
        assert 'lang="de"' in page.text
        assert certificate.fingerprint(site.state_dir) in page.text
        assert f"https://{NAME}:{site.port}/form/" in page.text
        assert "script" not in page.headers["Content-Security-Policy"].replace("script-src 'self'", "")
        file = phone.get("/authority.crt")
        assert file.headers["Content-Type"] == "application/x-x509-ca-cert"
        there = x509.load_pem_x509_certificate(certificate.files(site.state_dir).authority.read_bytes())
        assert x509.load_der_x509_certificate(file.content) == there
        assert phone.get("/form.svg").headers["Content-Type"].startswith("image/svg+xml")
        for path in ("/api/status", "/api/form/bootstrap", "/form/", "/authority-key.pem"):
            assert phone.get(path).status_code == 404, path


def test_other_names_need_another_authority(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(SETTINGS)
    argv = ["certificate", "--json", "--config", str(config)]
    assert cli.main(argv) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["names"], first["written"]) == ([NAME], True)
    assert cli.main(argv) == 0
    assert json.loads(capsys.readouterr().out) == first | {"written": False}
    config.write_text(SETTINGS.replace(f'["{NAME}"]', f'["{NAME}", "other.plant.example"]'))
    assert cli.main(argv) == 2
    assert "--new-authority" in capsys.readouterr().err
    assert cli.main([*argv, "--new-authority"]) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] != first["sha256"]


@pytest.mark.parametrize("name", ["192.168.1.7", "no name", "-x", ""])
def test_an_address_is_no_name(name: str, tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(SETTINGS.replace(NAME, name))
    with pytest.raises(BadConfig, match=r"form\.names"):
        load(config)


def test_a_damaged_certificate_says_so(tmp_path: Path) -> None:
    at = certificate.files(tmp_path)
    at.authority.parent.mkdir()
    at.authority.write_text("nonsense")
    with pytest.raises(AgentError, match=r"authority\.pem"):
        certificate.ensure(tmp_path, "plant1.gw7", (NAME,), datetime.now(UTC))


def test_in_a_browser_that_has_the_authority_the_form_works_offline(site: Site, tmp_path: Path) -> None:
    """The worker registers: that takes a secure context, and a name the certificate is for."""
    chromium, certutil = support.chromium(), shutil.which("certutil")
    if chromium is None or certutil is None:
        pytest.skip("no Chromium or no certutil on this machine")
    from playwright.sync_api import sync_playwright

    home = tmp_path / "home"
    store = home / ".pki" / "nssdb"
    store.mkdir(parents=True)
    run = [certutil, "-d", f"sql:{store}"]
    subprocess.run([*run, "-N", "--empty-password"], check=True)
    authority = str(certificate.files(site.state_dir).authority)
    subprocess.run([*run, "-A", "-n", "plant", "-t", "C,,", "-i", authority], check=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            env={"HOME": str(home)},
            args=["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP {NAME} 127.0.0.1"],
        )
        page = browser.new_page()
        page.set_default_timeout(30_000)
        page.goto(f"https://{NAME}:{site.port}/form/")
        assert page.evaluate("window.isSecureContext")
        registered = "async () => (await navigator.serviceWorker.getRegistration('/form/'))?.active?.scriptURL || ''"
        eventually(lambda: page.evaluate(registered).startswith(f"https://{NAME}:{site.port}/form/"), timeout=30)
        browser.close()
