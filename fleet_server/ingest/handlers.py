"""One function a kind of message: what of it becomes which row. Whoever raises Unreadable has changed nothing
before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from fleet_server.errors import AttachmentRefused, Refused
from fleet_server.feedback import attachments, intake
from fleet_server.ingest.columns import AHEAD, FIRST_YEAR, predictions
from fleet_server.store import (
    alarm_actions,
    commands,
    decisions,
    device_faults,
    devices,
    events,
    maintenance,
    rollouts,
    shadows,
    telemetry,
)
from fleet_server.store import feedback as implicit
from fleet_server.store.ledger import Key
from fleet_server.store.pool import Connection
from fleet_server.store.telemetry import Prediction, Sample
from models.contract.alarms import AlarmAction, Maintenance, Suppression
from models.contract.base import Stream
from models.contract.codec import Unreadable
from models.contract.events import AlarmEvent, SensorFault
from models.contract.health import Heartbeat, StreamCount
from models.contract.messages import (
    Annotation,
    Body,
    CommandResult,
    DeviceFault,
    RolloutStatus,
    SampledWindow,
    ScoredWindows,
    ShadowReport,
)
from models.contract.people import AttachmentPiece, Feedback

LAST_WORD: Final = 2**53  # beyond every heartbeat's number: what became of an outbox is told when it has ended
UNHEARD: Final = timedelta(days=30)  # an agent may have run for so long before the server first heard of it


@dataclass
class Batch:
    """One transaction's work. What goes in bulk is collected here."""

    conn: Connection
    at: datetime  # when it was received
    predictions: list[Prediction] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    events: set[UUID] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    first_seen: dict[str, datetime] = field(default_factory=dict)

    def doubt(self, key: Key, body: AlarmEvent | SampledWindow) -> str | None:
        """Why a window's time cannot be right."""
        if body.recorded is not False:
            return clock_doubt(body.window_end, self.at, None)
        if key.device not in self.first_seen:
            self.first_seen[key.device] = devices.first_seen(self.conn, key.device) or self.at
        return clock_doubt(body.window_end, self.at, self.first_seen[key.device])

    def flush(self) -> None:
        """Write what was collected."""
        if self.predictions:
            telemetry.copy_predictions(self.conn, self.predictions)
        if self.samples:
            telemetry.insert_samples(self.conn, self.samples)
        for event_id in sorted(self.events):  # annotations may have been here before their event
            intake.reconsider(self.conn, event_id, self.at)


def alarm(batch: Batch, key: Key, body: AlarmEvent) -> None:
    doubt = batch.doubt(key, body)
    if not events.merge(batch.conn, key.device, body, doubt):
        raise Unreadable(f"event {body.event_id} belongs to another device or asset")
    batch.events.add(body.event_id)
    batch.counts["alarm_phases"] += 1
    if doubt:
        _doubted(batch, key, body.trace_id, doubt)
        return
    if body.sensors:  # its features are those of an ill sensor
        batch.counts["sensor_doubts"] += 1
        return
    batch.samples.append(
        Sample(
            trace_id=body.trace_id,
            asset_id=body.asset,
            device_id=key.device,
            window_start=body.window_start,
            window_end=body.window_end,
            reason="alarm",
            probability=1.0,
            event_id=body.event_id,
            score=body.score,
            model_version=body.model.version,
            feature_set=body.feature_set,
            features=body.features,
        )
    )


def sensor_fault(batch: Batch, key: Key, body: SensorFault) -> None:
    telemetry.insert_sensor_fault(batch.conn, key.device, body)


def device_fault(batch: Batch, key: Key, body: DeviceFault) -> None:
    device_faults.note(batch.conn, key.device, body, batch.at)


def annotation(batch: Batch, key: Key, body: Annotation) -> None:
    try:
        intake.receive(batch.conn, body, via=key.device, received_at=batch.at)
    except Refused as exc:  # the same id with other words
        raise Unreadable(str(exc)) from exc


def attachment_piece(batch: Batch, key: Key, body: AttachmentPiece) -> None:
    try:
        attachments.add(batch.conn, body, via=key.device, at=batch.at, in_order=False)
    except AttachmentRefused as exc:  # on record with its reason; its pieces are gone, and so is no good one
        batch.counts["attachments_refused"] += 1
        if exc.code == "too_large":
            raise Unreadable(str(exc)) from exc


def feedback(batch: Batch, key: Key, body: Feedback) -> None:
    implicit.insert(batch.conn, body, via=key.device, received_at=batch.at)


def alarm_action(batch: Batch, key: Key, body: AlarmAction) -> None:
    alarm_actions.put(batch.conn, body, via=key.device, received_at=batch.at)


def maintenance_window(batch: Batch, key: Key, body: Maintenance) -> None:
    maintenance.put(batch.conn, body, via=key.device, received_at=batch.at)


