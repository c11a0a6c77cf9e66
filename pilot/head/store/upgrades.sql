-- What makes a database of the version before into one of this version.

-- version: 6
CREATE TABLE decisions (
    id     INTEGER PRIMARY KEY,
    at     REAL NOT NULL,
    pool   TEXT NOT NULL,
    pilot  TEXT NOT NULL,                   -- empty: on the pool as a whole
    kind   TEXT NOT NULL,
    detail TEXT NOT NULL
);

-- version: 7
CREATE TABLE orders (
    verb    TEXT NOT NULL,                  -- of a pool: scale, hold; of a pilot: drain, cancel
    subject TEXT NOT NULL,                  -- the name of the pool or pilot
    nodes   INTEGER NOT NULL,
    reason  TEXT NOT NULL,
    at      REAL NOT NULL,
    PRIMARY KEY (verb, subject)
) WITHOUT ROWID;

-- version: 8
ALTER TABLE pilots ADD COLUMN used REAL NOT NULL DEFAULT 0;
ALTER TABLE pilots ADD COLUMN counted REAL;
CREATE TABLE usage (
    kind   TEXT NOT NULL,                   -- pool, session
    name   TEXT NOT NULL,
    day    INTEGER NOT NULL,
    node_s REAL NOT NULL,
    PRIMARY KEY (kind, name, day)
) WITHOUT ROWID;

-- version: 9
ALTER TABLE sessions ADD COLUMN budget REAL;
CREATE INDEX sessions_with_budget ON sessions (id) WHERE budget IS NOT NULL;

-- version: 10
ALTER TABLE orders ADD COLUMN within_s REAL NOT NULL DEFAULT 0;

-- version: 11
ALTER TABLE pilots ADD COLUMN own INTEGER NOT NULL DEFAULT 0;
UPDATE pilots SET own = 1
WHERE reason IN ('the head''s own allocation', 'an allocation that was adopted');

-- version: 12
ALTER TABLE tasks ADD COLUMN after BLOB;

-- version: 13
-- Versions of named objects: each is a result of a task, which is kept with all its results as long as
-- the version is. One that was removed stays as a row: no number is given twice.
CREATE TABLE objects (
    name    TEXT NOT NULL,
    version INTEGER NOT NULL,
    task    INTEGER NOT NULL,
    place   INTEGER NOT NULL,               -- which of the task's results
    put     INTEGER NOT NULL,               -- 1: put under this name, the value goes with the version
    maker   INTEGER NOT NULL,               -- the task that made it; 0: a program
    session INTEGER NOT NULL,
    session_name TEXT NOT NULL,
    made    REAL NOT NULL,
    user    TEXT NOT NULL,
    size    INTEGER NOT NULL,
    type    TEXT NOT NULL,
    tags    TEXT NOT NULL,                  -- a JSON object
    expires REAL,                           -- NULL: kept until it is removed
    removed REAL,                           -- NULL: it is there
    PRIMARY KEY (name, version)
) WITHOUT ROWID;
-- One result is one version of a name, however often it is said.
CREATE UNIQUE INDEX objects_kept ON objects (task, place, name) WHERE removed IS NULL;
CREATE INDEX objects_expiring ON objects (expires) WHERE removed IS NULL AND expires IS NOT NULL;

CREATE TABLE aliases (
    name    TEXT NOT NULL,
    alias   TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (name, alias)
) WITHOUT ROWID;

-- version: 14
ALTER TABLE sessions ADD COLUMN grace REAL;
ALTER TABLE sessions ADD COLUMN reason TEXT;

-- version: 15
CREATE TABLE released (
    task  INTEGER NOT NULL,
    place INTEGER NOT NULL,                 -- which of the task's results
    gone  INTEGER NOT NULL,
    PRIMARY KEY (task, place)
) WITHOUT ROWID;
CREATE INDEX released_and_needed ON released (task) WHERE NOT gone;

-- version: 16
ALTER TABLE tasks ADD COLUMN commutative BLOB;

-- The latest versions of results that tasks take by turns. The head of a session's later life goes on
-- with these.
CREATE TABLE turns (
    task         INTEGER NOT NULL,          -- with `place`: the first version
    place        INTEGER NOT NULL,
    latest       INTEGER NOT NULL,          -- with `latest_place`: the latest one
    latest_place INTEGER NOT NULL,
    PRIMARY KEY (task, place)
) WITHOUT ROWID;

-- version: 17
ALTER TABLE attempts ADD COLUMN cpu REAL;
ALTER TABLE attempts ADD COLUMN memory INTEGER;

-- version: 18
ALTER TABLE sessions ADD COLUMN inherited BLOB;

-- The variables of programs, for the tasks of their sessions: most sessions of a user have the same.
CREATE TABLE inherited (
    digest    BLOB PRIMARY KEY,
    variables BLOB NOT NULL
) WITHOUT ROWID;

-- version: 19
ALTER TABLE attempts ADD COLUMN placement TEXT;

-- version: 20
ALTER TABLE attempts ADD COLUMN version TEXT;
