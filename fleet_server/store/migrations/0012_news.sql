-- What has come of late, for whoever looks every few seconds: without these it reads every annotation ever made.
CREATE INDEX annotation_received ON annotation (received_at);
CREATE INDEX feedback_received ON feedback (received_at);
CREATE INDEX label_decided ON label (decided_at);
