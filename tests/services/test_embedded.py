"""The embedded database and broker, and the supervisor's parts, as real processes that are really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from models.contract.codec import MAX_PAYLOAD
from simulators.embedded import postgres
from simulators.embedded.broker import Broker, IotCore, Mosquitto
from simulators.embedded.postgres import EmbeddedPostgres
from simulators.embedded.processes import Lifeline, Process, free_port, tcp_ready
from tests.services.conftest import Client
from tests.support import eventually, fresh_database, processes_naming, reachable_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home() -> Iterator[Path]:
    with reachable_folder() as folder:
        yield folder
        eventually(lambda: not processes_naming(str(folder)), 20, "nothing is left running")


@pytest.fixture
def owned(home: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], str]]]:
    """Runs Python source that owns a server and prints one line; gives the process and that line."""
    owners: list[subprocess.Popen[str]] = []

    def run(source: str) -> tuple[subprocess.Popen[str], str]:
        program = f"import sys, time; from pathlib import Path; home = Path({str(home)!r}); {source}; time.sleep(600)"
        owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        owners.append(owner)
        assert owner.stdout
        return owner, owner.stdout.readline().strip()

    yield run
    for owner in owners:
        owner.kill()
        owner.communicate()


OWN_POSTGRES = (
    "from simulators.embedded.postgres import EmbeddedPostgres;"
    "print(EmbeddedPostgres(home / 'postgres').start(), flush=True)"
)


def rows(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        answer = conn.execute("SELECT count(*) FROM t").fetchone()
    return int(answer[0]) if answer else -1


def fill(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("CREATE TABLE t AS SELECT generate_series(1, 1000)")


class TestEmbeddedPostgres:
    def test_it_keeps_its_data_and_its_port_over_a_restart(self, home: Path) -> None:
        with EmbeddedPostgres(home / "postgres") as server:
            fill(server.dsn)
            before = server.dsn
            assert server.restart() == before
            assert rows(server.dsn) == 1000
        with EmbeddedPostgres(home / "postgres", port=free_port()) as server:
            assert rows(server.dsn) == 1000

    def test_it_asks_for_a_password_and_listens_on_loopback_only(self, home: Path) -> None:
        with EmbeddedPostgres(home / "postgres") as server:
            wrong = server.dsn.replace(server.dsn.split(":")[2].split("@")[0], "guess")
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                psycopg.connect(wrong)
            with psycopg.connect(server.dsn) as conn:
                asked = conn.execute(
                    "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')"
                )
                assert asked.fetchone() == ("127.0.0.1", "")
        assert (home / "postgres/password").stat().st_mode & 0o077 == 0

    def test_a_killed_server_comes_back_with_what_was_committed(self, home: Path) -> None:
        with EmbeddedPostgres(home / "postgres") as server:
            fill(server.dsn)
            for _ in range(3):
                server.kill()
                server.start()
                assert rows(server.dsn) == 1000

    def test_a_server_killed_from_outside_comes_back(self, home: Path) -> None:
        with EmbeddedPostgres(home / "postgres") as server:
            fill(server.dsn)
            busy = psycopg.connect(server.dsn)
            busy.execute("SELECT 1")
            pid = int((home / "postgres/data/postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
            assert rows(server.start()) == 1000
            busy.close()

    def test_a_second_owner_of_the_folder_is_refused(self, home: Path) -> None:
        with EmbeddedPostgres(home / "postgres") as server:
            with pytest.raises(RuntimeError, match="another process runs the database"):
                EmbeddedPostgres(home / "postgres").start()
            assert psycopg.connect(server.dsn).execute("SELECT 1")

    def test_it_shuts_down_when_its_owner_is_killed(
        self, home: Path, owned: Callable[[str], tuple[subprocess.Popen[str], str]]
    ) -> None:
        owner, dsn = owned(OWN_POSTGRES)
        fill(dsn)
        owner.kill()
        eventually(lambda: not processes_naming(str(home / "postgres/data")), 20, "no process of the database is left")
        assert "database system is shut down" in (home / "postgres/postgres.log").read_text()
        with EmbeddedPostgres(home / "postgres") as server:
            assert rows(server.dsn) == 1000

    def test_the_next_owner_does_not_have_to_wait(
        self, home: Path, owned: Callable[[str], tuple[subprocess.Popen[str], str]]
    ) -> None:
        owner, dsn = owned(OWN_POSTGRES)
        fill(dsn)
        owner.kill()
        owner.wait()
        with EmbeddedPostgres(home / "postgres") as server:  # while the old one is still shutting down
            assert rows(server.dsn) == 1000

    def test_a_server_whose_owner_and_watchdog_were_killed_is_replaced(
        self, home: Path, owned: Callable[[str], tuple[subprocess.Popen[str], str]]
    ) -> None:
        owner, dsn = owned(OWN_POSTGRES)
        fill(dsn)
        pid = int((home / "postgres/data/postmaster.pid").read_text().split()[0])
        os.kill(os.getpgid(pid), signal.SIGKILL)  # the watchdog leads the server's group
        owner.kill()
        owner.wait()
        os.kill(pid, 0)
        with EmbeddedPostgres(home / "postgres") as server:
            assert rows(server.dsn) == 1000

    def test_a_process_number_that_somebody_else_has_by_now_does_not_stop_it(self, home: Path) -> None:
        with EmbeddedPostgres(home / "postgres") as server:
            fill(server.dsn)
            pid_file = home / "postgres/data/postmaster.pid"
            left = pid_file.read_text().split("\n")
            server.kill()
            pid_file.write_text("\n".join([str(os.getppid()), *left[1:]]))
            server.start()
            assert rows(server.dsn) == 1000

    def test_an_interrupted_first_start_is_begun_again(self, home: Path) -> None:
        (home / "postgres/data").mkdir(parents=True)
        (home / "postgres/data.new/base").mkdir(parents=True)
        with EmbeddedPostgres(home / "postgres") as server:
            fill(server.dsn)

    def test_what_goes_wrong_is_said_and_leaves_the_folder_free(self, home: Path) -> None:
        with pytest.raises(RuntimeError, match=r"did not start.*no_such_setting"):
            EmbeddedPostgres(home / "postgres", settings={"no_such_setting": "1"}).start()
        with EmbeddedPostgres(home / "postgres") as server:
            fill(server.dsn)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for the server")
    def test_a_private_parent_folder_does_not_matter(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(postgres, "_ELSEWHERE", home)
        with EmbeddedPostgres(tmp_path / "postgres") as server:  # pytest's folders are root's alone
            fill(server.dsn)
        with EmbeddedPostgres(tmp_path / "postgres") as server:
            assert rows(server.dsn) == 1000
        (place,) = home.glob("pdm-postgres-*")
        assert (place / "home").read_text() == str(tmp_path / "postgres")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for the server")
    def test_binaries_that_the_server_can_not_reach_are_copied_and_a_planted_copy_is_refused(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres, "_ELSEWHERE", home)
        reachable = EmbeddedPostgres._reachable
        monkeypatch.setattr(
            EmbeddedPostgres,
            "_reachable",
            lambda self, path: "site-packages" not in str(path) and reachable(self, path),
        )
        with EmbeddedPostgres(home / "postgres") as server:
            fill(server.dsn)
        (copy,) = home.glob("embedded-postgres-*")
        os.chown(copy, 65534, 65534)
        with pytest.raises(RuntimeError, match="belongs to somebody else"):
            EmbeddedPostgres(home / "postgres").start()


@pytest.fixture(params=[Mosquitto, IotCore], ids=["mosquitto", "iotcore"])
def any_broker(request: pytest.FixtureRequest, home: Path) -> Iterator[Broker]:
    if request.param is Mosquitto and not Mosquitto.binary():
        pytest.skip("mosquitto is not installed")
    made: Broker = request.param(home / "broker")
    with made as running:
        yield running


class TestBroker:
    def test_a_message_arrives_up_to_the_largest_payload(
        self, any_broker: Broker, connect: Callable[..., Client]
    ) -> None:
        reader, writer = connect(any_broker), connect(any_broker)
        reader.subscribe("a/+")
        sent = [b"small", b"x" * MAX_PAYLOAD]
        for payload in sent:
            writer.publish("a/b", payload)
        eventually(lambda: reader.payloads() == sent)
        assert all(message.qos == 1 for message in reader.received)

    def test_a_retained_message_waits_for_a_late_subscriber(
        self, any_broker: Broker, connect: Callable[..., Client]
    ) -> None:
        connect(any_broker).publish("a/offer", b"kept", retain=True)
        late = connect(any_broker)
        late.subscribe("a/#")
        eventually(lambda: late.payloads() == [b"kept"])
        assert late.received[0].retain

    @pytest.mark.parametrize("how", ["stop", "kill"])
    def test_it_comes_back_on_the_same_port(self, any_broker: Broker, connect: Callable[..., Client], how: str) -> None:
        reader, writer = connect(any_broker), connect(any_broker)
        reader.subscribe("a/b")
        port = any_broker.port
        for _ in range(3):
            getattr(any_broker, how)()
            assert not tcp_ready(port)
            assert any_broker.start() == port
        eventually(lambda: reader.paho.is_connected() and writer.paho.is_connected())

        def arrives() -> bool:  # the subscription of the new connection may be on its way
            writer.publish("a/b", b"again")
            return b"again" in reader.payloads()

        eventually(arrives)

    def test_what_it_queued_and_retained_outlives_a_stop_if_it_says_so(
        self, any_broker: Broker, connect: Callable[..., Client]
    ) -> None:
        reader, writer = connect(any_broker, "reader"), connect(any_broker)
        reader.subscribe("a/#")
        reader.close()
        writer.publish("a/b", b"queued")
        writer.publish("a/offer", b"kept", retain=True)
        any_broker.restart()
        again, late = connect(any_broker, "reader"), connect(any_broker)
        late.subscribe("a/offer")
        if any_broker.persistent:
            eventually(lambda: again.payloads() == [b"queued", b"kept"])
            eventually(lambda: late.payloads() == [b"kept"])
        else:
            writer.publish("a/offer", b"new")
            eventually(lambda: late.payloads() == [b"new"])

    def test_it_ends_when_its_owner_is_killed(
        self, any_broker: Broker, home: Path, owned: Callable[[str], tuple[subprocess.Popen[str], str]]
    ) -> None:
        any_broker.stop()
        kind = type(any_broker).__name__
        owner, port = owned(
            f"from simulators.embedded.broker import {kind}; print({kind}(home / 'broker').start(), flush=True)"
        )
        assert tcp_ready(int(port))
        owner.kill()
        owner.wait()
        with type(any_broker)(home / "broker", int(port)) as heir:  # at once: it waits for the old one to end
            assert tcp_ready(heir.port)
        eventually(lambda: not processes_naming(str(home / "broker")), 20, "no process of the broker is left")

    def test_a_port_that_is_taken_is_named(self, any_broker: Broker, home: Path) -> None:
        with pytest.raises(RuntimeError, match=f"something else listens on 127.0.0.1:{any_broker.port}"):
            type(any_broker)(home / "other", any_broker.port).start(timeout_s=0.2)


class TestFixtures:
    def test_a_test_gets_an_empty_database_of_its_own(self, database: str, request: pytest.FixtureRequest) -> None:
        with psycopg.connect(database) as conn:
            assert conn.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
            extension = conn.execute("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
            assert bool(extension) == ("timescaledb" in request.node.callspec.id)
            if extension:
                conn.execute("CREATE TABLE m (at timestamptz NOT NULL)")
                conn.execute("SELECT create_hypertable('m', 'at')")

    def test_a_database_is_dropped_though_somebody_is_still_connected(self, postgres_server: str) -> None:
        with fresh_database(postgres_server) as uri:
            left_open = psycopg.connect(uri)
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(uri)
        left_open.close()

    def test_the_shared_broker_runs_beside_one_of_the_test_s_own(
        self, broker: Broker, own_broker: Broker, connect: Callable[..., Client]
    ) -> None:
        own_broker.kill()
        assert connect(broker).paho.is_connected()

    def test_eventually_gives_the_answer_or_the_last_reason_why_not(self) -> None:
        answers = iter(["", "", "yes"])
        assert eventually(lambda: next(answers)) == "yes"

        def never() -> None:
            raise AssertionError("three of five")

        with pytest.raises(AssertionError, match=r"not within 0\.1 s: three of five"):
            eventually(never, timeout=0.1)


CHILD = """
import signal, sys, time
from models import lifeline
signal.signal(signal.SIGTERM, lambda *_: (print("asked to end", flush=True), sys.exit(0)))
lifeline.watch()
print("up", flush=True)
time.sleep(600)
"""


class TestProcess:
    def test_it_is_started_stopped_and_started_again(self, home: Path) -> None:
        def ready() -> bool:
            return process.tail().count("up") > process.tail().count("asked to end")

        process = Process("child", [sys.executable, "-c", CHILD, str(home)], log=home / "log", cwd=ROOT, ready=ready)
        first = process.start().pid
        assert process.returncode is None
        assert process.restart().pid != first
        process.stop()
        assert process.returncode == 0
        assert process.tail().count("asked to end") == 2

    def test_one_that_does_not_want_to_end_is_killed_with_its_children(self, home: Path) -> None:
        stubborn = f"trap '' TERM; sleep 600 & : {home}; echo up; wait; wait; while :; do sleep 1; done"
        process = Process("stubborn", ["sh", "-c", stubborn], log=home / "log", ready=lambda: "up" in process.tail())
        process.start()
        began = time.monotonic()
        process.stop(grace_s=0.3)
        assert time.monotonic() - began < 5
        assert process.returncode == -signal.SIGKILL

    def test_one_that_ends_before_it_is_ready_is_reported_with_its_last_words(self, home: Path) -> None:
        process = Process("short", ["sh", "-c", "echo no such file; exit 3"], log=home / "log", ready=lambda: False)
        with pytest.raises(RuntimeError, match=r"short ended with 3: no such file"):
            process.start()

    def test_one_that_is_never_ready_is_stopped(self, home: Path) -> None:
        process = Process("slow", ["sleep", "600"], log=home / "log", ready=lambda: False)
        with pytest.raises(RuntimeError, match="slow was not ready in time"):
            process.start(timeout_s=0.2)
        assert process.returncode is not None

    def test_letting_go_of_the_lifeline_ends_a_child_in_order(self, home: Path) -> None:
        lifeline = Lifeline()
        argv = [sys.executable, "-c", CHILD, str(home)]
        process = Process(
            "child", argv, log=home / "log", cwd=ROOT, lifeline=lifeline, ready=lambda: "up" in process.tail()
        )
        process.start()
        lifeline.close()
        eventually(lambda: process.returncode == 0)
        assert "asked to end" in process.tail()

    def test_children_end_when_their_supervisor_is_killed(
        self, home: Path, owned: Callable[[str], tuple[subprocess.Popen[str], str]]
    ) -> None:
        (home / "child.py").write_text(CHILD)
        owner, said = owned(
            "from simulators.embedded.processes import Lifeline, Process;"
            "line = Lifeline(); argv = [sys.executable, str(home / 'child.py')];"
            "env = {'PYTHONPATH': '.'};"
            "made = [Process(f'c{i}', argv, log=home / f'c{i}.log', lifeline=line, env=env) for i in (1, 2)];"
            "[p.start() for p in made]; print('up', flush=True)"
        )
        assert said == "up"
        eventually(lambda: all("up" in (home / f"c{i}.log").read_text() for i in (1, 2)))
        owner.kill()
        eventually(lambda: not processes_naming(str(home / "child.py")), 20, "no child is left")
        assert "asked to end" in (home / "c1.log").read_text()
