-- The generation of the MQTT connection that may have sent messages without a record in `sent`; 0: there is none. Written
-- when the connection begins, and set to 0 when it has ended and its messages without an answer are recorded.
ALTER TABLE clients ADD COLUMN unrecorded INTEGER NOT NULL DEFAULT 0;

-- A row of `sent` with `released` 3 says that all messages of the channel up to `seq` may have been sent on a connection
-- whose end is not recorded. Its `turn` is the channel's id.
