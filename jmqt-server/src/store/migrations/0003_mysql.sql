-- Publishers whose publishes are taken once, and which of them were (protocol.md 2.23).
CREATE TABLE IF NOT EXISTS publishers (
    client_id VARBINARY(256) NOT NULL,
    publisher VARBINARY(64) NOT NULL,
    used_at BIGINT NOT NULL, -- milliseconds since 1970: when a publish was stored last
    seen BLOB NOT NULL,
    PRIMARY KEY (client_id, publisher)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;
