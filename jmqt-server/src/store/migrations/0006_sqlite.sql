-- Clients also have a row while they have an MQTT session that outlives its connection.
-- language: 1 if the session exists without subscriptions too, because an MQTT client began it; otherwise 0.
ALTER TABLE clients ADD COLUMN language INTEGER NOT NULL DEFAULT 0;

-- How long the session outlives its connection; NULL: SESSION_EXPIRY_SECONDS, counted from `last_seen`.
ALTER TABLE clients ADD COLUMN expiry_seconds INTEGER;

-- When a session with `expiry_seconds` ends, in milliseconds since 1970; NULL while the client is connected.
ALTER TABLE clients ADD COLUMN ends_at INTEGER;

CREATE INDEX clients_by_end ON clients (ends_at) WHERE ends_at IS NOT NULL;

-- Messages that MQTT clients leave for the end of their connections. Written before the client is connected; a row names
-- the session by its generation, so that the end of an older connection does not concern a newer will.
CREATE TABLE wills (
    client_id TEXT NOT NULL,
    generation INTEGER NOT NULL,
    node_id TEXT NOT NULL,
    protocol TEXT NOT NULL,
    address TEXT NOT NULL,
    channel TEXT NOT NULL,
    qos INTEGER NOT NULL,
    retain INTEGER NOT NULL,
    delay_seconds INTEGER NOT NULL,         -- after the end of the connection, and not after that of the session
    due_at INTEGER,                         -- milliseconds since 1970; NULL while the client is connected
    postponed INTEGER NOT NULL DEFAULT 0,   -- 1: due later than the client said, because the server stopped
    attributes BLOB,
    data BLOB NOT NULL,
    PRIMARY KEY (client_id, generation, node_id)
) STRICT;

CREATE INDEX wills_by_time ON wills (due_at) WHERE due_at IS NOT NULL;
