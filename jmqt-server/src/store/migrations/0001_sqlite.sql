-- Names compare byte for byte: BINARY is SQLite's collation unless told otherwise.

-- AUTOINCREMENT: an id is never used again, so a push id never names two messages.
CREATE TABLE channels (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    last_seq INTEGER NOT NULL,
    -- how many rows of `subscriptions` name the channel; the log is kept while it is above 0
    persistent_count INTEGER NOT NULL
) STRICT;

-- With a rowid, so that messages of all channels lie side by side in the order they came: a commit
-- writes few pages, and what was trimmed together leaves whole pages free. (Kept in the order of the
-- key instead, every channel has a page of its own: 1/2 of the speed at 128 bytes, 1/3 at 1,024.)
-- `data` last: what only dates messages need not read large payloads.
CREATE TABLE messages (
    channel_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    created_at INTEGER NOT NULL, -- milliseconds since 1970
    sender TEXT,                 -- NULL: the server
    data BLOB NOT NULL,
    PRIMARY KEY (channel_id, seq)
) STRICT;

-- Channel first: a channel's slowest cursor is found by reading one range.
CREATE TABLE subscriptions (
    channel_id INTEGER NOT NULL,
    client_id TEXT NOT NULL,
    acked_seq INTEGER NOT NULL,
    acked_beyond BLOB NOT NULL, -- empty, or 16 little-endian words of 64 bits
    PRIMARY KEY (channel_id, client_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX subscriptions_by_client ON subscriptions (client_id, channel_id);

CREATE TABLE retained (
    channel_id INTEGER PRIMARY KEY,
    sender TEXT, -- NULL: the server
    data BLOB NOT NULL
) STRICT;

-- Clients that have a persistent subscription, and no others.
CREATE TABLE clients (
    client_id TEXT PRIMARY KEY,
    last_seen INTEGER NOT NULL -- milliseconds since 1970
) STRICT, WITHOUT ROWID;

CREATE INDEX clients_by_last_seen ON clients (last_seen);

CREATE TABLE sessions (
    client_id TEXT NOT NULL,
    generation INTEGER NOT NULL,
    node_id TEXT NOT NULL,
    protocol TEXT NOT NULL,
    address TEXT NOT NULL,
    since INTEGER NOT NULL, -- milliseconds since 1970
    close_claimed_by TEXT,  -- the node that runs the close notifier of a session another one left
    PRIMARY KEY (client_id, generation, node_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
