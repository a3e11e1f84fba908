-- Clients also have a row while they have an MQTT session that outlives its connection.
-- clients.language: 1 if the session exists without subscriptions too, because an MQTT client began it; otherwise 0.
-- clients.expiry_seconds: how long the session outlives its connection; NULL: SESSION_EXPIRY_SECONDS, counted from
-- last_seen.
-- clients.ends_at: when a session with expiry_seconds ends, in milliseconds since 1970; NULL while the client is
-- connected.
SET @jmqt_step = IF(EXISTS (SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE()
    AND table_name = 'clients' AND column_name = 'language'), 'DO 0',
    'ALTER TABLE clients ADD COLUMN language BIGINT NOT NULL DEFAULT 0, ADD COLUMN expiry_seconds BIGINT, ADD COLUMN ends_at BIGINT, ADD KEY clients_by_end (ends_at)');
PREPARE jmqt_step FROM @jmqt_step;
EXECUTE jmqt_step;
DEALLOCATE PREPARE jmqt_step;

-- Messages that MQTT clients leave for the end of their connections. Written before the client is connected; a row names
-- the session by its generation, so that the end of an older connection does not concern a newer will.
CREATE TABLE IF NOT EXISTS wills (
    client_id VARBINARY(256) NOT NULL,
    generation BIGINT NOT NULL,
    node_id VARBINARY(64) NOT NULL,
    protocol VARBINARY(32) NOT NULL,
    address VARBINARY(128) NOT NULL,
    channel VARBINARY(2048) NOT NULL,
    qos BIGINT NOT NULL,
    retain BIGINT NOT NULL,
    delay_seconds BIGINT NOT NULL,       -- after the end of the connection, and not after that of the session
    due_at BIGINT,                       -- milliseconds since 1970; NULL while the client is connected
    postponed BIGINT NOT NULL DEFAULT 0, -- 1: due later than the client said, because the server stopped
    attributes LONGBLOB,
    data LONGBLOB NOT NULL,
    PRIMARY KEY (client_id, generation, node_id),
    KEY wills_by_time (due_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;
