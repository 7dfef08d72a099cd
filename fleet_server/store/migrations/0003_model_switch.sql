-- What devices say of their switch: cause and numbers of each step, and what a challenger shows in shadow.
ALTER TABLE assignment ADD COLUMN cause text;
ALTER TABLE rollout_step ADD COLUMN evidence jsonb;

CREATE TABLE shadow_report (
    device_id         text NOT NULL,
    trace_id          uuid NOT NULL,
    at                timestamptz NOT NULL,
    assignment        bigint NOT NULL,
    rollout_id        text,
    asset_id          text NOT NULL,
    champion_sha256   text NOT NULL,
    challenger_sha256 text NOT NULL,
    windows           bigint NOT NULL,     -- that the champion scored
    scores            jsonb NOT NULL,      -- PairedScores
    cpu_s             double precision NOT NULL,
    wall_s            double precision NOT NULL,
    cpu_share_cap     double precision NOT NULL,
    PRIMARY KEY (device_id, trace_id)
);
CREATE INDEX shadow_report_rollout ON shadow_report (rollout_id);

-- No version below the highest of these is sent or taken, ever again.
CREATE TABLE release_floor (
    floor     integer NOT NULL PRIMARY KEY,
    raised_at timestamptz NOT NULL,
    reason    text NOT NULL
);
