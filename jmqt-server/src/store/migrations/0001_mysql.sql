-- Names are VARBINARY: they compare byte for byte, and trailing blanks count. Every statement can be
-- run again, because MySQL commits each by itself: a migration that was interrupted is simply repeated.

-- AUTO_INCREMENT is kept on disk, so an id is never used again and a push id never names two messages.
CREATE TABLE IF NOT EXISTS channels (
    id BIGINT NOT NULL AUTO_INCREMENT,
    name VARBINARY(512) NOT NULL,
    last_seq BIGINT NOT NULL,
    -- how many rows of `subscriptions` name the channel; changes only under the lock of this row
    persistent_count BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY channels_by_name (name)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;

CREATE TABLE IF NOT EXISTS messages (
    channel_id BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    created_at BIGINT NOT NULL, -- milliseconds since 1970
    sender VARBINARY(256),      -- NULL: the server
    data LONGBLOB NOT NULL,
    PRIMARY KEY (channel_id, seq)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;

-- Channel first: a channel's slowest cursor is found by reading one range.
CREATE TABLE IF NOT EXISTS subscriptions (
    channel_id BIGINT NOT NULL,
    client_id VARBINARY(256) NOT NULL,
    acked_seq BIGINT NOT NULL,
    acked_beyond VARBINARY(128) NOT NULL, -- empty, or 16 little-endian words of 64 bits
    PRIMARY KEY (channel_id, client_id),
    KEY subscriptions_by_client (client_id, channel_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;

CREATE TABLE IF NOT EXISTS retained (
    channel_id BIGINT NOT NULL,
    sender VARBINARY(256), -- NULL: the server
    data LONGBLOB NOT NULL,
    PRIMARY KEY (channel_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;

-- Clients that have a persistent subscription, and no others.
CREATE TABLE IF NOT EXISTS clients (
    client_id VARBINARY(256) NOT NULL,
    last_seen BIGINT NOT NULL, -- milliseconds since 1970
    PRIMARY KEY (client_id),
    KEY clients_by_last_seen (last_seen)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;

CREATE TABLE IF NOT EXISTS sessions (
    client_id VARBINARY(256) NOT NULL,
    generation BIGINT NOT NULL,
    node_id VARBINARY(64) NOT NULL,
    protocol VARBINARY(32) NOT NULL,
    address VARBINARY(128) NOT NULL,
    since BIGINT NOT NULL,          -- milliseconds since 1970
    close_claimed_by VARBINARY(64), -- the node that runs the close notifier
    called_off BOOLEAN NOT NULL DEFAULT FALSE, -- or claimed by another node than serves it
    PRIMARY KEY (client_id, generation, node_id),
    KEY sessions_by_node (node_id, called_off),
    KEY sessions_by_claim (close_claimed_by)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;

-- Nodes that have sessions, or had some.
CREATE TABLE IF NOT EXISTS nodes (
    node_id VARBINARY(64) NOT NULL,
    beat BIGINT NOT NULL,  -- rises as long as the node is there
    condemned_at BIGINT,   -- milliseconds since 1970: it did not rise, and others have claimed its sessions
    PRIMARY KEY (node_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;

-- One row for each open store: its last batch, to find out about a COMMIT that was not answered.
CREATE TABLE IF NOT EXISTS batches (
    node BIGINT NOT NULL,
    batch BIGINT NOT NULL,
    committed_at BIGINT NOT NULL, -- milliseconds since 1970
    PRIMARY KEY (node)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;

CREATE TABLE IF NOT EXISTS meta (
    name VARBINARY(32) NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;
