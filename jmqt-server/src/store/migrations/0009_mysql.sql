-- clients.unrecorded: the generation of the MQTT connection that may have sent messages without a record in `sent`; 0: there
-- is none. Written when the connection begins, and set to 0 when it has ended and its messages without an answer are
-- recorded.
-- A row of `sent` with `released` 3 says that all messages of the channel up to `seq` may have been sent on a connection
-- whose end is not recorded. Its `turn` is the channel's id.
SET @jmqt_step = IF(EXISTS (SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE()
    AND table_name = 'clients' AND column_name = 'unrecorded'), 'DO 0',
    'ALTER TABLE clients ADD COLUMN unrecorded BIGINT NOT NULL DEFAULT 0');
PREPARE jmqt_step FROM @jmqt_step;
EXECUTE jmqt_step;
DEALLOCATE PREPARE jmqt_step;
