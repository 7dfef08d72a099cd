"""Yesterday's backup is restored: what devices still hold comes again, the rest is listed, no number is used twice."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from fleet_server.release import registry, rollouts
from fleet_server.store import bundles, ledger
from fleet_server.store.pool import connect as open_database
from models.bundle.signing import PublicKeys, SigningKey
from models.contract.base import Stream
from simulators.embedded.broker import Broker
from simulators.embedded.postgres import EmbeddedPostgres
from tests import builders, support
from tests.faults.figures import Measured
from tests.services.conftest import Client
from tests.services.station import Device, Station, query, value
from tests.services.test_ingest import a_beat
from tests.support import eventually

NAME = "pump"


def test_yesterdays_backup_is_restored(
    plain_database: str, postgres_server: str, own_broker: Broker, connect: Callable[..., Client], tmp_path: Path,
    measured: Measured,
) -> None:  # fmt: skip
    key = SigningKey.generate()
    station = Station(plain_database, own_broker, key).start()
    device = Device("plant1.gw1", connect(own_broker), key)
    for _ in range(30):
        device.make(builders.an_event())
    device.deliver()
    pg("pg_dump", "--format=custom", f"--file={tmp_path / 'backup'}", plain_database)

    for _ in range(20):  # a day passes; these have their receipts, so the device forgets them
        device.make(builders.an_event())
    tell(device, produced=50, version=9, assignment=7)
    device.deliver()
    station.stop()
    for _ in range(10):
        device.make(builders.an_event())

    with support.fresh_database(postgres_server) as restored:
        pg("pg_restore", "--exit-on-error", f"--dbname={restored}", str(tmp_path / "backup"))
        assert value(restored, "SELECT count(*) FROM event") == 30
        station = Station(restored, own_broker, key).start()
        try:
            tell(device, produced=60, version=9, assignment=7)
            device.deliver()
            with open_database(restored) as conn:
                lines = [each for each in ledger.account(conn) if each.stream == Stream.ALARM]
            assert [(line.produced, line.stored, line.missing) for line in lines] == [(60, 40, "{[31,51)}")]
            new = a_release(restored)
            given = query(restored, "SELECT sequence FROM assignment WHERE device_id = 'plant1.gw1'")
        finally:
            station.stop()
    assert new > 9, "a version that a device runs already was given to other bytes"
    assert given == [(8,)], "the device has seen this sequence, and takes only a higher one"
    measured(
        "D7",
        "yesterday's backup restored",
        "re-sent from outboxes, the rest a gap, no number re-used",
        f"10 of 10 waiting re-sent, gap 31 to 50 listed, next version {new} and sequence {given[0][0]}",
    )


def tell(device: Device, *, produced: int, version: int, assignment: int) -> None:
    """A heartbeat: so much was made, this runs, and that was the last order."""
    running = {"name": NAME, "version": version, "sha256": "b" * 64}
    device.make(a_beat(outbox={"alarm": {"produced": produced}}, running=running, assignment=assignment))
    device.send_again()
    eventually(lambda: all(stream is not Stream.HEALTH for stream, _ in device.unconfirmed), timeout=20)


def a_release(dsn: str) -> int:
    """The next version is made, approved and rolled out; its number."""
    approver = SigningKey.generate()
    with open_database(dsn) as conn:
        version = bundles.next_version(conn, NAME)
        row = registry.register(
            conn, builders.a_bundle(version), state="candidate", gate={"verdict": "pass", "summary": ""}
        )
        document = registry.document(row, "Olga", "")
        registry.approve(conn, approver.sign(document), PublicKeys([approver.public]))
        found = bundles.get(conn, NAME, version)
        assert found
        rollouts.start(conn, rollouts.preview(conn, found, "1", devices=["plant1.gw1"]))
    return version


def pg(program: str, *words: str) -> None:
    """A tool of the embedded server's own version."""
    subprocess.run([str(EmbeddedPostgres(Path("unused"))._binaries() / program), *words], check=True, timeout=120)
