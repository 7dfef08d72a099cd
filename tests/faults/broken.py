"""Programs broken on purpose, so that each fault test is seen to fail: `python -m tests.faults.broken NAME edge_agent`.

A break is a patch of the running program, made from outside before anything else of it is imported; nothing in the
product can switch it on. Each names the tests that must see it.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sqlite3
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from unittest import mock

VARIABLE: Final = "PDM_BROKEN"


class Break(NamedTuple):
    patch: Callable[[], None]
    tests: tuple[str, ...]  # each of which must fail with it,
    because: str  # saying something like this


BREAKS: Final[dict[str, Break]] = {}  # by name


def breaks(*tests: str, because: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """These, below tests/, must fail with this break, and with a word of this pattern."""

    def register(patch: Callable[[], None]) -> Callable[[], None]:
        BREAKS[patch.__name__] = Break(patch, tuple(f"tests/{test}" for test in tests), because)
        return patch

    return register


def apply(name: str | None = None) -> None:
    """Build it in; without a name the one that the environment names, if any."""
    if name := name or os.environ.get(VARIABLE):
        BREAKS[name].patch()


# -- the outbox -------------------------------------------------------------------------------------------------


@breaks(
    "system/test_power.py::test_a_power_cut_under_load_loses_nothing_confirmed",
    because="forgotten|a floor is lower|lost",
)
def normal_sync() -> None:
    """SQLite's own default for WAL: a commit is not synced."""
    real = sqlite3.connect

    class Careless(sqlite3.Connection):
        def execute(self, statement: str, *args: Any) -> sqlite3.Cursor:
            if "synchronous" in statement.lower():
                statement = "PRAGMA synchronous=NORMAL"
            return super().execute(statement, *args)

    sqlite3.connect = lambda *args, **kw: real(*args, **{"factory": Careless, **kw})


@breaks(
    "system/test_agent_kill.py::test_killed_at_random_under_load_nothing_confirmed_is_lost",
    "system/test_crash_points.py::test_an_agent_is_killed_at_every_point_of_its_life",
    because="lost|wait",
)
def number_before_row() -> None:
    """A number is given out in a transaction of its own, and the row that it is for comes a moment later."""
    from edge_agent.outbox.store import Outbox

    real = Outbox._number

    def committed(self: Outbox, *args: Any) -> int:
        last = real(self, *args)
        self._db.execute("COMMIT")
        time.sleep(0.05)
        self._db.execute("BEGIN IMMEDIATE")
        return last

    Outbox._number = committed


@breaks("system/test_storage.py::test_flipped_bits_cost_their_row_and_no_other", because="given_up|not within|==")
def no_crc() -> None:
    from edge_agent.outbox import store

    store.crc = lambda place, body: 0


