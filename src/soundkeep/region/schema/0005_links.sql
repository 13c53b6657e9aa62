-- Presigned links. subject to token_id: what the token that made the link said. `network` is a CIDR
-- range, or ''. `uses` counts answers with bytes. Times are NULL for what has not happened.
CREATE TABLE links (
    id           {text} PRIMARY KEY,
    customer     {text} NOT NULL,
    object_id    {text} NOT NULL,
    client       {text} NOT NULL,
    subject      {text} NOT NULL,
    owner        {text} NOT NULL,
    reach        {text} NOT NULL,
    networks     {text} NOT NULL,
    epoch        BIGINT NOT NULL,
    token_id     {text} NOT NULL,
    created_ms   BIGINT NOT NULL,
    expires_ms   BIGINT NOT NULL,
    once         BIGINT NOT NULL,
    network      {text} NOT NULL,
    inline       BIGINT NOT NULL,
    uses         BIGINT NOT NULL,
    last_used_ms BIGINT,
    last_address {text} NOT NULL,
    revoked_ms   BIGINT
);
CREATE INDEX links_of_customer ON links (customer, created_ms, id);
CREATE INDEX links_of_client ON links (customer, client, created_ms, id);
CREATE INDEX links_by_expiry ON links (expires_ms);

-- The keys that sign links, sealed with the installation's secret key.
CREATE TABLE link_keys (
    kid        {text} PRIMARY KEY,
    sealed     {text} NOT NULL,
    created_ms BIGINT NOT NULL
);
