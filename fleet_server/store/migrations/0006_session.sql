-- When a device's connection ended, as its broker or it itself said. It counts while nothing has come since.
ALTER TABLE device ADD COLUMN offline_at timestamptz;
ALTER TABLE device ADD COLUMN offline_reason text;
