-- Bulk downloads. `owners` is the JSON of every [site, user] whose objects are in the archive, NULL
-- where they are too many to be listed. `own_blobs` are keys of bytes that were made for the archive.
-- `kept` is 1 while its parts are there: until then, the bytes that they name are not removed.
CREATE TABLE bulk_jobs (
    id         {text} PRIMARY KEY,
    customer   {text} NOT NULL,
    client     {text} NOT NULL,
    owner      {text} NOT NULL,
    state      {text} NOT NULL,
    created_ms BIGINT NOT NULL,
    touched_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    ended_ms   BIGINT,
    cleared    BIGINT NOT NULL,
    kept       BIGINT NOT NULL,
    members    BIGINT NOT NULL,
    missing    BIGINT NOT NULL,
    entries    BIGINT NOT NULL,
    directory  BIGINT NOT NULL,
    owners     {text},
    own_blobs  {text} NOT NULL
);
CREATE INDEX bulk_jobs_of_client ON bulk_jobs (customer, client, created_ms, id);
CREATE INDEX bulk_jobs_kept ON bulk_jobs (customer, id) WHERE kept = 1;
CREATE INDEX bulk_jobs_by_expiry ON bulk_jobs (expires_ms);

-- A thousand members each, and where the first of them lies in the archive and in its directory.
-- `missing` is the JSON of [object id, status] of those that could not be taken.
CREATE TABLE bulk_parts (
    job              {text} NOT NULL,
    place            BIGINT NOT NULL,
    customer         {text} NOT NULL,
    entry_offset     BIGINT NOT NULL,
    directory_offset BIGINT NOT NULL,
    members          {text} NOT NULL,
    missing          {text} NOT NULL,
    PRIMARY KEY (job, place)
);
CREATE INDEX bulk_parts_by_entry ON bulk_parts (job, entry_offset, place);
CREATE INDEX bulk_parts_by_directory ON bulk_parts (job, directory_offset, place);

-- Members whose bytes were gone when the archive was fetched.
CREATE TABLE bulk_lost (
    job       {text} NOT NULL,
    object_id {text} NOT NULL,
    customer  {text} NOT NULL,
    blob      {text} NOT NULL,
    size      BIGINT NOT NULL,
    PRIMARY KEY (job, object_id)
);

-- Whose bytes they were, and until when an archive holds them.
ALTER TABLE discarded ADD COLUMN customer {text} NOT NULL DEFAULT '';
ALTER TABLE discarded ADD COLUMN until_ms BIGINT NOT NULL DEFAULT 0;
CREATE INDEX discarded_by_end ON discarded (until_ms, key);

-- What was deleted and can be taken back: the state that it was in, and until when.
CREATE TABLE revocations (
    object_id {text} PRIMARY KEY,
    customer  {text} NOT NULL,
    state     {text} NOT NULL,
    until_ms  BIGINT NOT NULL
);
CREATE INDEX revocations_by_end ON revocations (until_ms, object_id);

-- What a presigned link opens: the content of an object, or an archive.
ALTER TABLE links ADD COLUMN kind {text} NOT NULL DEFAULT 'object';
