-- The user to whom the session belongs, as the application names it; NULL: unknown.
ALTER TABLE clients ADD COLUMN owner TEXT;

-- The revision of the permissions for which all subscriptions of the session were validated. 0: they must be validated when
-- the session is resumed. NULL: unknown.
ALTER TABLE clients ADD COLUMN checked INTEGER;
