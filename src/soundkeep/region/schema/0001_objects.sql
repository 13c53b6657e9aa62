-- A bucket groups what belongs together: a call's recording, its transcripts, its summary.
CREATE TABLE buckets (
    customer   TEXT NOT NULL,
    id         TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    PRIMARY KEY (customer, id)
);

-- site: the value of the branchId tag, or ''. doc: the object's JSON, ready to be sent.
CREATE TABLE objects (
    seq        {serial},
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
    tags       {json} NOT NULL,
    blob       TEXT NOT NULL,
    sha256     TEXT NOT NULL,
    crc32      BIGINT NOT NULL,
    doc        TEXT NOT NULL,
    FOREIGN KEY (customer, bucket_id) REFERENCES buckets (customer, id)
);
CREATE INDEX objects_by_time ON objects (customer, state, created_ms, id);
CREATE INDEX objects_of_bucket ON objects (customer, bucket_id);
