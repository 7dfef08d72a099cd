-- The life of alarms: what was done about them, maintenance windows, patterns that do not alarm.
ALTER TABLE event ADD COLUMN family text NOT NULL DEFAULT '';
ALTER TABLE event ADD COLUMN severity text;
ALTER TABLE event ADD COLUMN repeats integer NOT NULL DEFAULT 1;         -- how many times it was raised
ALTER TABLE event ADD COLUMN cleared_repeat integer NOT NULL DEFAULT 0;  -- of these, the last that is over
ALTER TABLE event ADD COLUMN last_cleared_at timestamptz;                -- when that was; cleared_at: and none since
ALTER TABLE event ADD COLUMN newest jsonb NOT NULL DEFAULT '{}';         -- of the newest phase: order, muted, cleared_by
UPDATE event SET cleared_repeat = 1, last_cleared_at = cleared_at WHERE cleared_at IS NOT NULL;
CREATE INDEX event_open ON event (asset_id, family) WHERE cleared_at IS NULL;

-- One row for each thing done; the same id with another digest is a conflict, and both stay.
CREATE TABLE alarm_action (
    action_id   uuid NOT NULL,
    digest      text NOT NULL,
    event_id    uuid NOT NULL,
    asset_id    text NOT NULL,
    action      text NOT NULL,
    made_at     timestamptz NOT NULL,
    via         text NOT NULL,      -- a device id, or 'server'
    received_at timestamptz NOT NULL,
    body        jsonb NOT NULL,
    PRIMARY KEY (action_id, digest)
);
CREATE INDEX alarm_action_event ON alarm_action (event_id);

CREATE TABLE maintenance (
    maintenance_id uuid PRIMARY KEY,
    asset_id       text NOT NULL,
    start_at       timestamptz NOT NULL,
    end_at         timestamptz,       -- null: until somebody ends it
    fenced_until   timestamptz,       -- the end and the time of settling
    cancelled      boolean NOT NULL,
    via            text NOT NULL,
    received_at    timestamptz NOT NULL,
    body           jsonb NOT NULL     -- the word that counts
);
CREATE INDEX maintenance_asset ON maintenance (asset_id, start_at);

CREATE TABLE suppression (
    suppression_id uuid PRIMARY KEY,
    device_id      text NOT NULL,
    asset_id       text NOT NULL,
    event_id       uuid NOT NULL,
    annotation_id  uuid NOT NULL,
    annotator      text NOT NULL,
    since          timestamptz NOT NULL,
    until          timestamptz NOT NULL,
    ended          text NOT NULL,     -- empty: it holds until then
    ended_by       text NOT NULL,
    windows        bigint NOT NULL,   -- that did not alarm because of it
    drivers        text[] NOT NULL,
    received_at    timestamptz NOT NULL
);
CREATE INDEX suppression_event ON suppression (event_id);
