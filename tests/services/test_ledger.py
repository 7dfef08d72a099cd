"""produced = stored + waiting + quarantined + evicted, counted by numbers that cannot cancel out."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fleet_server.ingest.batch import store
from fleet_server.ingest.reading import Read, read
from fleet_server.store import ledger
from fleet_server.store.ledger import Line, StreamKey
from fleet_server.store.migrate import migrate
from fleet_server.store.pool import connect
from models.contract import topics
from models.contract.base import Stream
from models.contract.codec import wrap
from tests import builders
from tests.services.station import ServerProcess, now, value
from tests.services.test_ingest import a_beat, message

EPOCH = "0" * 32


@pytest.fixture
def dsn(plain_database: str) -> str:
    with connect(plain_database) as conn:
        migrate(conn)
    return plain_database


def put(dsn: str, messages: Sequence[Read]) -> dict[StreamKey, int]:
    with connect(dsn) as conn:
        return store(conn, messages, now())


def alarms(*seqs: int) -> list[Read]:
    return [message(builders.an_event(), seq) for seq in seqs]


def beat(seq: int, **alarm: Any) -> Read:
    return message(a_beat(outbox={"alarm": alarm}), seq)


def line(dsn: str, stream: str = "alarm") -> Line:
    with connect(dsn) as conn:
        return next(each for each in ledger.account(conn) if each.stream == stream)


def unreadable(seq: int) -> Read:
    return read(topics.up(builders.DEVICE, Stream.ALARM), wrap(builders.DEVICE, EPOCH, Stream.ALARM, seq, b"{}"))


def test_every_number_is_counted_once_and_nothing_is_missing(dsn: str) -> None:
    put(dsn, [*alarms(1, 2, 3, 7), unreadable(4)])
    # 7 is waiting and stored: its receipt is under way. 9 was evicted after it had been sent, and came all the same.
    put(
        dsn,
        [
            *alarms(9),
            beat(1, produced=12, waiting=[[7, 8]], evicted={"age": [[5, 5], [9, 10]], "full": [[6, 6], [11, 12]]}),
        ],
    )
    found = line(dsn)
    assert (found.produced, found.stored, found.quarantined, found.waiting) == (12, 5, 1, 1)
    assert found.evicted == {"age": 2, "full": 3}
    assert (found.difference, found.missing) == (0, "{}")
    assert found.produced == found.stored + found.quarantined + found.waiting + sum(found.evicted.values())


def test_a_number_that_nobody_accounts_for_is_found_even_if_the_counts_would_fit(dsn: str) -> None:
    """Three stored, two waiting, five produced: but one is in both, and one in neither."""
    put(dsn, [*alarms(1, 2, 3), beat(1, produced=5, waiting=[[3, 4]])])
    found = line(dsn)
    assert (found.difference, found.missing) == (1, "{[5,6)}")
    with connect(dsn) as conn:
        assert not ledger.statement(ledger.account(conn))["closed"]


def test_what_was_made_after_the_newest_heartbeat_is_not_held_against_it(dsn: str) -> None:
    put(dsn, [*alarms(1, 2, 3, 4), beat(1, produced=2)])
    assert (line(dsn).produced, line(dsn).stored, line(dsn).difference) == (2, 2, 0)


def test_before_any_heartbeat_the_highest_number_counts(dsn: str) -> None:
    put(dsn, alarms(1, 2, 5))
    assert (line(dsn).produced, line(dsn).stored, line(dsn).missing) == (5, 3, "{[3,5)}")


def test_each_outbox_has_an_account_of_its_own(dsn: str) -> None:
    put(
        dsn,
        [*alarms(1), message(builders.an_event(), 1, epoch="1" * 32), message(builders.an_event(), 1, "plant1.gw2")],
    )
    with connect(dsn) as conn:
        lines = ledger.account(conn)
        assert [(each.device, each.epoch[0], each.stored) for each in lines] == [
            ("plant1.gw1", "0", 1),
            ("plant1.gw1", "1", 1),
            ("plant1.gw2", "0", 1),
        ]
        assert [each.device for each in ledger.account(conn, "plant1.gw2")] == ["plant1.gw2"]


def test_a_range_that_ends_before_it_begins_is_refused_and_the_account_still_works(dsn: str) -> None:
    put(dsn, [*alarms(1), beat(1, produced=2, waiting=[[2, 1]])])
    assert "ends before it begins" in value(dsn, "SELECT reason FROM quarantine")
    assert line(dsn).stored == 1


def test_the_mark_is_the_end_of_the_first_run_whatever_the_order(dsn: str) -> None:
    dice = random.Random(5)
    numbers = [n for n in range(1, 301) if n not in (120, 250)]
    dice.shuffle(numbers)
    key, seen = StreamKey(builders.DEVICE, EPOCH, "alarm"), set[int]()
    while numbers:
        part = [numbers.pop() for _ in range(min(len(numbers), dice.randrange(1, 40)))]
        seen |= set(part)
        marks = put(dsn, [unreadable(n) for n in part])
        assert marks[key] == next(n for n in range(1, 302) if n not in seen) - 1
    assert put(dsn, [unreadable(120)])[key] == 249


def test_a_hole_that_stays_costs_no_more_with_every_message(dsn: str) -> None:
    with connect(dsn) as conn:
        conn.execute(
            """
            INSERT INTO ledger (device_id, epoch, stream, seq, received_at)
            SELECT %s, %s, 'alarm', n, now() FROM generate_series(2, 50001) AS n
            """,
            (builders.DEVICE, EPOCH),
        )
        conn.execute("ANALYZE ledger")
        key = StreamKey(builders.DEVICE, EPOCH, "alarm")
        conn.execute("SET LOCAL statement_timeout = '200ms'")
        for _ in range(20):
            assert ledger.advance_marks(conn, [key]) == {key: 0}
        conn.execute("SET LOCAL statement_timeout = '5s'")
        ledger.enter(conn, [ledger.Key(*key, 1)], now())
        assert ledger.advance_marks(conn, [key]) == {key: 50001}


def test_the_command_prints_the_account_and_its_exit_code_says_whether_it_closes(dsn: str, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server", dsn, 1)
    put(dsn, [*alarms(1, 2), beat(1, produced=3, waiting=[[3, 3]])])
    done = server.command("ledger", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["closed"]) == (0, True)
    assert found["totals"]["produced"] == found["totals"]["stored"] + found["totals"]["waiting"] == 4
    assert {each["stream"] for each in found["streams"]} == {"alarm", "health"}
    put(dsn, [beat(2, produced=4, waiting=[[3, 3]])])
    done = server.command("ledger")
    assert done.returncode == 1
    assert "missing: {[4,5)}" in done.stdout
    assert "NOT closed" in done.stdout


def test_looking_at_the_ledger_loads_no_training_code(dsn: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    server = ServerProcess(tmp_path / "server", dsn, 1)
    code = (
        "import sys; from fleet_server.cli import main; main(sys.argv[1:]); "
        "sys.exit(any(name in sys.modules for name in ('sklearn', 'skl2onnx', 'onnxruntime', 'fastapi', 'dbos')))"
    )
    done = subprocess.run([sys.executable, "-c", code, "ledger", "--config", str(server.config)], check=False)
    assert done.returncode == 0


def test_ids_are_unique_across_devices_with_the_same_numbers(dsn: str) -> None:
    """The trace id is for people; identity is device, epoch, stream and number."""
    trace = uuid.uuid4()
    put(dsn, [message(builders.an_event(trace_id=trace), 1, device) for device in ("plant1.gw1", "plant1.gw2")])
    assert value(dsn, "SELECT count(*) FROM event") == 2
