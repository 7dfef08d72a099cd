-- What devices were told to do, until they have said what came of it. The server that publishes signs; a row is the truth.
CREATE TABLE command (
    command_id  uuid PRIMARY KEY,
    device_id   text NOT NULL,
    sequence    bigint NOT NULL,      -- rising per device, also over a restored backup: milliseconds since 1970, or one more
    kind        text NOT NULL,
    latest      text,                 -- the state it sets: the newest wins; null: each one counts
    body        jsonb NOT NULL,
    issued_by   text NOT NULL,
    issued_at   timestamptz NOT NULL,
    deadline    timestamptz NOT NULL,
    sends       integer NOT NULL DEFAULT 0,
    sent_at     timestamptz,
    outcome     text,                 -- null: open
    reason      text NOT NULL DEFAULT '',
    answered_at timestamptz,          -- by the device; null with an outcome: closed here, without a word from it
    UNIQUE (device_id, sequence)
);
CREATE INDEX command_open ON command (device_id, sequence) WHERE outcome IS NULL;