def suppression(batch: Batch, key: Key, body: Suppression) -> None:
    if not maintenance.put_suppression(batch.conn, key.device, body, batch.at):
        raise Unreadable(f"suppression {body.suppression_id} belongs to another device")


def heartbeat(batch: Batch, key: Key, body: Heartbeat) -> None:
    counts = {epoch: _counts(outbox) for epoch, outbox in {key.epoch: body.outbox, **body.ended}.items()}
    devices.log_heartbeat(batch.conn, key.device, body, batch.at)
    for epoch in body.ended:
        devices.set_outbox(batch.conn, key.device, epoch, LAST_WORD, counts[epoch], batch.at)
    first = devices.set_outbox(batch.conn, key.device, key.epoch, key.seq, counts[key.epoch], batch.at)
    if first is None:
        return
    if first:
        devices.set_epoch(batch.conn, key.device, key.epoch)
    if devices.set_running(batch.conn, key.device, key.epoch, key.seq, body.running, body.step, body.assignment):
        devices.set_heartbeat(batch.conn, key.device, key.epoch, body)


def _counts(outbox: dict[Stream, StreamCount]) -> dict[str, Any]:
    """As they are stored. Raises Unreadable."""
    for stream, count in outbox.items():
        for low, high in (*count.waiting, *(r for ranges in count.evicted.values() for r in ranges)):
            if low > high:
                raise Unreadable(f"outbox.{stream}: the range {low} to {high} ends before it begins")
    return {stream.value: count.model_dump(mode="json") for stream, count in outbox.items()}


def rollout_status(batch: Batch, key: Key, body: RolloutStatus) -> None:
    rollouts.record_step(batch.conn, key.device, body, batch.at)
    devices.set_running(batch.conn, key.device, key.epoch, key.seq, body.running, body.step, body.assignment)


def command_result(batch: Batch, key: Key, body: CommandResult) -> None:
    if not commands.answer(batch.conn, key.device, body, batch.at):
        raise Unreadable(f"there is no command {body.command_id} for {key.device}")


def scored_windows(batch: Batch, key: Key, body: ScoredWindows) -> None:
    rows = predictions(key.device, body, batch.at)
    batch.predictions.extend(rows)
    batch.counts["windows"] += len(rows)


def sampled_window(batch: Batch, key: Key, body: SampledWindow) -> None:
    if doubt := batch.doubt(key, body):
        _doubted(batch, key, body.trace_id, doubt)
        return
    batch.samples.append(
        Sample(
            trace_id=body.trace_id,
            asset_id=body.asset,
            device_id=key.device,
            window_start=body.window_start,
            window_end=body.window_end,
            reason=body.reason,
            probability=body.probability,
            event_id=None,
            score=body.score,
            model_version=body.model.version,
            feature_set=body.feature_set,
            features=body.features,
        )
    )


def shadow_report(batch: Batch, key: Key, body: ShadowReport) -> None:
    shadows.insert(batch.conn, key.device, body, batch.at)


Handler = Callable[[Batch, Key, Any], None]
HANDLERS: Final[dict[type[Body], Handler]] = {
    AlarmEvent: alarm,
    SensorFault: sensor_fault,
    DeviceFault: device_fault,
    Annotation: annotation,
    AttachmentPiece: attachment_piece,
    Feedback: feedback,
    AlarmAction: alarm_action,
    Maintenance: maintenance_window,
    Suppression: suppression,
    Heartbeat: heartbeat,
    RolloutStatus: rollout_status,
    CommandResult: command_result,
    ScoredWindows: scored_windows,
    SampledWindow: sampled_window,
    ShadowReport: shadow_report,
}


def clock_doubt(at: datetime, received_at: datetime, first_seen: datetime | None) -> str | None:
    """Why a window's time cannot be right; such a window is kept out of training, whose splits go by time.

    Args:
        first_seen: when the server first heard of the device; None: it replays a recording, which may be of any year.
    """
    if at > received_at + AHEAD:
        return f"{(at - received_at).total_seconds():.0f} s after it was received"
    if at.year < FIRST_YEAR:
        return f"in {at.year}: the device's clock was never set"
    if first_seen and at < first_seen - UNHEARD:
        return f"{(first_seen - at).days} days before the device was first heard of"
    return None


def assets_of(body: Body) -> list[str]:
    """The machines a message proves to exist. What a person says of one proves nothing."""
    if isinstance(body, Heartbeat):
        return list(body.assets)
    if isinstance(body, AlarmEvent | SensorFault | ScoredWindows | SampledWindow):
        return [body.asset]
    return []


def _doubted(batch: Batch, key: Key, trace_id: UUID, doubt: str) -> None:
    batch.counts["clock_doubts"] += 1
    inputs = {"device": key.device, "stream": key.stream, "seq": key.seq}
    decisions.record(batch.conn, "clock", str(trace_id), "kept out of training", f"window ends {doubt}", inputs)
