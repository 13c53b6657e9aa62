-- An object's JSON moves beside its row, so that searches read narrow rows.
CREATE TABLE documents (
    seq BIGINT PRIMARY KEY REFERENCES objects (seq) ON DELETE CASCADE,
    doc TEXT COLLATE "C" NOT NULL
);
INSERT INTO documents (seq, doc) SELECT seq, doc FROM objects;
ALTER TABLE objects DROP COLUMN doc;

CREATE INDEX objects_by_tag ON objects USING gin (tags jsonb_path_ops);
CREATE INDEX objects_by_type ON objects (customer, state, type, created_ms, id);
CREATE INDEX objects_by_user ON objects (customer, state, user_id, created_ms, id);
CREATE INDEX objects_by_site ON objects (customer, state, site, created_ms, id);
CREATE INDEX objects_by_name ON objects (customer, name);
CREATE INDEX objects_by_checksum ON objects (customer, checksum);
CREATE INDEX objects_by_duration ON objects (customer, state, duration_number, id);
CREATE INDEX objects_by_start ON objects (customer, state, start_number, id);
CREATE INDEX objects_by_end ON objects (customer, state, end_number, id);
CREATE INDEX buckets_by_time ON buckets (customer, created_ms, id);

-- Tags that calls are looked up by, newest first; selection.ORDERED_TAGS names the same.
CREATE INDEX objects_by_agent
ON objects (customer, state, ((tags ->> 'agentId') COLLATE "C"), created_ms, id);
CREATE INDEX objects_by_caller
ON objects (customer, state, ((tags ->> 'callerId') COLLATE "C"), created_ms, id);
CREATE INDEX objects_by_call
ON objects (customer, state, ((tags ->> 'callId') COLLATE "C"), created_ms, id);

-- Where the pages of walks end: short-lived, and worth nothing after a crash.
CREATE UNLOGGED TABLE walks (
    walk       TEXT COLLATE "C" NOT NULL,
    position   BIGINT NOT NULL,
    token      TEXT COLLATE "C" NOT NULL,
    after_key  TEXT COLLATE "C" NOT NULL,
    total      BIGINT NOT NULL,
    exact      BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    PRIMARY KEY (walk, position, token)
);
CREATE INDEX walks_by_expiry ON walks (expires_ms);
