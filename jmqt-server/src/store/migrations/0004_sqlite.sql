-- What a message has beside its data: the form of the data, and what only MQTT knows (attributes.rs). NULL: a usual
-- JMQT message. A column at the end needs no new table, and a NULL there is read without the payload before it.
ALTER TABLE messages ADD COLUMN attributes BLOB;

ALTER TABLE retained ADD COLUMN attributes BLOB;

-- When the message expires, in milliseconds since 1970; NULL: never. A part of `attributes`, to find what is due.
ALTER TABLE retained ADD COLUMN expires_at INTEGER;

CREATE INDEX retained_by_expiry ON retained (expires_at) WHERE expires_at IS NOT NULL;
