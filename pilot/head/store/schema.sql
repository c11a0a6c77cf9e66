-- The tables of tasks.db. One writer: the head. Times are seconds since the epoch.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- A task id is (session << 32) | n. No session gets the id of one that was deleted.
CREATE TABLE sessions (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT NOT NULL,
    state       TEXT NOT NULL,              -- OPEN, STOPPED, CLOSING, CLOSED, PURGED
    paused      INTEGER NOT NULL DEFAULT 0,
    weight      REAL NOT NULL,
    priority    INTEGER NOT NULL,
    options     BLOB NOT NULL,              -- default options of its tasks, for clients
    environment BLOB NOT NULL,
    created     REAL NOT NULL,
    ended       REAL,
    numbers     INTEGER NOT NULL DEFAULT 0, -- of tasks, up to this one, are given away
    budget      REAL,                       -- node-seconds; NULL: none
    grace       REAL,                       -- ends when its clients are gone for so long; NULL: never
    reason      TEXT,                       -- why it was ended, where nobody has asked for that
    inherited   BLOB                        -- the digest of its program's variables; NULL: none
);

-- The variables of programs, for the tasks of their sessions: most sessions of a user have the same.
CREATE TABLE inherited (
    digest    BLOB PRIMARY KEY,
    variables BLOB NOT NULL
) WITHOUT ROWID;

CREATE INDEX sessions_with_budget ON sessions (id) WHERE budget IS NOT NULL;

CREATE TABLE functions (
    session INTEGER NOT NULL,
    digest  BLOB NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (session, digest)
) WITHOUT ROWID;

CREATE TABLE templates (
    id      INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    name    TEXT NOT NULL,
    kind    TEXT NOT NULL,
    pool    TEXT NOT NULL,
    detail  BLOB NOT NULL                   -- the template as it is sent
);
CREATE INDEX templates_of_session ON templates (session, name);

CREATE TABLE tasks (
    id       INTEGER PRIMARY KEY,
    session  INTEGER NOT NULL,
    template INTEGER NOT NULL,
    parent   INTEGER NOT NULL DEFAULT 0,    -- the task that submitted it; 0: a client
    ordinal  INTEGER NOT NULL DEFAULT 0,    -- of a detached child: which one of its parent
    state    TEXT NOT NULL,                 -- READY stands for PENDING, ASSIGNED and RUNNING too
    created  REAL NOT NULL,
    ended    REAL,
    payload  BLOB,                          -- arguments
    inputs   BLOB,                          -- the results that they refer to
    digest   BLOB,                          -- of arguments whose payload does not tell them
    result   BLOB,                          -- values, or the failure
    delegated BLOB,                         -- of a DELEGATED task: values, and who has the others
    attempts INTEGER NOT NULL DEFAULT 0,
    errors   INTEGER NOT NULL DEFAULT 0,
    crashes  INTEGER NOT NULL DEFAULT 0,
    error    TEXT,                          -- class of the error that ended it
    pool     TEXT,                          -- of the pilot that had its last attempt
    ran      REAL,                          -- seconds that its last attempt took
    memo     BLOB,                          -- the key by which its results are found again
    files    BLOB,                          -- what must be there for that, as it was
    retry_of INTEGER,                       -- the failed task whose place it takes
    after    BLOB,                          -- the tasks that end before it starts
    commutative BLOB                        -- what it takes by turns: places of inputs and results
);

-- The latest versions of results that tasks take by turns. The head of a session's later life goes on
-- with these.
CREATE TABLE turns (
    task         INTEGER NOT NULL,          -- with `place`: the first version
    place        INTEGER NOT NULL,
    latest       INTEGER NOT NULL,          -- with `latest_place`: the latest one
    latest_place INTEGER NOT NULL,
    PRIMARY KEY (task, place)
) WITHOUT ROWID;
-- Everything that tasks are found, counted and sorted by: no such question reads the rows, which are
-- wide. What a new head has to read, too: READY and DELEGATED are what is unfinished.
CREATE INDEX tasks_listed ON tasks (session, state, id, template, created, ended, ran, pool, error);
CREATE INDEX tasks_by_memo ON tasks (memo) WHERE memo IS NOT NULL;
CREATE INDEX tasks_retried ON tasks (retry_of) WHERE retry_of IS NOT NULL;
CREATE UNIQUE INDEX tasks_detached ON tasks (parent, ordinal) WHERE ordinal > 0;
CREATE INDEX tasks_children ON tasks (parent) WHERE parent > 0;
-- Whose places others have taken by a retry: what ran again, and what it had submitted, which it has
-- submitted anew.
CREATE VIEW replaced AS
WITH RECURSIVE replaced (id) AS (
    SELECT retry_of FROM tasks WHERE retry_of IS NOT NULL
    UNION SELECT t.id FROM replaced r JOIN tasks t ON t.parent = r.id WHERE t.parent > 0
)
SELECT id FROM replaced;

