-- subscriptions.options: the options of a subscription as a number (options.rs). 5: those of a JMQT client.
SET @jmqt_step = IF(EXISTS (SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE()
    AND table_name = 'subscriptions' AND column_name = 'options'), 'DO 0',
    'ALTER TABLE subscriptions ADD COLUMN options BIGINT NOT NULL DEFAULT 5');
PREPARE jmqt_step FROM @jmqt_step;
EXECUTE jmqt_step;
DEALLOCATE PREPARE jmqt_step;
