"""A number is never given out twice, whatever became of the file; what can be read is saved, and the rest is told."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from edge_agent.annotate import Journal
from edge_agent.config import OutboxRoom
from edge_agent.errors import BadConfig, DiskTrouble, OutboxDamaged, OutboxFailed
from edge_agent.outbox import Outbox
from edge_agent.outbox.ranges import of, rest
from models.contract.base import SeqRange, Stream
from models.contract.codec import dump
from models.contract.health import StreamCount
from tests.builders import a_status, an_annotation, an_event, some_scores
from tests.unit.test_outbox import evicted, numbers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def whole(count: StreamCount) -> bool:
    """Every number of an outbox that has ended is accounted for once, except what the server had stored."""
    each = [n for ranges in count.evicted.values() for n in numbers(ranges)]
    return sorted(each) == list(range(1, count.produced + 1))


def test_a_lost_file_begins_a_new_epoch_and_tells_of_the_old_one(path: Path) -> None:
    outbox = Outbox(path)
    outbox.put([an_event() for _ in range(5)])
    old = outbox.epoch
    outbox.close()
    for each in path.parent.glob("outbox.db*"):
        each.unlink()
    fresh = Outbox(path)
    assert fresh.epoch != old
    ended = fresh.ended()[old][Stream.ALARM]
    assert set(ended.evicted) == {"lost_with_file"}
    assert ended.produced >= 5
    assert whole(ended)


def test_a_wiped_folder_begins_a_new_epoch(path: Path) -> None:
    first = Outbox(path)
    first.put([an_event()])
    shutil.rmtree(path.parent)
    assert Outbox(path).epoch != first.epoch


def test_an_older_copy_of_the_file_does_not_go_on_from_where_it_was(path: Path, tmp_path: Path) -> None:
    outbox = Outbox(path)
    events = [an_event() for _ in range(5)]
    outbox.put(events[:3])
    outbox.close()
    backup = shutil.copy(path, tmp_path / "backup")
    for i in (3, 4):  # used on, with two more starts
        outbox = Outbox(path)
        outbox.put([events[i]])
        outbox.close()
    old = outbox.epoch
    shutil.copy(backup, path)
    restored = Outbox(path)
    assert restored.epoch != old
    assert [row.body for row in restored.after(Stream.ALARM, 0, 9)] == [dump(event) for event in events[:3]]
    ended = restored.ended()[old][Stream.ALARM]
    assert ended.evicted["salvaged"] == ((1, 3),)
    assert {4, 5} <= numbers(ended.evicted["lost_with_file"])
    assert whole(ended)
    assert len(list(path.parent.glob("outbox.aside-1.db"))) == 1


def test_what_the_server_knows_better_begins_a_new_epoch_with_the_next_start(path: Path) -> None:
    outbox = Outbox(path)
    outbox.put([an_event()])
    with pytest.raises(OutboxDamaged, match="more than"):
        outbox.suspect("more than was ever produced is stored")
    outbox.close()
    fresh = Outbox(path)
    assert fresh.epoch != outbox.epoch
    assert fresh.counts()[Stream.ALARM].waiting == ((1, 1),)
    assert Outbox(path).epoch == fresh.epoch  # once


def test_a_file_that_is_no_outbox_is_set_aside_as_it_was(path: Path) -> None:
    Outbox(path).close()
    path.write_bytes(b"not a database" * 1000)
    outbox = Outbox(path)
    outbox.put([an_event()])
    assert outbox.counts()[Stream.ALARM].waiting == ((1, 1),)
    assert path.with_name("outbox.aside-1.db").read_bytes() == b"not a database" * 1000


def test_beside_the_owner_nothing_is_repaired(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(OutboxFailed, match=r"outbox\.db"):
        Outbox(path, owner=False)
    assert path.read_bytes() == b"not a database" * 1000
    path.unlink()
    Outbox(path).close()
    path.unlink()
    with pytest.raises(OutboxFailed, match="start the agent"):
        Outbox(path, owner=False)


@pytest.mark.parametrize("seed", range(12))
def test_bits_flipped_anywhere_cost_what_they_hit_and_nothing_else(path: Path, seed: int) -> None:
    """A thousand in all, over several files, as the fault model has it, in each stretch of the file."""
    dice = random.Random(seed)
    outbox, events = Outbox(path), [an_event() for _ in range(200)]
    bodies = [dump(event) for event in events]
    outbox.put(events)
    outbox.put([an_annotation() for _ in range(20)])
    outbox.close()
    data = bytearray(path.read_bytes())
    for _ in range(84):
        at = dice.randrange(len(data))
        data[at] ^= 1 << dice.randrange(8)
    path.write_bytes(bytes(data))
    try:
        damaged = Outbox(path)
        rows = damaged.after(Stream.ALARM, 0, 500)
    except OutboxDamaged:  # seen only when it was used: the next start sets it aside
        damaged = Outbox(path)
        rows = damaged.after(Stream.ALARM, 0, 500)
    assert {row.body for row in rows} <= set(bodies)  # what is delivered is what was put
    counts = damaged.counts()[Stream.ALARM]
    if damaged.epoch == outbox.epoch:
        assert {bodies[row.seq - 1] for row in rows} == {row.body for row in rows}
        assert len(rows) + len(evicted(counts)) == 200
    else:
        ended = damaged.ended().get(outbox.epoch)
        assert ended is None or whole(ended[Stream.ALARM])
        assert list(path.parent.glob("outbox.aside-*.db"))
    assert damaged.put([a_status()])


def test_one_torn_page_costs_its_rows_only(path: Path) -> None:
    outbox = Outbox(path)
    outbox.put([an_event() for _ in range(300)])
    (page,) = outbox._db.execute("PRAGMA page_size").fetchone()
    outbox.close()
    data = bytearray(path.read_bytes())
    at = data.index(b'"phase"', len(data) // 2) // page * page
    data[at : at + page] = bytes(page)
    path.write_bytes(bytes(data))
    saved = Outbox(path)
    assert saved.epoch != outbox.epoch
    ended = saved.ended()[outbox.epoch][Stream.ALARM]
    assert ended.produced == 300
    assert 270 <= len(numbers(ended.evicted["salvaged"])) < 300
    assert whole(ended)
    assert saved.counts()[Stream.ALARM].produced == len(numbers(ended.evicted["salvaged"]))


def test_the_journal_is_salvaged_and_knows_where_its_annotations_went(path: Path) -> None:
    outbox = Outbox(path)
    journal = Journal(outbox)
    said = [an_annotation() for _ in range(3)]
    for annotation in said:
        journal.take(annotation)
    journal.put([an_event()])
    outbox.stored(Stream.ANNOTATION, [(1, 1)])
    journal.close()
    path.with_name("outbox.suspect").write_text("a test says so")
    fresh = Outbox(path)
    again = Journal(fresh)
    assert len(again.episodes()) == 1
    assert [again.take(annotation) for annotation in said] == ["again"] * 3
    assert [again.is_stored(annotation.annotation_id) for annotation in said] == [False] * 3
    fresh.stored(Stream.ANNOTATION, [(1, 2)])
    assert [again.is_stored(annotation.annotation_id) for annotation in said] == [False, True, True]


@pytest.mark.parametrize("moved", ["nothing", "db", "db and wal"])
def test_a_start_killed_while_it_sets_aside_is_finished_by_the_next(path: Path, moved: str) -> None:
    """As the file system looks at each moment between two renames."""
    outbox = Outbox(path)
    outbox.put([an_event() for _ in range(4)])
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}  # with a log: nobody has closed it
    outbox.close()
    path.with_name("outbox.suspect").write_text("a test says so")
    Outbox(path).close()
    done = path.read_bytes()
    for each in path.parent.iterdir():
        each.unlink()
    for name, data in before.items():
        (path.parent / name).write_bytes(data)
    path.with_name("outbox.suspect").write_text("a test says so")
    path.with_name("outbox.new.db").write_bytes(done)
    if moved != "nothing":
        path.rename(path.with_name("outbox.aside-1.db"))
    if moved == "db and wal":
        path.with_name("outbox.db-wal").rename(path.with_name("outbox.aside-1.db-wal"))
    last = Outbox(path)
    assert last.epoch != outbox.epoch
    assert len(last.after(Stream.ALARM, 0, 9)) == 4
    assert not path.with_name("outbox.new.db").exists()


def test_numbers_are_reserved_in_the_copy_before_they_are_used(path: Path) -> None:
    outbox = Outbox(path)
    for _ in range(5):
        outbox.put([some_scores() for _ in range(700)])
        copy = json.loads(path.with_name("outbox.id.json").read_text())
        assert copy["epoch"] == outbox.epoch
        assert copy["reserved"]["telemetry"] >= outbox.counts()[Stream.TELEMETRY].produced


def test_records_are_encrypted_on_the_disk_and_another_key_changes_nothing(path: Path, tmp_path: Path) -> None:
    key, other = tmp_path / "key", tmp_path / "other"
    for each in (key, other):
        each.write_text(os.urandom(32).hex() + "\n")
        each.chmod(0o600)
    outbox = Outbox(path, OutboxRoom(key_file=key))
    event = an_event(asset="secretpump")
    outbox.put([event])
    assert outbox.after(Stream.ALARM, 0, 9)[0].body == dump(event)
    outbox.close()
    before = path.read_bytes()
    assert b"secretpump" not in before
    for room in (OutboxRoom(key_file=other), OutboxRoom()):
        with pytest.raises(OutboxFailed, match="nothing was changed"):
            Outbox(path, room)
    assert Outbox(path, OutboxRoom(key_file=key)).after(Stream.ALARM, 0, 9)[0].body == dump(event)
    assert not list(path.parent.glob("outbox.aside*"))


def test_an_encrypted_record_that_was_altered_is_put_aside(path: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    outbox = Outbox(path, OutboxRoom(key_file=key))
    outbox.put([an_event(), an_event()])
    with sqlite3.connect(path) as db:
        first, second = db.execute("SELECT body FROM record ORDER BY place").fetchall()
        db.execute("UPDATE record SET body = ? WHERE body = ?", (*second, *first))
    assert [row.seq for row in outbox.after(Stream.ALARM, 0, 9)] == [2]


def test_what_was_put_before_there_was_a_key_is_still_sent(path: Path, tmp_path: Path) -> None:
    outbox = Outbox(path)
    outbox.put([an_event()])
    outbox.close()
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    outbox = Outbox(path, OutboxRoom(key_file=key))
    outbox.put([an_event()])
    assert [row.seq for row in outbox.after(Stream.ALARM, 0, 9)] == [1, 2]


@pytest.mark.parametrize(("content", "mode", "match"), [("", 0o600, "holds no key"), ("00" * 32, 0o644, "chmod 600")])
def test_a_key_file_is_checked(path: Path, tmp_path: Path, content: str, mode: int, match: str) -> None:
    key = tmp_path / "key"
    key.write_text(content)
    key.chmod(mode)
    with pytest.raises(BadConfig, match=match):
        Outbox(path, OutboxRoom(key_file=key))
    with pytest.raises(BadConfig, match="key_file"):
        Outbox(path, OutboxRoom(key_file=tmp_path / "none"))


@pytest.mark.parametrize(
    ("last", "taken", "left"),
    [
        (5, [], [(1, 5)]),
        (5, [(2, 3)], [(1, 1), (4, 5)]),
        (5, [(1, 9)], []),
        (0, [], []),
        (6, [(4, 5), (1, 2)], [(3, 3), (6, 6)]),
    ],
)
def test_what_is_left_of_a_range(last: int, taken: list[SeqRange], left: list[SeqRange]) -> None:
    assert rest(last, taken) == left
    assert of([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 7), (9, 10)]


def test_a_file_of_the_version_before_goes_on_with_its_numbers(path: Path) -> None:
    db = sqlite3.connect(path)
    db.executescript(
        """
        PRAGMA journal_mode=WAL;
        CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
        CREATE TABLE sequence (stream TEXT PRIMARY KEY, produced INTEGER NOT NULL DEFAULT 0,
            bytes INTEGER NOT NULL DEFAULT 0);
        CREATE TABLE row (stream TEXT NOT NULL, seq INTEGER NOT NULL, created REAL NOT NULL, crc INTEGER NOT NULL,
            body BLOB NOT NULL, PRIMARY KEY (stream, seq)) WITHOUT ROWID;
        CREATE TABLE evicted (stream TEXT NOT NULL, cause TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
            PRIMARY KEY (stream, cause, first));
        CREATE TABLE damaged (stream TEXT NOT NULL, seq INTEGER NOT NULL, body BLOB, PRIMARY KEY (stream, seq));
        INSERT INTO meta VALUES ('epoch', '0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f');
        INSERT INTO sequence VALUES ('alarm', 41, 0);
        INSERT INTO damaged VALUES ('alarm', 7, x'00');
        """
    )
    db.close()
    outbox = Outbox(path)
    assert outbox.epoch == "0f" * 16
    assert outbox.put([an_event()]) == [(Stream.ALARM, 42)]
    assert [(s, n, cause) for s, n, cause, _ in outbox.aside()] == [(Stream.ALARM, 7, "damaged")]


def test_trouble_of_the_disk_has_a_kind(path: Path) -> None:
    outbox = Outbox(path)
    outbox.put([an_event()])
    outbox._db.execute("PRAGMA query_only=ON")  # what a file system does that turned read-only
    with pytest.raises(DiskTrouble) as caught:
        outbox.put([an_event()])
    assert caught.value.kind == "read-only"
    assert len(outbox.after(Stream.ALARM, 0, 9)) == 1
    assert outbox.counts()[Stream.ALARM].produced == 1
    outbox._db.execute("PRAGMA query_only=OFF")
    assert outbox.put([an_event()]) == [(Stream.ALARM, 2)]