-- Everything that has come into another state, in order. A row holds what one transaction has of
-- one session (0: of none): the events `first`, `first` + 1, … as `pilot.head.core.events.Change`s.
CREATE TABLE events (
    first   INTEGER PRIMARY KEY,
    count   INTEGER NOT NULL,
    session INTEGER NOT NULL,
    changes BLOB NOT NULL
);
CREATE INDEX events_of_session ON events (session, first);

CREATE TABLE attempts (
    task      INTEGER NOT NULL,
    number    INTEGER NOT NULL,
    outcome   TEXT NOT NULL,
    pilot     TEXT NOT NULL,
    node      TEXT NOT NULL,
    created   REAL, ready   REAL, assigned REAL, received REAL, fetched REAL,
    started   REAL, ended   REAL, reported REAL, committed REAL,
    failure   BLOB,
    logs      BLOB,
    cpu       REAL,                         -- seconds of processors; NULL: not known
    memory    INTEGER,                      -- the most that it had, in MiB; NULL: not known
    placement TEXT,                         -- nodes, cores and things with an index that it had
    version   TEXT,                         -- of the task that ran; NULL: the task itself
    PRIMARY KEY (task, number)
) WITHOUT ROWID;

-- Results that a task has of another one: of a child, or of the same work in an earlier run. The file
-- `path` and what is `name` in it stay as long as anybody has them.
CREATE TABLE borrowed (
    path TEXT NOT NULL,
    name TEXT NOT NULL,
    task INTEGER NOT NULL,                  -- who borrows
    PRIMARY KEY (path, name, task)
) WITHOUT ROWID;
CREATE INDEX borrowed_by ON borrowed (task);

-- Results that were released: nobody is to ask for them any more. Those that an unfinished task still
-- needs are not gone yet.
CREATE TABLE released (
    task  INTEGER NOT NULL,
    place INTEGER NOT NULL,                 -- which of the task's results
    gone  INTEGER NOT NULL,
    PRIMARY KEY (task, place)
) WITHOUT ROWID;
CREATE INDEX released_and_needed ON released (task) WHERE NOT gone;

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

-- What is deleted, and still on the disk: `name` in the file `path`; without a name a directory.
CREATE TABLE garbage (
    path TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (path, name)
) WITHOUT ROWID;
CREATE INDEX garbage_directories ON garbage (path) WHERE name = '';

CREATE TABLE pilots (
    name      TEXT PRIMARY KEY,
    pool      TEXT NOT NULL,
    nodes     INTEGER NOT NULL,
    walltime  REAL NOT NULL,
    state     TEXT NOT NULL,                -- INTENDED, QUEUED, RUNNING, ENDED
    job       TEXT,                         -- the batch system's id, once it answered
    reason    TEXT NOT NULL,                -- why it was asked for, later why it ended
    created   REAL NOT NULL,
    submitted REAL, started REAL, ended REAL,
    used      REAL NOT NULL DEFAULT 0,      -- node-seconds that are counted
    counted   REAL,                         -- up to this time; NULL: none are being counted
    own       INTEGER NOT NULL DEFAULT 0    -- 1: its job is a user's allocation, and never ended here
) WITHOUT ROWID;
CREATE INDEX pilots_alive ON pilots (name) WHERE ended IS NULL;

-- What was decided on pools and pilots, as far as it differs from the last decision on the same one.
CREATE TABLE decisions (
    id     INTEGER PRIMARY KEY,
    at     REAL NOT NULL,
    pool   TEXT NOT NULL,
    pilot  TEXT NOT NULL,                   -- empty: on the pool as a whole
    kind   TEXT NOT NULL,
    detail TEXT NOT NULL
);

-- What users have ordered by hand: for a pool until it is taken back, for a pilot until it has ended.
CREATE TABLE orders (
    verb    TEXT NOT NULL,                  -- of a pool: scale, hold; of a pilot: drain, cancel
    subject TEXT NOT NULL,                  -- the name of the pool or pilot
    nodes   INTEGER NOT NULL,
    reason  TEXT NOT NULL,
    at      REAL NOT NULL,
    within_s REAL NOT NULL DEFAULT 0,       -- of drain: after so many seconds it is over; 0: never
    PRIMARY KEY (verb, subject)
) WITHOUT ROWID;

-- The node-seconds that were used: of pools by day (a proleptic ordinal), of sessions in all (day 0).
CREATE TABLE usage (
    kind   TEXT NOT NULL,                   -- pool, session
    name   TEXT NOT NULL,
    day    INTEGER NOT NULL,
    node_s REAL NOT NULL,
    PRIMARY KEY (kind, name, day)
) WITHOUT ROWID;
