-- Why a scored window is not to be trusted as others are (models.contract.messages.Flag; 0: it is), and what the machine
-- was doing. An agent that does not say leaves 0 and nothing.
ALTER TABLE prediction ADD COLUMN flags smallint NOT NULL DEFAULT 0;
ALTER TABLE prediction ADD COLUMN mode text;
