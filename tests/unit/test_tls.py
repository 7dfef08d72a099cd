"""TLS with a dead clock, over a real handshake in memory."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from edge_agent.tls import EVERY_S, bear_dead_clock
from tests.tls import DAY, Ca
from tests.unit.test_clock import Time


@pytest.fixture
def ca(tmp_path: Path) -> Ca:
    return Ca(tmp_path / "ca")


def handshake(context: ssl.SSLContext, certificate: tuple[Path, Path], name: str = "127.0.0.1") -> None:
    """One as paho makes it. Raises what the client's end raises."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    ours, theirs = socket.socketpair()

    def answer() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with context.wrap_socket(ours, server_hostname=name, do_handshake_on_connect=False) as wrapped:
            wrapped.do_handshake()
    finally:
        ours.close()
        thread.join()


def device(ca: Ca, machine: Time) -> tuple[ssl.SSLContext, Counter[str]]:
    counters: Counter[str] = Counter()
    return bear_dead_clock(ssl.create_default_context(cafile=ca.path), machine.clock(), counters), counters


@pytest.mark.parametrize(("since", "until"), [(-2 * DAY, -DAY), (DAY, 2 * DAY)], ids=["expired", "not yet"])
def test_with_a_dead_clock_dates_are_overlooked_once_and_counted(ca: Ca, since: timedelta, until: timedelta) -> None:
    machine = Time(synced=False)
    context, counters = device(ca, machine)
    wrong = ca.certificate("broker", since=since, until=until)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, wrong)  # the first is strict: dates may be right after all
    handshake(context, wrong)
    assert counters["tls_without_dates"] == 1
    for _ in range(3):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(context, wrong)
    machine.monotonic += EVERY_S + 1
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, wrong)
    handshake(context, wrong)
    assert counters["tls_without_dates"] == 2


@pytest.mark.parametrize("synced", [True, None])
def test_with_a_clock_that_is_kept_dates_always_count(ca: Ca, synced: bool | None) -> None:
    context, counters = device(ca, Time(synced=synced))
    expired = ca.certificate("broker", since=-2 * DAY, until=-DAY)
    for _ in range(3):
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            handshake(context, expired)
    assert not counters


def test_chain_and_name_count_whatever_the_clock_says(ca: Ca, tmp_path: Path) -> None:
    machine = Time(synced=False)
    context, counters = device(ca, machine)
    expired = ca.certificate("broker", since=-2 * DAY, until=-DAY)
    other = Ca(tmp_path / "other").certificate("broker", since=-2 * DAY, until=-DAY)
    for certificate, name in ((other, "127.0.0.1"), (expired, "127.0.0.2")):
        machine.monotonic += EVERY_S + 1
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(context, expired)  # the next one is without dates
        for _ in range(2):
            with pytest.raises(ssl.SSLCertVerificationError):
                handshake(context, certificate, name)
    assert not counters
