-- Names of channels have up to 2,048 bytes: MQTT allows longer ones than JMQT.
ALTER TABLE channels MODIFY COLUMN name VARBINARY(2048) NOT NULL;

-- messages.attributes: what a message has beside its data: the form of the data, and what only MQTT knows
-- (attributes.rs). NULL: a usual JMQT message.
SET @jmqt_step = IF(EXISTS (SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE()
    AND table_name = 'messages' AND column_name = 'attributes'), 'DO 0',
    'ALTER TABLE messages ADD COLUMN attributes LONGBLOB');
PREPARE jmqt_step FROM @jmqt_step;
EXECUTE jmqt_step;
DEALLOCATE PREPARE jmqt_step;

-- retained.attributes: the same.
-- retained.expires_at: when the message expires, in milliseconds since 1970; NULL: never. A part of `attributes`, to
-- find what is due.
SET @jmqt_step = IF(EXISTS (SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE()
    AND table_name = 'retained' AND column_name = 'attributes'), 'DO 0',
    'ALTER TABLE retained ADD COLUMN attributes LONGBLOB, ADD COLUMN expires_at BIGINT, ADD KEY retained_by_expiry (expires_at)');
PREPARE jmqt_step FROM @jmqt_step;
EXECUTE jmqt_step;
DEALLOCATE PREPARE jmqt_step;
