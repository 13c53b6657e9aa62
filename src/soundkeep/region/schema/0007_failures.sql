-- Objects that are FAILED since the bytes of their blob were found lost or changed, or will be when
-- their deletion is taken back: they return with the bytes.
CREATE TABLE failures (
    object_id {text} PRIMARY KEY,
    customer  {text} NOT NULL,
    blob      {text} NOT NULL
);
CREATE INDEX failures_of_blob ON failures (customer, blob);

-- Nothing but that has made objects FAILED so far.
UPDATE revocations SET state = 'FAILED'
WHERE state = 'AVAILABLE' AND object_id IN (
    SELECT id FROM objects WHERE blob IN (SELECT blob FROM objects WHERE state = 'FAILED')
);
INSERT INTO failures (object_id, customer, blob)
SELECT id, customer, blob FROM objects
WHERE (state = 'FAILED' OR id IN (SELECT object_id FROM revocations WHERE state = 'FAILED'))
  AND blob IN (SELECT key FROM blobs WHERE edition = key);
