-- The options of a subscription as a number (options.rs). 5: those of a JMQT client.
ALTER TABLE subscriptions ADD COLUMN options INTEGER NOT NULL DEFAULT 5;
