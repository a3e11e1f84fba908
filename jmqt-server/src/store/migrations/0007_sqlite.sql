-- QoS 2 publishes that MQTT clients have not released (4.3.3): a client's packet identifier is here from the commit of
-- its message to the PUBREL. Only of sessions that outlive their connections.
CREATE TABLE received (
    client_id TEXT NOT NULL,
    packet_id INTEGER NOT NULL,
    PRIMARY KEY (client_id, packet_id)
) STRICT, WITHOUT ROWID;

-- QoS 2 messages that were sent to such sessions, until the exchange is complete and the cursor is saved. The packet
-- identifier may be in use again before.
CREATE TABLE sent (
    client_id TEXT NOT NULL,
    turn INTEGER NOT NULL,       -- the order in which the client's messages were sent
    packet_id INTEGER NOT NULL,
    channel_id INTEGER NOT NULL, -- the message; 0: it is in no log
    seq INTEGER NOT NULL,
    released INTEGER NOT NULL,   -- 1: the client has received the message
    PRIMARY KEY (client_id, turn)
) STRICT, WITHOUT ROWID;
