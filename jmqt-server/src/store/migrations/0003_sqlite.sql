-- Publishers whose publishes are taken once, and which of them were (protocol.md 2.23).
CREATE TABLE publishers (
    client_id TEXT NOT NULL,
    publisher TEXT NOT NULL,
    used_at INTEGER NOT NULL, -- milliseconds since 1970: when a publish was stored last
    seen BLOB NOT NULL,
    PRIMARY KEY (client_id, publisher)
) STRICT, WITHOUT ROWID;
