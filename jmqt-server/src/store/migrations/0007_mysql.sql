-- QoS 2 publishes that MQTT clients have not released (4.3.3): a client's packet identifier is here from the commit of
-- its message to the PUBREL. Only of sessions that outlive their connections.
CREATE TABLE IF NOT EXISTS received (
    client_id VARBINARY(256) NOT NULL,
    packet_id INT NOT NULL,
    stamp BIGINT NOT NULL, -- of the commit: tells which of two nodes has inserted the row
    PRIMARY KEY (client_id, packet_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;

-- QoS 2 messages that were sent to such sessions, until the exchange is complete and the cursor is saved. The packet
-- identifier may be in use again before.
CREATE TABLE IF NOT EXISTS sent (
    client_id VARBINARY(256) NOT NULL,
    turn BIGINT NOT NULL,       -- the order in which the client's messages were sent
    packet_id INT NOT NULL,
    channel_id BIGINT NOT NULL, -- the message; 0: it is in no log
    seq BIGINT NOT NULL,
    released INT NOT NULL,      -- 1: the client has received the message
    PRIMARY KEY (client_id, turn)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4;
