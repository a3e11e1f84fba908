-- The new columns of `messages` come before `data`, so that reading them need not read large payloads; SQLite
-- adds columns at the end only, so the table is written again. Its size is that of what is not acknowledged.
CREATE TABLE messages_2 (
    channel_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    created_at INTEGER NOT NULL,   -- milliseconds since 1970
    stamp INTEGER NOT NULL,        -- random, the same for all messages of a commit; 0: stored before there were stamps
    bytes_before INTEGER NOT NULL, -- the channel's `total_bytes` before this message
    sender TEXT,                   -- NULL: the server
    data BLOB NOT NULL,
    PRIMARY KEY (channel_id, seq)
) STRICT;

INSERT INTO messages_2 (channel_id, seq, created_at, stamp, bytes_before, sender, data)
SELECT channel_id, seq, created_at, 0, 0, sender, data FROM messages ORDER BY rowid;

DROP TABLE messages;

ALTER TABLE messages_2 RENAME TO messages;

-- How many bytes of payload were ever logged there (by versions that counted them).
ALTER TABLE channels ADD COLUMN total_bytes INTEGER NOT NULL DEFAULT 0;

-- The length of `data`.
ALTER TABLE retained ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;

UPDATE retained SET bytes = length(data);
