-- When the server heard of an alarm first: escalation counts from there, whatever the device's clock says.
ALTER TABLE event ADD COLUMN received_at timestamptz NOT NULL DEFAULT now();

-- What is posted to somebody, until it was taken or is too old.
CREATE TABLE notice (
    notice_id uuid PRIMARY KEY,
    url       text NOT NULL,
    body      jsonb NOT NULL,
    made_at   timestamptz NOT NULL,
    tries     integer NOT NULL DEFAULT 0,
    tried_at  timestamptz,
    failure   text NOT NULL DEFAULT '',   -- of the last try
    done      boolean NOT NULL DEFAULT false
);
CREATE INDEX notice_open ON notice (made_at) WHERE NOT done;
