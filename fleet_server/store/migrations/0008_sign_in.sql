-- Who may use the form and the pages. Names stand in `person` and nowhere else: everything else knows the pseudonym.
CREATE TABLE person (
    person text PRIMARY KEY,
    name   text NOT NULL UNIQUE,
    role   text NOT NULL             -- technician, reviewer, operator
);

-- Hashes of codes, tokens and phones: who reads this table can use none of them.
CREATE TABLE enrolment_code (
    code       text PRIMARY KEY,
    person     text NOT NULL REFERENCES person,
    expires_at timestamptz NOT NULL
);

CREATE TABLE form_session (
    token      text PRIMARY KEY,
    phone      text NOT NULL,
    person     text NOT NULL REFERENCES person,
    made_at    timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL,
    pin        text,
    tried      integer NOT NULL DEFAULT 0,  -- PINs since the last right one
    locked     boolean NOT NULL DEFAULT false
);
CREATE INDEX form_session_person ON form_session (person);

CREATE TABLE phone (
    phone  text NOT NULL,
    person text NOT NULL REFERENCES person,
    PRIMARY KEY (phone, person)
);

CREATE TABLE enrolment_try (
    address text NOT NULL,
    at      timestamptz NOT NULL
);
