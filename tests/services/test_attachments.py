"""Photos and sounds from the phone, by way of agent or server: whole or not at all, and nothing but the picture."""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_agent.config import Broker as BrokerSettings
from edge_agent.uplink import Uplink
from fleet_server.ingest.batch import store
from fleet_server.ingest.reading import read
from fleet_server.store.pool import connect
from models.bundle.signing import PublicKeys
from models.contract import topics
from models.contract.base import Stream
from models.contract.codec import wrap
from simulators.embedded.broker import Broker
from tests import media
from tests.builders import an_annotation
from tests.services.station import Station, now, query, value
from tests.services.test_form_api import AGENT, AgentHost, Host, ServerHost, agent, host, server  # noqa: F401
from tests.support import eventually

PIECE = 100_000
PHOTO = media.a_jpeg(scan=300_000)


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(
    where: Host, data: bytes, offset: int = 0, media_type: str = "image/jpeg", piece: int = PIECE, **changes: Any
) -> httpx.Response:
    """One piece."""
    sha256 = changes.pop("sha256", hash_of(data))
    query = {"offset": offset, "size": len(data), "media_type": media_type} | changes
    headers = {"X-PDM-Form": "1", "Content-Type": "application/octet-stream"}
    content = data[offset : offset + piece]
    return where.http.put(f"/api/attachments/{sha256}", params=query, content=content, headers=headers)


def upload(where: Host, data: bytes, media_type: str = "image/jpeg") -> httpx.Response:
    """All pieces, as the phone sends them: on from where the answer says."""
    answer = put(where, data, 0, media_type)
    while answer.status_code == 200 and answer.json()["state"] == "partial":
        answer = put(where, data, answer.json()["offset"], media_type)
    return answer


def test_a_photo_goes_piece_by_piece_and_goes_on_where_it_was_cut_off(host: Host) -> None:  # noqa: F811
    done = "kept" if host.name == "agent" else "stored"
    state = f"/api/attachments/{hash_of(PHOTO)}/state"
    assert host.http.get(state).status_code == 404
    first = put(host, PHOTO)
    assert (first.json()["offset"], first.json()["state"]) == (PIECE, "partial")
    assert host.http.get(state).json()["offset"] == PIECE
    for offset in (0, PIECE + 1, 250_000):  # sent again, or from elsewhere
        answer = put(host, PHOTO, offset)
        assert (answer.status_code, answer.json()["error"]["code"], answer.json()["offset"]) == (409, "offset", PIECE)
    assert upload_on(host, PHOTO)["state"] == done
    assert put(host, PHOTO, 0).json() == host.http.get(state).json()
    assert host.http.get(state).json() == {
        "sha256": hash_of(PHOTO),
        "size": len(PHOTO),
        "offset": len(PHOTO),
        "state": done,
    }


def upload_on(where: Host, data: bytes) -> Any:
    offset = where.http.get(f"/api/attachments/{hash_of(data)}/state").json()["offset"]
    while (answer := put(where, data, offset)).json()["state"] == "partial":
        offset = answer.json()["offset"]
    return answer.json()


@pytest.mark.parametrize("name", ["position in EXIF", "an archive behind the picture", "EXIF in a PNG", "a program"])
def test_what_carries_more_than_its_picture_is_refused_and_not_kept(host: Host, name: str) -> None:  # noqa: F811
    media_type, data, code = media.BAD[name]
    answer = upload(host, data, media_type)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415 if code == "wrong_type" else 422, code)
    assert answer.json()["sha256"] == hash_of(data)
    assert host.http.get(f"/api/attachments/{hash_of(data)}/state").status_code == 404
    if isinstance(host, ServerHost):
        assert value(host.shop.dsn, "SELECT count(*) FROM attachment") == 0
        assert value(host.shop.dsn, "SELECT outcome FROM decision WHERE kind = 'attachment'") == "refused"


def test_other_bytes_than_announced_start_again(host: Host) -> None:  # noqa: F811
    good = media.a_png()
    wrong = put(host, media.a_png(media.chunk(b"gAMA", b"\0\0\0\1")), media_type="image/png", sha256=hash_of(good))
    assert (wrong.status_code, wrong.json()["error"]["code"], wrong.json()["offset"]) == (422, "wrong_hash", 0)
    assert upload(host, good, "image/png").status_code == 200


