-- Subscriptions of MQTT sessions with filters, and those with QoS 0, which have no cursor.
-- The cursors of a filter are rows of `subscriptions` whose options have bit 4 (options.rs).
CREATE TABLE filters (
    client_id TEXT NOT NULL,
    filter TEXT NOT NULL,
    options INTEGER NOT NULL,
    PRIMARY KEY (client_id, filter)
) STRICT, WITHOUT ROWID;
