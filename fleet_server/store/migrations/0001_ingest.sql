-- What arrives from devices, and what people say of it. Runs on plain PostgreSQL; hypertables are made of `prediction`
-- and `heartbeat` afterwards where TimescaleDB is offered, which is why their keys hold the time column.

CREATE TABLE device (
    device_id     text PRIMARY KEY,
    first_seen    timestamptz NOT NULL,
    last_seen     timestamptz NOT NULL,
    epoch         text,               -- of the newest heartbeat's outbox
    boot          text,
    model_name    text,
    model_version integer,
    model_sha256  text,
    step          text,
    assignment    bigint NOT NULL DEFAULT 0,  -- the last sequence the device says it took
    health_seq    bigint NOT NULL DEFAULT 0,  -- of the message that said so, in this epoch: older ones change nothing
    heartbeat     jsonb               -- the newest, whole
);

CREATE TABLE asset (
    asset_id   text PRIMARY KEY,
    device_id  text NOT NULL,
    first_seen timestamptz NOT NULL,
    last_seen  timestamptz NOT NULL
);

-- One row a message, written in the transaction that stores its contents: who is in here is stored, once.
CREATE TABLE ledger (
    device_id   text NOT NULL,
    epoch       text NOT NULL,
    stream      text NOT NULL,
    seq         bigint NOT NULL,
    quarantined boolean NOT NULL DEFAULT false,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (device_id, epoch, stream, seq)
);
CREATE INDEX ledger_quarantined ON ledger (device_id, epoch, stream) WHERE quarantined;

-- Everything from 1 to here is in the ledger, so that a receipt need not count from the start.
CREATE TABLE ledger_mark (
    device_id text NOT NULL,
    epoch     text NOT NULL,
    stream    text NOT NULL,
    up_to     bigint NOT NULL,
    PRIMARY KEY (device_id, epoch, stream)
);

-- What each device says of its own outbox, newest per epoch: {stream: StreamCount}.
CREATE TABLE outbox_count (
    device_id text NOT NULL,
    epoch     text NOT NULL,
    seq       bigint NOT NULL,        -- of the heartbeat: its order, whatever the device's clock says
    at        timestamptz NOT NULL,   -- when it was received
    counts    jsonb NOT NULL,
    PRIMARY KEY (device_id, epoch)
);

CREATE TABLE quarantine (
    quarantine_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at   timestamptz NOT NULL,
    topic         text NOT NULL,
    device_id     text,
    epoch         text,
    stream        text,
    seq           bigint,
    reason        text NOT NULL,
    n_bytes       integer NOT NULL,
    payload       bytea NOT NULL      -- the first 64 KiB
);
CREATE INDEX quarantine_received ON quarantine (received_at);

-- Totals that nobody wants to count again, and what was rotated out.
CREATE TABLE counter (
    name text PRIMARY KEY,
    n    bigint NOT NULL
);

CREATE TABLE prediction (
    window_end    timestamptz NOT NULL,
    asset_id      text NOT NULL,
    trace_id      uuid NOT NULL,
    device_id     text NOT NULL,
    window_start  timestamptz NOT NULL,
    model_version integer NOT NULL,
    model_sha256  bytea NOT NULL,
    score         real NOT NULL,
    alarm         boolean NOT NULL,
    fault_class   text,
    latency_us    real
);
CREATE INDEX prediction_asset_time ON prediction (asset_id, window_end DESC);
CREATE INDEX prediction_trace ON prediction (trace_id);

CREATE TABLE heartbeat (
    at        timestamptz NOT NULL,   -- when it was received: a device's clock may stand in 1970
    device_id text NOT NULL,
    body      jsonb NOT NULL
);
CREATE INDEX heartbeat_device ON heartbeat (device_id, at DESC);

