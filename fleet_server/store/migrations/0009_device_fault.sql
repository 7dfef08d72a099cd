-- What is wrong with a device's own way to the server, as it says itself: one row while it lasts, and its end.
CREATE TABLE device_fault (
    device_id  text NOT NULL,
    fault      text NOT NULL,
    since      timestamptz NOT NULL,
    detail     text NOT NULL,
    cleared_at timestamptz,
    PRIMARY KEY (device_id, fault, since)
);
