-- What people send beside their words, and what became of their words.

-- Stretches of an attachment's bytes until it is whole. By sender: nobody's rubbish stands in another's way.
CREATE TABLE attachment_piece (
    sha256      text NOT NULL,
    via         text NOT NULL,        -- a device id, or 'server' and who was signed in
    at_byte     bigint NOT NULL,
    size        bigint NOT NULL,      -- of the whole
    media_type  text NOT NULL,
    data        bytea NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (sha256, via, at_byte)
);

CREATE TABLE attachment (
    sha256      text PRIMARY KEY,
    media_type  text NOT NULL,
    size        bigint NOT NULL,
    data        bytea NOT NULL,
    via         text NOT NULL,
    received_at timestamptz NOT NULL
);

-- What somebody did or thinks: dismissals, times, parts, work orders, satisfaction. Never a label by itself.
CREATE TABLE feedback (
    feedback_id uuid PRIMARY KEY,
    signal      text NOT NULL,
    asset_id    text,
    event_id    uuid,
    person      text NOT NULL,
    value       double precision,
    detail      text NOT NULL,
    about       uuid,
    provenance  text NOT NULL,
    via         text NOT NULL,
    made_at     timestamptz NOT NULL,
    received_at timestamptz NOT NULL
);
CREATE INDEX feedback_event ON feedback (event_id);
CREATE INDEX feedback_signal ON feedback (signal, made_at);

-- From an annotation to the models that learned from it, for each person who looks at their own.
CREATE INDEX label_annotations ON label USING gin (annotations);
CREATE INDEX dataset_labels ON dataset USING gin (label_ids);
CREATE INDEX annotation_annotator ON annotation (annotator, received_at DESC);