@breaks("services/test_outage.py::test_a_long_outage_at_four_times_its_room_and_a_flapping_link", because="evicted")
def one_room_for_all() -> None:
    """Whoever is oldest goes, alarms too."""
    from edge_agent.outbox.room import ClassRoom, Room

    real = Room.__init__

    def shared(self: Room, *args: Any) -> None:
        real(self, *args)
        least = min(room.max_bytes for room in self.classes.values())
        self.classes = {stream: ClassRoom(least // 20, room.hours, False) for stream, room in self.classes.items()}

    Room.__init__ = shared


@breaks(
    "system/test_storage.py::test_another_program_fills_the_disk",
    "system/test_storage.py::test_the_file_system_turns_read_only",
    because="Connection refused|Remote end closed|nothing is scored",
)
def a_full_disk_is_the_end() -> None:
    """No room is made, and whoever writes dies of it."""
    from edge_agent.outbox.store import Outbox
    from edge_agent.outbox.writer import Writer

    def give_back(self: Writer, batch: Any, exc: Exception) -> None:
        raise exc

    Writer._give_back, Outbox._relieve = give_back, lambda self, reason: False


@breaks("system/test_storage.py::test_a_slow_disk_holds_up_no_sampling", because="assert .* > 16")
def sampling_waits_for_the_disk() -> None:
    from edge_agent.outbox.writer import Writer

    real = Writer.put

    def put(self: Writer, *args: Any) -> None:
        real(self, *args)
        self.flush(60.0)

    Writer.put = put


@breaks("system/test_storage.py::test_the_state_folder_is_wiped", because="not within")
def one_epoch_for_ever() -> None:
    from models.contract import ids

    ids.new_epoch = lambda: "0" * 32


@breaks(
    "unit/test_outbox_file.py::test_an_older_copy_of_the_file_does_not_go_on_from_where_it_was", because="epoch|assert"
)
def no_second_copy_of_numbers() -> None:
    from edge_agent.outbox import identity

    identity.read = lambda path: None


# -- the uplink -------------------------------------------------------------------------------------------------


@breaks(
    "services/test_uplink.py::test_acknowledged_by_the_broker_is_not_stored",
    "system/test_link.py::test_a_broker_stopped_and_killed_again_and_again",
    because="lost|waiting|accepted|not within",
)
def delete_before_receipt() -> None:
    """What the broker has acknowledged is forgotten."""
    from edge_agent.uplink.station import Uplink

    real = Uplink._on_acked

    def acked(self: Uplink, acked: Any) -> None:
        parcel = self._mids.get(acked.mid)
        real(self, acked)
        if parcel:
            ranges = [(seq, seq) for seq in parcel.seqs]
            self._outbox.stored(parcel.stream, ranges)
            self._lanes.stored(parcel.stream, ranges)

    Uplink._on_acked = acked


@breaks(
    "system/test_link.py::test_connections_that_break_in_the_middle_of_a_packet",
    "system/test_brokers.py::test_what_a_full_broker_drops_comes_again",
    because="wait",
)
def sent_once() -> None:
    """Neither the receipt timer nor a new connection brings what is under way again."""
    from edge_agent.uplink.lanes import Lanes

    real = Lanes.forget

    def forget(self: Lanes) -> None:
        if not hasattr(self, "_parcels"):
            real(self)

    Lanes.forget, Lanes.late = forget, lambda self, now: []


@breaks(
    "services/test_uplink.py::test_a_receipt_counts_only_if_the_server_signed_it_for_this_outbox", because="not within"
)
def anybodys_receipt() -> None:
    """The type is looked at, the signature is not."""
    from securesystemslib.dsse import Envelope

    Envelope.verify = lambda self, keys, threshold: {}


@breaks("system/test_brokers.py::test_another_broker_behind_the_same_name", because="not within|epochs")
def any_broker() -> None:
    from edge_agent.config import Broker

    Broker.tls = lambda self: ssl._create_unverified_context()


@breaks("system/test_link.py::test_a_partition_in_one_direction", because="not within")
def half_open_is_open() -> None:
    """Silence is never suspicious."""
    from edge_agent.uplink.link import Link

    real = Link.turn

    def turn(self: Link, timeout_s: float, waiting: bool) -> None:
        if self._client:
            self._client._ping_t = 0
        self._heard_at = time.monotonic()
        real(self, timeout_s, waiting)

    Link.turn = turn


@breaks("unit/test_uplink_parts.py::test_waits_grow_with_full_jitter_and_shrink_when_it_worked", because="assert")
def no_jitter() -> None:
    import random

    random.Random.random = lambda self: 1.0


@breaks(
    "services/test_uplink_faults.py::test_a_link_that_is_reset_again_and_again_is_tried_at_most_once_a_second",
    "system/test_link.py::test_a_broker_that_refuses_is_not_hammered",
    because="assert",
)
def no_back_off() -> None:
    from edge_agent.uplink.backoff import Backoff

    Backoff.wait_s = lambda self, reason: 0.0


@breaks("system/test_brokers.py::test_a_broker_lowers_its_limits", because="oversize|given up without need|wait")
def own_limits_only() -> None:
    """What the broker says of its limits is not heard."""
    from edge_agent.uplink.link import MAX_PAYLOAD, Link

    Link.max_payload = property(lambda self: MAX_PAYLOAD, lambda self, value: None)


@breaks(
    "services/test_uplink_faults.py::test_a_record_that_kills_the_connection_is_put_aside_and_nothing_else",
    because="not within",
)
def no_quarantine_for_what_kills_the_link() -> None:
    from edge_agent.uplink.lanes import Lanes

    Lanes.died = lambda self: []


# -- the model --------------------------------------------------------------------------------------------------


@breaks("unit/test_rollout.py::test_the_floor_holds_though_either_copy_of_it_is_lost", because="Step.REJECTED")
def no_floor() -> None:
    from edge_agent.bundles import Memory

    real = Memory.get
    Memory.get = lambda self, key, default=None: 0 if key == "floor" else real(self, key, default)


@breaks("system/test_storage.py::test_either_copy_of_the_floors_is_emptied", because="emptied")
def one_copy_of_the_floors() -> None:
    from edge_agent import bundles

    bundles.FLOORS = ()


@breaks("unit/test_rollout.py::test_an_older_or_repeated_assignment_changes_nothing", because="assert")
def older_orders_count() -> None:
    from edge_agent.bundles import Memory

    real = Memory.get
    Memory.get = lambda self, key, default=None: 0 if key == "sequence" else real(self, key, default)


@breaks("services/test_release.py::test_two_must_sign_and_one_person_is_not_two", because="DID NOT RAISE|assert")
def one_signature_is_enough() -> None:
    from models.bundle.signing import PublicKeys

    real = PublicKeys.__init__
    PublicKeys.__init__ = lambda self, keys, threshold=1: real(self, keys, 1)


@breaks("unit/test_rollout.py::test_altered_pieces_are_fetched_again_and_not_for_ever", because="assert")
def no_hash_of_a_download() -> None:
    from edge_agent.rollout import download

    download.digest = lambda data: mock.ANY


@breaks(
    "unit/test_harmful_graphs.py::test_each_is_refused_in_time_by_a_process_that_may_die_of_it", because="DID NOT RAISE"
)
def check_skipped() -> None:
    from edge_agent.rollout import examine

    examine.examine = lambda bundle, give_up, wall_s=0: None


@breaks(
    "unit/test_switch.py::test_other_scores_than_the_golden_ones_are_no_fit_for_this_machine", because="DID NOT RAISE"
)
def golden_scores_skipped() -> None:
    from models.scoring import Scorer

    Scorer.check_canary = lambda self: None


@breaks(
    "system/test_harmful_release.py::test_with_server_and_broker_gone_it_is_never_verified_and_the_one_before_runs",
    because="it is still there|assert",
)
def trial_skipped() -> None:
    """Whatever it shows, it is healthy."""
    from edge_agent.rollout import trial

    trial.harm = lambda report, limits: None


@breaks("unit/test_rollout.py::test_a_cut_at_every_step_leaves_a_good_model_and_the_way_goes_on", because="assert")
def restart_verifies() -> None:
    """A trial that a restart cut short counts as passed."""
    from edge_agent.rollout.steps import STEPS, Event
    from models.contract.release import Step

    STEPS[Step.TRIAL, Event.RESTARTED] = Step.ACTIVE


# -- the process and its clock ----------------------------------------------------------------------------------


@breaks(
    "system/test_agent_kill.py::test_a_second_agent_on_the_folder_refuses_to_start", because="TimeoutExpired|assert"
)
def no_lock() -> None:
    import fcntl

    fcntl.flock = lambda file, how: None


@breaks(
    "system/test_agent_kill.py::test_a_part_that_dies_takes_the_process_with_it_and_nothing_confirmed",
    "system/test_daemon.py::test_without_file_descriptors_it_waits_and_goes_on_when_there_are_some",
    because="assert|TimeoutExpired|not within",
)
def half_alive() -> None:
    """A part that dies does so quietly; and what the network can not do kills the part that wants it."""
    import paho.mqtt.client as mqtt

    from edge_agent.agent import Agent
    from edge_agent.vitals import no_pulse

    connect = mqtt.Client.connect

    def start(self: Agent, name: str, loop: Callable[[Any], None]) -> threading.Thread:
        def quietly() -> None:
            with contextlib.suppress(Exception):
                loop(no_pulse)

        thread = threading.Thread(target=quietly, name=name, daemon=True)
        thread.start()
        return thread

    def deadly(self: mqtt.Client, *args: Any, **kw: Any) -> Any:
        try:
            return connect(self, *args, **kw)
        except OSError as exc:
            raise RuntimeError("no network") from exc

    Agent._start, mqtt.Client.connect = start, deadly


@breaks("system/test_daemon.py::test_a_part_that_stands_still_ends_the_process", because="not within")
def nobody_looks() -> None:
    from edge_agent.vitals import Vitals

    Vitals.look = lambda self, status=str: None


@breaks("system/test_daemon.py::test_stopped_for_a_while_it_comes_back_and_blames_no_sensor", because="silent")
def a_stop_is_the_sources_silence() -> None:
    from edge_agent.sensors.silence import Silence

    Silence.stood_still = lambda self, seconds: None


@breaks("system/test_soak.py::test_memory_does_not_grow", because="assert")
def leak() -> None:
    """Something of each window is kept."""
    from edge_agent.detect.detector import Detector

    kept: list[bytes] = []
    real = Detector.feed

    def feed(self: Detector, *args: Any) -> None:
        kept.append(os.urandom(200_000))
        real(self, *args)

    Detector.feed = feed


@breaks("system/test_clock.py::test_while_the_clock_jumps_windows_order_and_ids_hold", because="assert")
def durations_by_the_wall_clock() -> None:
    from edge_agent.clock import Clock

    real = Clock.__init__

    def wrong(self: Clock, *args: Any, **kw: Any) -> None:
        real(self, *args, **kw)
        self.monotonic = time.time

    Clock.__init__ = wrong


@breaks(
    "system/test_clock.py::test_with_a_dead_clock_the_agent_connects_over_tls_and_says_what_its_times_are_worth",
    because="assert|1970",
)
def no_clock_floor() -> None:
    from edge_agent.clock import Clock

    Clock.time = lambda self: self._wall()


@breaks("unit/test_logs.py::test_nothing_that_a_terminal_obeys_and_no_second_line_gets_out", because="assert")
def logs_as_they_come() -> None:
    from models import logs

    logs.one_line = lambda text, limit=0: text


# -- the sources ------------------------------------------------------------------------------------------------

_THREE: Final = "system/test_sources.py::test_three_protocols_at_once_and_each_line_cut_loses_only_what_was_never_sent"


@breaks(_THREE, because="nothing is carried over a gap")
def held_over_a_cut() -> None:
    """The last value holds until the line is back."""
    from edge_agent.sensors.resampled import JoinedSource

    JoinedSource.cut = lambda self: iter(())


@breaks(_THREE, because="AssertionError")
def deaf_after_a_cut() -> None:
    """What comes in the first three seconds after a lost line is not taken."""
    from models.grid import Grid

    real = Grid.cut

    def cut(self: Grid, *, anew: bool = False) -> None:
        real(self, anew=anew)
        self._done += 3 * self.rate_hz

    Grid.cut = cut


@breaks(
    "services/sources/test_mqtt.py::test_a_flood_is_bounded_the_newest_is_kept_and_every_drop_is_counted",
    "services/sources/test_lines.py::test_a_flood_is_bounded_and_every_line_dropped_is_counted",
    because="assert|not within",
)
def drops_are_not_counted() -> None:
    from edge_agent.sensors.base import LiveSource
    from edge_agent.sensors.lines import Lines

    LiveSource.size = Lines.size = lambda self, item: 0


# -- the server -------------------------------------------------------------------------------------------------


@breaks(
    "services/test_ingest.py::test_killed_at_any_step_of_storing_there_is_no_receipt_without_a_row",
    "services/test_ingest.py::test_while_the_database_is_away_nothing_is_confirmed_and_then_everything",
    because="receipts without a row|assert",
)
def receipt_before_commit() -> None:
    from fleet_server.ingest import worker
    from fleet_server.store.ledger import StreamKey

    real = worker.Worker._commit

    def commit(self: worker.Worker, messages: Any, *more: Any) -> Any:
        keys = [each.key for each in messages if each.key]
        for topic, payload in worker.receipts(keys, {StreamKey(*key[:3]): 0 for key in keys}, self._signer):
            self._broker.publish(topic, payload)
        time.sleep(0.2)
        return real(self, messages, *more)

    worker.Worker._commit = commit


@breaks(
    "services/test_ingest.py::test_five_copies_in_any_order_are_stored_once_and_confirmed", because="assert|not within"
)
def every_copy_is_new() -> None:
    from fleet_server.store import ledger

    real = ledger.enter

    def enter(conn: Any, keys: Any, at: Any) -> Any:
        real(conn, keys, at)
        return set(keys)

    ledger.enter = enter


@breaks(
    "services/test_ingest.py::test_malformed_messages_are_put_aside_with_a_reason_and_the_next_good_one_is_stored",
    "services/test_ingest.py::test_nobody_uses_up_another_devices_numbers",
    because="assert|not within",
)
def quarantine_skipped() -> None:
    """What can not be read is dropped without a word."""
    from fleet_server.store import quarantine

    quarantine.insert = lambda *_: None


@breaks(
    "services/test_ingest.py::test_windows_of_a_clock_that_cannot_be_right_are_stored_and_kept_out_of_training",
    because="assert",
)
def any_time_trains() -> None:
    from fleet_server.ingest import handlers

    handlers.clock_doubt = lambda *_: None


@breaks("services/test_restore.py::test_yesterdays_backup_is_restored", because="was given to other bytes")
def numbers_of_the_backup() -> None:
    """What devices say of the numbers that they have seen is not looked at."""
    from fleet_server.store import bundles

    bundles.next_version = lambda conn, name: 2


@breaks(
    "services/test_storm.py::test_a_storm_of_one_device_holds_up_no_other_and_loses_nothing",
    "services/test_storm.py::test_in_a_storm_of_all_telemetry_gives_way_before_alarms",
    because="not within",
)
def no_share_for_each_device() -> None:
    from fleet_server.ingest.flood import Flood

    Flood.bears = lambda self, topic, crowded: True


if __name__ == "__main__":
    apply(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
