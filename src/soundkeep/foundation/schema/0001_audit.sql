-- One chain of audit records a customer: each record's hash covers the one before it.
CREATE TABLE audit (
    customer         TEXT NOT NULL,
    seq              BIGINT NOT NULL,
    id               TEXT NOT NULL,
    at_ms            BIGINT NOT NULL,
    event            TEXT NOT NULL,
    service          TEXT NOT NULL,
    entity_type      TEXT NOT NULL,
    entity_key       TEXT NOT NULL,
    display_name     TEXT NOT NULL,
    user_id          TEXT NOT NULL,
    impersonator     TEXT NOT NULL,
    details          TEXT NOT NULL,
    correlation_type TEXT NOT NULL,
    correlation_id   TEXT NOT NULL,
    hash             TEXT NOT NULL,
    PRIMARY KEY (customer, seq)
);
CREATE INDEX audit_by_time ON audit (customer, at_ms, seq);

CREATE TABLE audit_heads (
    customer TEXT NOT NULL PRIMARY KEY,
    seq      BIGINT NOT NULL,
    hash     TEXT NOT NULL
);
