"""The schema is whole or as it was, on both kinds of database; and nobody works on one they do not know."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest

from fleet_server.errors import NotReady, Refused
from fleet_server.ingest.batch import store
from fleet_server.store.migrate import Found, edition, migrate, migrations
from fleet_server.store.pool import connect
from tests import builders
from tests.services.station import ServerProcess, now, query, value
from tests.services.test_ingest import message
from tests.support import eventually


def run(dsn: str, folder: Path | None = None) -> Found:
    with connect(dsn) as conn:
        return migrate(conn, folder)


def tables(dsn: str) -> set[str]:
    return {
        row[0] for row in query(dsn, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    }


def a_folder(path: Path, **files: str) -> Path:
    path.mkdir(exist_ok=True)
    for name, sql in files.items():
        (path / f"{name.removeprefix('m')}.sql").write_text(sql)
    return path


def test_the_edition_is_found_and_the_logs_become_hypertables(database: str) -> None:
    found = run(database)
    with connect(database) as conn:
        assert (found.edition, found.extension) == edition(conn)
        there = conn.execute("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
    if there == (0,):
        assert found.edition == "none"
    else:
        assert found.edition in ("apache", "timescale")
        assert query(database, "SELECT hypertable_name FROM timescaledb_information.hypertables ORDER BY 1") == [
            ("heartbeat",),
            ("prediction",),
        ]
    assert found.schema == migrations()[-1].number
    assert found.applied == tuple(each.name for each in migrations())
    assert run(database).applied == ()  # again: nothing to do


def test_the_extension_is_taken_where_it_is_offered_and_rows_move_along(database: str) -> None:
    """A plant that ran on plain tables gets the extension later."""
    with connect(database) as conn:
        offered = edition(conn)[0] != "none"
        conn.execute("DROP EXTENSION IF EXISTS timescaledb")
    # Made as on a plain server, with data in it.
    plain = migrations()
    with psycopg.connect(database) as conn:
        for each in plain:
            conn.execute(each.sql.encode())
    with connect(database) as conn:
        store(conn, [message(builders.some_scores(7))], now())
        conn.execute(
            "CREATE TABLE schema_migration (number integer PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, "
            "applied_at timestamptz NOT NULL DEFAULT now())"
        )
        for each in plain:
            conn.execute("INSERT INTO schema_migration VALUES (%s, %s, %s)", (each.number, each.name, each.sha256))
    assert (run(database).edition != "none") == offered
    assert value(database, "SELECT count(*) FROM prediction") == 7


def test_a_file_that_fails_leaves_nothing_behind(plain_database: str, tmp_path: Path) -> None:
    folder = a_folder(
        tmp_path / "m",
        m0001_good="CREATE TABLE good (n int);",
        m0002_bad="CREATE TABLE half (n int); INSERT INTO half VALUES (1); SELECT 1 / 0;",
    )
    with pytest.raises(NotReady, match=r"0002_bad.sql could not be applied, the schema is as it was: division by zero"):
        run(plain_database, folder)
    assert tables(plain_database) == {"schema_migration", "good"}
    (folder / "0002_bad.sql").unlink()
    assert run(plain_database, folder).schema == 1  # the older program still runs


def test_killed_in_the_middle_there_is_no_half_schema(plain_database: str, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "m", m0001_slow="CREATE TABLE half (n int); SELECT pg_sleep(60);")
    code = (
        "import sys; from pathlib import Path; from fleet_server.store.migrate import migrate; "
        "from fleet_server.store.pool import connect\n"
        "with connect(sys.argv[1]) as conn: migrate(conn, Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, plain_database, str(folder)])
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(60)%%' AND pid <> pg_backend_pid()"
    eventually(lambda: value(plain_database, sleeping) == 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    query(plain_database, sleeping.replace("count(*)", "pg_terminate_backend(pid)"))  # it would notice after the sleep
    eventually(lambda: value(plain_database, sleeping) == 0)
    assert tables(plain_database) == {"schema_migration"}
    a_folder(folder, m0001_slow="CREATE TABLE half (n int);")
    assert run(plain_database, folder).applied == ("0001_slow.sql",)  # and its lock is gone


def test_a_newer_database_is_refused(plain_database: str, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "m", m0001_a="SELECT 1;", m0002_b="SELECT 1;")
    run(plain_database, folder)
    (folder / "0002_b.sql").unlink()
    with pytest.raises(Refused, match="newer than this program: it has migration 0002"):
        run(plain_database, folder)


def test_a_file_that_was_changed_is_refused(plain_database: str, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "m", m0001_a="SELECT 1;")
    run(plain_database, folder)
    a_folder(folder, m0001_a="SELECT 2;")
    with pytest.raises(Refused, match=r"0001_a.sql is not what was applied"):
        run(plain_database, folder)


def test_several_servers_that_start_at_once_migrate_once(plain_database: str) -> None:
    found: list[Found] = []
    threads = [threading.Thread(target=lambda: found.append(run(plain_database))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(len(each.applied) for each in found) == [0, 0, 0, len(migrations())]


def test_the_command_says_what_it_found(plain_database: str, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server", plain_database, 1)
    done = server.command("migrate")
    assert done.returncode == 0, done.stderr
    assert "TimescaleDB: none, plain tables" in done.stdout
    assert "applied: 0001_ingest.sql" in done.stdout


def test_a_database_that_is_not_there_is_said_in_plain_words_without_the_password() -> None:
    began = time.monotonic()
    with pytest.raises(NotReady) as refused:
        connect("postgresql://fleet:a-secret@127.0.0.1:1/pdm", wait_s=0.6)
    assert "no database at 127.0.0.1:1/pdm after 0.6 s" in str(refused.value)
    assert "a-secret" not in str(refused.value)
    assert time.monotonic() - began < 10
