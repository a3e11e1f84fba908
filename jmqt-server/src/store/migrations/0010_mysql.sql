-- clients.owner: the user to whom the session belongs, as the application names it; NULL: unknown.
-- clients.checked: the revision of the permissions for which all subscriptions of the session were validated. 0: they must be
-- validated when the session is resumed. NULL: unknown.
SET @jmqt_step = IF(EXISTS (SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE()
    AND table_name = 'clients' AND column_name = 'owner'), 'DO 0',
    'ALTER TABLE clients ADD COLUMN owner VARBINARY(512), ADD COLUMN checked BIGINT');
PREPARE jmqt_step FROM @jmqt_step;
EXECUTE jmqt_step;
DEALLOCATE PREPARE jmqt_step;
