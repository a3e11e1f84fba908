-- Subscriptions of MQTT sessions with filters, and those with QoS 0, which have no cursor.
-- The cursors of a filter are rows of `subscriptions` whose options have bit 4 (options.rs).
CREATE TABLE IF NOT EXISTS filters (
    client_id VARBINARY(256) NOT NULL,
    filter VARBINARY(2048) NOT NULL,
    options BIGINT NOT NULL,
    version BIGINT NOT NULL, -- of the last change
    gone_at BIGINT,          -- milliseconds since 1970: removed, and kept for nodes that have not read the change
    PRIMARY KEY (client_id, filter),
    KEY filters_by_version (version),
    KEY filters_by_gone_at (gone_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;

-- One row. A batch locks it for others that change filters; a change of filters locks it for batches.
CREATE TABLE IF NOT EXISTS filters_version (
    id BIGINT NOT NULL,
    version BIGINT NOT NULL,
    purged BIGINT NOT NULL, -- the version of the last removed filter whose row was deleted
    PRIMARY KEY (id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;

INSERT IGNORE INTO filters_version (id, version, purged) VALUES (0, 0, 0);
