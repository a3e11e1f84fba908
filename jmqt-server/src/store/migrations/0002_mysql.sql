-- MySQL commits each statement by itself and has no ADD COLUMN IF NOT EXISTS, so each column is looked for
-- first: a migration that was interrupted is simply repeated.

-- messages.stamp: random, the same for all messages of a commit; 0: stored before there were stamps.
-- messages.bytes_before: the channel's total_bytes before this message.
SET @jmqt_step = IF(EXISTS (SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE()
    AND table_name = 'messages' AND column_name = 'stamp'), 'DO 0',
    'ALTER TABLE messages ADD COLUMN stamp BIGINT NOT NULL DEFAULT 0, ADD COLUMN bytes_before BIGINT NOT NULL DEFAULT 0');
PREPARE jmqt_step FROM @jmqt_step;
EXECUTE jmqt_step;
DEALLOCATE PREPARE jmqt_step;

-- channels.total_bytes: how many bytes of payload were ever logged there (by versions that counted them).
SET @jmqt_step = IF(EXISTS (SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE()
    AND table_name = 'channels' AND column_name = 'total_bytes'), 'DO 0',
    'ALTER TABLE channels ADD COLUMN total_bytes BIGINT NOT NULL DEFAULT 0');
PREPARE jmqt_step FROM @jmqt_step;
EXECUTE jmqt_step;
DEALLOCATE PREPARE jmqt_step;

-- retained.bytes: the length of data. The key is read in place of the payloads when they are added up.
SET @jmqt_step = IF(EXISTS (SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE()
    AND table_name = 'retained' AND column_name = 'bytes'), 'DO 0',
    'ALTER TABLE retained ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0, ADD KEY retained_by_bytes (bytes)');
PREPARE jmqt_step FROM @jmqt_step;
EXECUTE jmqt_step;
DEALLOCATE PREPARE jmqt_step;

UPDATE retained SET bytes = LENGTH(data) WHERE bytes = 0;