def test_too_large_is_refused_before_anything_is_kept(host: Host) -> None:  # noqa: F811
    assert put(host, PHOTO, size=50 * 2**20).status_code == 422
    assert put(host, PHOTO, piece=200_000).status_code == 413
    answer = put(host, PHOTO, size=1000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert put(host, PHOTO, media_type="image/svg+xml").status_code == 422
    assert put(host, PHOTO, sha256="../../etc/passwd").status_code in (404, 405)
    assert put(host, PHOTO, sha256="A" * 64).status_code == 422
    assert host.http.get(f"/api/attachments/{hash_of(PHOTO)}/state").status_code == 404


def test_where_there_is_no_room_the_phone_keeps_it(tmp_path: Path) -> None:
    small = AgentHost(tmp_path, AGENT.replace("[form]", "[outbox]\nattachment_bytes = 500000\n[form]"))
    try:
        assert upload(small, PHOTO).json()["state"] == "kept"
        another = media.a_jpeg(scan=200_000)
        answer = upload(small, another)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "no_room")
        small.outbox.stored(Stream.ATTACHMENT, [(1, 100)])
        assert upload(small, another).json()["state"] == "kept", "there is room again"
    finally:
        small.close()


def test_pieces_from_a_device_in_any_order_and_twice_make_the_same_photo(
    agent: AgentHost,  # noqa: F811
    server: ServerHost,  # noqa: F811
) -> None:
    upload(agent, PHOTO)
    rows = agent.outbox.after(Stream.ATTACHMENT, 0, 1000)
    assert len(rows) == 5
    payloads = [(row.seq, wrap("plant1.gw1", "0" * 32, Stream.ATTACHMENT, row.seq, row.body)) for row in rows] * 2
    random.Random(1).shuffle(payloads)
    for _, payload in payloads:
        with connect(server.shop.dsn) as conn:
            store(conn, [read(topics.up("plant1.gw1", Stream.ATTACHMENT), payload)], now())
    (row,) = query(server.shop.dsn, "SELECT sha256, media_type, size, via, data FROM attachment")
    assert row == (hash_of(PHOTO), "image/jpeg", len(PHOTO), "plant1.gw1", PHOTO)
    assert value(server.shop.dsn, "SELECT count(*) FROM attachment_piece") == 0
    assert value(server.shop.dsn, "SELECT count(*) FROM quarantine") == 0
    assert upload(server, PHOTO).json()["state"] == "stored", "known by its hash: nothing is sent twice"


def test_a_download_is_never_shown_in_our_own_name(server: ServerHost) -> None:  # noqa: F811
    upload(server, PHOTO)
    answer = server.http.get(f"/api/attachments/{hash_of(PHOTO)}")
    assert answer.content == PHOTO
    assert answer.headers["Content-Disposition"].startswith("attachment;")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert server.http.get(f"/api/attachments/{'0' * 64}").status_code == 404


def test_what_no_annotation_names_goes_after_a_month_and_is_counted(server: ServerHost) -> None:  # noqa: F811
    named, lost, newest = (media.a_jpeg(scan=1000 * i) for i in (1, 2, 3))
    photo = {"sha256": hash_of(named), "media_type": "image/jpeg", "size": len(named)}
    assert server.say(an_annotation(attachments=[photo])).status_code == 201
    upload(server, named)
    upload(server, lost)
    with connect(server.shop.dsn) as conn:
        conn.execute("UPDATE attachment SET received_at = now() - interval '31 days'")
    upload(server, newest)
    kept = [server.http.get(f"/api/attachments/{hash_of(data)}").status_code for data in (named, lost, newest)]
    assert kept == [200, 404, 200]
    counts = server.http.get("/api/summary").json()
    assert (counts["attachments"], counts["attachments_dropped"]) == (2, 1)


def test_a_photo_taken_while_the_broker_is_away_is_stored_when_it_is_back(
    agent: AgentHost,  # noqa: F811
    plain_database: str,
    own_broker: Broker,
) -> None:
    station = Station(plain_database, own_broker).start()
    own_broker.kill()
    upload(agent, PHOTO)
    keys = PublicKeys([station.key.public])
    uplink = Uplink(
        "plant1.gw1",
        BrokerSettings(port=own_broker.port),
        keys,
        agent.outbox,
        lambda _: None,
        lambda _: None,
        Counter(),
    )
    thread = threading.Thread(target=uplink.loop)
    thread.start()
    try:
        state = f"/api/attachments/{hash_of(PHOTO)}/state"
        assert agent.http.get(state).json()["state"] == "kept"
        own_broker.start()
        eventually(lambda: agent.http.get(state).json()["state"] == "stored", timeout=60)
        assert bytes(value(plain_database, "SELECT data FROM attachment")) == PHOTO
    finally:
        uplink.stop()
        thread.join(10)
        station.stop()
