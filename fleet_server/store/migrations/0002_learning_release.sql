-- From labels to a model on every device.

CREATE TABLE dataset (
    sha256     text PRIMARY KEY,      -- of its rows in order: the same rows are the same dataset
    made_at    timestamptz NOT NULL,
    model      text NOT NULL,
    summary    jsonb NOT NULL,        -- counts by split, class, provenance and asset
    label_ids  uuid[] NOT NULL,
    content    bytea NOT NULL         -- npz: vectors, classes, weights, split, assets, trace ids
);

CREATE TABLE training_run (
    run_id      text PRIMARY KEY,     -- the durable workflow's id
    model       text NOT NULL,
    started_at  timestamptz NOT NULL,
    ended_at    timestamptz,
    state       text NOT NULL,        -- running, candidate, refused, failed
    step        text NOT NULL,        -- dataset, train, export, gate, done
    cause       text NOT NULL,        -- the trigger's words
    dataset     text,
    version     integer,
    reason      text NOT NULL DEFAULT ''
);

CREATE TABLE bundle (
    name        text NOT NULL,
    version     integer NOT NULL,
    sha256      text NOT NULL UNIQUE,
    size        bigint NOT NULL,
    manifest    jsonb NOT NULL,
    data        bytea NOT NULL,
    made_at     timestamptz NOT NULL,
    run_id      text,
    dataset     text,
    state       text NOT NULL,        -- shipped, candidate, refused, approved, barred
    gate        jsonb,                -- the gate's report
    PRIMARY KEY (name, version)
);

CREATE TABLE approval (
    sha256      text PRIMARY KEY REFERENCES bundle (sha256),
    approved_by text NOT NULL,
    approved_at timestamptz NOT NULL,
    envelope    jsonb NOT NULL
);

CREATE TABLE rollout (
    rollout_id  text PRIMARY KEY,
    sha256      text NOT NULL REFERENCES bundle (sha256),
    mode        text NOT NULL,        -- trial, rollback
    state       text NOT NULL,        -- running, paused, done, stopped
    wave        integer NOT NULL,     -- the one that runs, from 1
    n_waves     integer NOT NULL,
    started_at  timestamptz NOT NULL,
    wave_done_at timestamptz,
    ended_at    timestamptz,
    reason      text NOT NULL DEFAULT ''
);

-- Each order to a device, signed. The newest sequence is the one that counts.
CREATE TABLE assignment (
    device_id   text NOT NULL,
    sequence    bigint NOT NULL,
    rollout_id  text NOT NULL REFERENCES rollout (rollout_id),
    wave        integer NOT NULL,
    sha256      text NOT NULL REFERENCES bundle (sha256),
    mode        text NOT NULL,
    envelope    jsonb,                -- null until its wave starts
    issued_at   timestamptz,
    published   boolean NOT NULL DEFAULT false,
    step        text,                 -- the device's last word on it
    step_at     timestamptz,
    reason      text NOT NULL DEFAULT '',
    PRIMARY KEY (device_id, sequence)
);
CREATE INDEX assignment_rollout ON assignment (rollout_id, wave);

-- Which step was taken where and when, and what ran after it: what was live on which device at any time.
CREATE TABLE rollout_step (
    device_id      text NOT NULL,
    at             timestamptz NOT NULL,
    assignment     bigint NOT NULL,
    step           text NOT NULL,
    sha256         text NOT NULL,
    running_sha256 text NOT NULL,
    reason         text NOT NULL,
    report         jsonb,
    trace_id       uuid NOT NULL,
    PRIMARY KEY (device_id, assignment, step, trace_id)
);
CREATE INDEX rollout_step_running ON rollout_step (running_sha256);