CREATE TABLE event (
    event_id      uuid PRIMARY KEY,
    trace_id      uuid NOT NULL,      -- of the window that raised it
    device_id     text NOT NULL,
    asset_id      text NOT NULL,
    opened_at     timestamptz NOT NULL,
    raised_at     timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    cleared_at    timestamptz,
    score         real NOT NULL,      -- the highest so far
    threshold     real NOT NULL,
    fault_class   text,
    model_name    text NOT NULL,
    model_version integer NOT NULL,
    model_sha256  text NOT NULL,
    trial         boolean NOT NULL DEFAULT false,
    body          jsonb NOT NULL      -- of the phase with the highest score
);
CREATE INDEX event_raised ON event (raised_at DESC);
CREATE INDEX event_asset ON event (asset_id, opened_at);
CREATE INDEX event_trace ON event (trace_id);

-- Windows with their features: every phase of every event, reference windows, hard examples. What training sees.
CREATE TABLE sample (
    trace_id      uuid NOT NULL,
    asset_id      text NOT NULL,
    device_id     text NOT NULL,
    window_start  timestamptz NOT NULL,
    window_end    timestamptz NOT NULL,
    reason        text NOT NULL,      -- alarm, reference, hard
    probability   double precision NOT NULL,
    event_id      uuid,
    score         real NOT NULL,
    model_version integer NOT NULL,
    feature_set   text NOT NULL,
    features      jsonb NOT NULL,
    PRIMARY KEY (trace_id, reason)
);
CREATE INDEX sample_asset_time ON sample (asset_id, window_end);
CREATE INDEX sample_event ON sample (event_id);

CREATE TABLE sensor_fault (
    trace_id  uuid PRIMARY KEY,
    device_id text NOT NULL,
    asset_id  text NOT NULL,
    signal    text,
    fault     text NOT NULL,
    since     timestamptz NOT NULL,
    detail    text NOT NULL
);

CREATE TABLE annotation (
    annotation_id uuid PRIMARY KEY,
    trace_id      uuid NOT NULL,
    event_id      uuid,
    asset_id      text NOT NULL,
    start_at      timestamptz NOT NULL,
    end_at        timestamptz NOT NULL,
    verdict       text NOT NULL,
    fault         text,
    severity      text,
    note          text NOT NULL,
    annotator     text NOT NULL,
    provenance    text NOT NULL,
    via           text NOT NULL,      -- a device id, or 'server'
    written_at    timestamptz NOT NULL,
    received_at   timestamptz NOT NULL,
    digest        text NOT NULL,      -- of what was said: the same id with other words is a conflict, not a resend
    status        text NOT NULL DEFAULT 'new',  -- new, accepted, held, rejected
    reason        text NOT NULL DEFAULT '',
    body          jsonb NOT NULL
);
CREATE INDEX annotation_event ON annotation (event_id);
CREATE INDEX annotation_status ON annotation (status);
CREATE INDEX annotation_supersedes ON annotation ((body ->> 'supersedes')) WHERE body ->> 'supersedes' IS NOT NULL;

-- What validation made of the annotations of one event (or of one free interval): one verdict with a weight.
CREATE TABLE label (
    label_id    uuid PRIMARY KEY,
    subject_id  uuid NOT NULL UNIQUE, -- the event, or the annotation where there is no event
    event_id    uuid,
    trace_id    uuid NOT NULL,
    asset_id    text NOT NULL,
    start_at    timestamptz NOT NULL,
    end_at      timestamptz NOT NULL,
    verdict     text NOT NULL,        -- fault, false_alarm
    fault       text,
    weight      double precision NOT NULL,
    provenance  text NOT NULL,
    annotations uuid[] NOT NULL,
    status      text NOT NULL,        -- accepted, held
    reason      text NOT NULL,
    decided_at  timestamptz NOT NULL
);

-- Every decision, yes and no, with its inputs and reason.
CREATE TABLE decision (
    decision_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    kind        text NOT NULL,        -- validation, trigger, gate, approval, rollout, rollback
    subject     text NOT NULL,
    outcome     text NOT NULL,
    reason      text NOT NULL,
    inputs      jsonb NOT NULL
);
