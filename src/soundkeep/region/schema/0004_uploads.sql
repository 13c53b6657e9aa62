-- Resumable uploads. `position` bytes are durable; `holder` is the request that adds to them, until
-- `held_until_ms` unless it says so again. state: open, kept (as `object_id`) or ended.
CREATE TABLE uploads (
    id            {text} PRIMARY KEY,
    customer      {text} NOT NULL,
    client        {text} NOT NULL,
    size          BIGINT NOT NULL,
    position      BIGINT NOT NULL,
    wanted        {text} NOT NULL,
    metadata      {text} NOT NULL,
    state         {text} NOT NULL,
    object_id     {text} NOT NULL,
    expires_ms    BIGINT NOT NULL,
    holder        {text} NOT NULL,
    held_until_ms BIGINT NOT NULL,
    contested     BIGINT NOT NULL
);
CREATE INDEX uploads_by_expiry ON uploads (expires_ms);

-- What a store of bytes must remember of an upload's parts.
CREATE TABLE upload_pieces (
    upload   {text} NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    start_at BIGINT NOT NULL,
    end_at   BIGINT NOT NULL,
    name     {text} NOT NULL,
    PRIMARY KEY (upload, start_at)
);
