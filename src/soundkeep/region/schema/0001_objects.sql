-- A bucket groups what belongs together: a call's recording, its transcripts, its summary.
CREATE TABLE buckets (
    customer   {text} NOT NULL,
    id         {text} NOT NULL,
    user_id    {text} NOT NULL,
    name       {text} NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    tags       {json} NOT NULL,
    PRIMARY KEY (customer, id)
);

-- site: the value of the branchId tag, or ''. doc: the object's JSON, ready to be sent.
-- *_number: the tags duration, startTime and endTime, where they are numbers.
CREATE TABLE objects (
    seq        {serial},
    customer   {text} NOT NULL,
    id         {text} NOT NULL UNIQUE,
    type       {text} NOT NULL,
    mime_type  {text} NOT NULL,
    name       {text} NOT NULL,
    checksum   {text} NOT NULL,
    user_id    {text} NOT NULL,
    site       {text} NOT NULL,
    size       BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    state      {text} NOT NULL,
    bucket_id  {text} NOT NULL,
    shared     BIGINT NOT NULL,
    tags       {json} NOT NULL,
    duration_number DOUBLE PRECISION,
    start_number    DOUBLE PRECISION,
    end_number      DOUBLE PRECISION,
    blob       {text} NOT NULL,
    sha256     {text} NOT NULL,
    crc32      BIGINT NOT NULL,
    doc        {text} NOT NULL,
    FOREIGN KEY (customer, bucket_id) REFERENCES buckets (customer, id)
);
CREATE INDEX objects_by_time ON objects (customer, state, created_ms, id);
CREATE INDEX objects_of_bucket ON objects (customer, bucket_id);
