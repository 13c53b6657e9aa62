-- An object's JSON moves beside its row, so that searches read narrow rows; tags become JSONB.
-- seq orders by time: the millisecond of creation shifted left by 20 bits, and a number within it.
CREATE TABLE objects_0002 (
    seq        INTEGER PRIMARY KEY CHECK (seq >> 20 = created_ms),
    customer   TEXT NOT NULL,
    id         TEXT NOT NULL UNIQUE,
    type       TEXT NOT NULL,
    mime_type  TEXT NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    site       TEXT NOT NULL,
    size       BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    state      TEXT NOT NULL,
    bucket_id  TEXT NOT NULL,
    shared     BIGINT NOT NULL,
    tags       BLOB NOT NULL,
    duration_number DOUBLE PRECISION,
    start_number    DOUBLE PRECISION,
    end_number      DOUBLE PRECISION,
    blob       TEXT NOT NULL,
    sha256     TEXT NOT NULL,
    crc32      BIGINT NOT NULL,
    FOREIGN KEY (customer, bucket_id) REFERENCES buckets (customer, id)
);
INSERT INTO objects_0002
SELECT (created_ms << 20) + row_number() OVER (PARTITION BY created_ms ORDER BY id) - 1,
       customer, id, type, mime_type, name, checksum, user_id, site, size, created_ms, updated_ms,
       state, bucket_id, shared, jsonb(tags), duration_number, start_number, end_number,
       blob, sha256, crc32
FROM objects;
CREATE TABLE documents (
    seq INTEGER PRIMARY KEY REFERENCES objects_0002 (seq) ON DELETE CASCADE,
    doc TEXT NOT NULL
);
INSERT INTO documents
SELECT moved.seq, objects.doc FROM objects JOIN objects_0002 AS moved ON moved.id = objects.id;
DROP TABLE objects;
ALTER TABLE objects_0002 RENAME TO objects;

CREATE INDEX objects_by_time ON objects (customer, state, created_ms, id);
CREATE INDEX objects_by_duration ON objects (customer, state, duration_number, id);
CREATE INDEX objects_by_start ON objects (customer, state, start_number, id);
CREATE INDEX objects_by_end ON objects (customer, state, end_number, id);
CREATE INDEX objects_of_bucket ON objects (customer, bucket_id);
CREATE INDEX buckets_by_time ON buckets (customer, created_ms, id);

-- The tag index: what region/tagindex.py searches. Tokens are made here and nowhere else; each is
-- the hex of customer, state, key and the beginning of the value, with unit separators between.
CREATE VIRTUAL TABLE tagindex USING fts5 (
    tokens, content = '', contentless_delete = 1, detail = none, tokenize = 'ascii'
);
CREATE VIEW object_tokens AS
SELECT seq, (
    SELECT group_concat(
        hex(customer || char(31) || state || char(31) || key || char(31) || substr(value, 1, 64)),
        ' '
    )
    FROM (
        SELECT key, value FROM json_each(objects.tags)
        UNION ALL
        VALUES ('', ''),
               (':id', id),
               (':type', type),
               (':mime_type', mime_type),
               (':name', name),
               (':checksum', checksum),
               (':user_id', user_id),
               (':bucket_id', bucket_id)
    )
) AS tokens
FROM objects;
INSERT INTO tagindex (rowid, tokens) SELECT seq, tokens FROM object_tokens ORDER BY seq;
CREATE TRIGGER objects_added AFTER INSERT ON objects BEGIN
    INSERT INTO tagindex (rowid, tokens)
    SELECT seq, tokens FROM object_tokens WHERE seq = new.seq;
END;
CREATE TRIGGER objects_changed
AFTER UPDATE OF seq, customer, id, type, mime_type, name, checksum, user_id, state, bucket_id, tags
ON objects BEGIN
    DELETE FROM tagindex WHERE rowid = old.seq;
    INSERT INTO tagindex (rowid, tokens)
    SELECT seq, tokens FROM object_tokens WHERE seq = new.seq;
END;
CREATE TRIGGER objects_removed AFTER DELETE ON objects BEGIN
    DELETE FROM tagindex WHERE rowid = old.seq;
END;
