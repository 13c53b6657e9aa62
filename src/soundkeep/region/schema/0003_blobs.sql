-- One row for each blob. `refs` objects hold it; those of one customer with the same bytes share
-- one. `edition` is '' for the blob that new objects may share, and its key where none may.
CREATE TABLE blobs (
    key         {text} PRIMARY KEY,
    customer    {text} NOT NULL,
    sha256      {text} NOT NULL,
    edition     {text} NOT NULL,
    size        BIGINT NOT NULL,
    refs        BIGINT NOT NULL,
    verified_ms BIGINT NOT NULL
);
INSERT INTO blobs (key, customer, sha256, edition, size, refs, verified_ms)
SELECT blob, min(customer), min(sha256), blob, max(size), count(*), 0
FROM objects WHERE state <> 'DELETED' GROUP BY blob;
UPDATE blobs SET edition = ''
WHERE key IN (SELECT min(key) FROM blobs GROUP BY customer, sha256);
CREATE UNIQUE INDEX blobs_by_content ON blobs (customer, sha256, edition);
CREATE INDEX blobs_by_verification ON blobs (verified_ms, key);

-- Keys of blobs that nothing holds any more, until their bytes are removed.
CREATE TABLE discarded (
    key {text} PRIMARY KEY
);

-- What a customer's objects amount to, for quotas.
CREATE TABLE usage (
    customer {text} PRIMARY KEY,
    objects  BIGINT NOT NULL,
    bytes    BIGINT NOT NULL
);
INSERT INTO usage (customer, objects, bytes)
SELECT customer, count(*), CAST(sum(size) AS BIGINT)
FROM objects WHERE state <> 'DELETED' GROUP BY customer;

-- The names under which uploads may be repeated without making a second object.
CREATE TABLE repeats (
    customer    {text} NOT NULL,
    name        {text} NOT NULL,
    object_id   {text} NOT NULL,
    fingerprint {text} NOT NULL,
    PRIMARY KEY (customer, name)
);
CREATE INDEX repeats_of_object ON repeats (customer, object_id);

-- Who does a region's background work: one process at a time.
CREATE TABLE leases (
    name     {text} PRIMARY KEY,
    holder   {text} NOT NULL,
    until_ms BIGINT NOT NULL
);
