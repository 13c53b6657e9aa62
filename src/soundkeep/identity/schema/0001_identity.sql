CREATE TABLE customers (
    id         TEXT NOT NULL PRIMARY KEY,
    name       TEXT NOT NULL,
    regions    TEXT NOT NULL,
    changes    BIGINT NOT NULL,
    created_ms BIGINT NOT NULL
);

CREATE TABLE users (
    customer      TEXT NOT NULL REFERENCES customers (id),
    id            TEXT NOT NULL,
    email         TEXT NOT NULL UNIQUE,
    name          TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    disabled      BIGINT NOT NULL,
    created_ms    BIGINT NOT NULL,
    PRIMARY KEY (customer, id)
);

CREATE TABLE sites (
    customer   TEXT NOT NULL REFERENCES customers (id),
    id         TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (customer, id)
);

CREATE TABLE user_groups (
    customer   TEXT NOT NULL REFERENCES customers (id),
    id         TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (customer, id)
);

CREATE TABLE group_members (
    customer TEXT NOT NULL,
    group_id TEXT NOT NULL,
    user_id  TEXT NOT NULL,
    PRIMARY KEY (customer, group_id, user_id),
    FOREIGN KEY (customer, group_id) REFERENCES user_groups (customer, id),
    FOREIGN KEY (customer, user_id) REFERENCES users (customer, id)
);

-- Roles of a customer's own making; the built-in ones are code.
CREATE TABLE roles (
    customer    TEXT NOT NULL REFERENCES customers (id),
    id          TEXT NOT NULL,
    name        TEXT NOT NULL,
    permissions TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    PRIMARY KEY (customer, id),
    UNIQUE (customer, name)
);

CREATE TABLE assignments (
    customer   TEXT NOT NULL,
    id         TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    granted_by TEXT NOT NULL,
    expires_ms BIGINT,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (customer, id),
    FOREIGN KEY (customer, user_id) REFERENCES users (customer, id)
);
CREATE INDEX assignments_of_user ON assignments (customer, user_id);

CREATE TABLE assignment_roles (
    customer      TEXT NOT NULL,
    assignment_id TEXT NOT NULL,
    role_id       TEXT NOT NULL,
    PRIMARY KEY (customer, assignment_id, role_id),
    FOREIGN KEY (customer, assignment_id) REFERENCES assignments (customer, id)
);
CREATE INDEX assignments_of_role ON assignment_roles (customer, role_id);

-- kind: company, site, group, own; target: the site's or group's id, else ''.
CREATE TABLE assignment_scopes (
    customer      TEXT NOT NULL,
    assignment_id TEXT NOT NULL,
    kind          TEXT NOT NULL,
    target        TEXT NOT NULL,
    PRIMARY KEY (customer, assignment_id, kind, target),
    FOREIGN KEY (customer, assignment_id) REFERENCES assignments (customer, id)
);
CREATE INDEX assignments_of_scope ON assignment_scopes (customer, kind, target);

CREATE TABLE apps (
    customer   TEXT NOT NULL,
    id         TEXT NOT NULL PRIMARY KEY,
    client_key TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    owner      TEXT NOT NULL,
    products   TEXT NOT NULL,
    access     TEXT NOT NULL,
    networks   TEXT NOT NULL,
    expires_ms BIGINT,
    created_ms BIGINT NOT NULL,
    UNIQUE (customer, name),
    FOREIGN KEY (customer, owner) REFERENCES users (customer, id)
);
CREATE INDEX apps_of_owner ON apps (customer, owner);

CREATE TABLE app_secrets (
    customer     TEXT NOT NULL,
    id           TEXT NOT NULL PRIMARY KEY,
    app_id       TEXT NOT NULL REFERENCES apps (id),
    hash         TEXT NOT NULL,
    created_ms   BIGINT NOT NULL,
    last_used_ms BIGINT
);
CREATE INDEX secrets_of_app ON app_secrets (app_id);

-- Private halves are sealed with the installation's secret key.
CREATE TABLE signing_keys (
    kid        TEXT NOT NULL PRIMARY KEY,
    sealed     TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    retired_ms BIGINT
);

-- The epoch goes up with every revocation; its row lock makes epochs commit in order.
CREATE TABLE epochs (
    id    BIGINT NOT NULL PRIMARY KEY,
    epoch BIGINT NOT NULL
);
INSERT INTO epochs (id, epoch) VALUES (1, 0);

-- Subjects (app, user or token id) whose tokens of an earlier epoch are dead.
CREATE TABLE revocations (
    epoch      BIGINT NOT NULL,
    subject    TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (epoch, subject)
);

CREATE TABLE sessions (
    customer   TEXT NOT NULL,
    hash       TEXT NOT NULL PRIMARY KEY,
    user_id    TEXT NOT NULL,
    csrf       TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    seen_ms    BIGINT NOT NULL,
    FOREIGN KEY (customer, user_id) REFERENCES users (customer, id)
);
CREATE INDEX sessions_of_user ON sessions (customer, user_id);

-- Failures of late by who failed (`key:...`, `address:...`), and until when they must wait.
CREATE TABLE throttles (
    name      TEXT NOT NULL PRIMARY KEY,
    failures  BIGINT NOT NULL,
    last_ms   BIGINT NOT NULL,
    until_ms  BIGINT NOT NULL
);

-- One row until the first Super Admin is made.
CREATE TABLE setup_codes (
    hash       TEXT NOT NULL PRIMARY KEY,
    created_ms BIGINT NOT NULL
);
