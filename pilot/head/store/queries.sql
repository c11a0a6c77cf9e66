-- Every statement of the store, by name.

-- name: reserve
UPDATE sessions SET numbers = numbers + :count WHERE id = :id AND numbers + :count <= :most
RETURNING numbers - :count + 1;

-- name: release
UPDATE sessions SET numbers = :first - 1 WHERE id = :id AND numbers = :last;

-- name: add_session
INSERT INTO sessions (name, state, weight, priority, options, environment, created, budget, grace,
                      inherited)
VALUES (:name, 'OPEN', :weight, :priority, :options, :environment, :created, :budget, :grace,
        :inherited)
RETURNING id;

-- name: add_inherited
INSERT OR IGNORE INTO inherited (digest, variables) VALUES (:digest, :variables);

-- name: session_budgets
SELECT s.id, s.budget, coalesce(u.node_s, 0) AS used
FROM sessions s INDEXED BY sessions_with_budget
LEFT JOIN usage u ON u.kind = 'session' AND u.name = CAST(s.id AS TEXT) AND u.day = 0
WHERE s.budget IS NOT NULL AND s.state NOT IN ('CLOSED', 'PURGED');

-- name: set_session_budget
UPDATE sessions SET budget = :budget WHERE id = :id;

-- name: unbind_session
UPDATE sessions SET grace = NULL WHERE id = :id;

-- name: delete_usage
DELETE FROM usage WHERE kind = 'session' AND name = CAST(:id AS TEXT);

-- name: set_session_state
UPDATE sessions
SET state = :state, ended = CASE :state WHEN 'OPEN' THEN NULL ELSE coalesce(:ended, ended) END,
    reason = CASE :state WHEN 'OPEN' THEN NULL ELSE coalesce(:reason, reason) END
WHERE id = :id;

-- name: pause_session
UPDATE sessions SET paused = :paused WHERE id = :id;

-- name: purge_tasks
-- What is a version of a named object stays, and so does why a task has failed.
UPDATE tasks SET payload = NULL, inputs = NULL, after = NULL, delegated = NULL, memo = NULL,
    result = CASE WHEN state <> 'COMPLETED'
                       OR id IN (SELECT task FROM objects WHERE removed IS NULL) THEN result END
WHERE session = :id;

-- name: purge_session
UPDATE sessions SET state = 'PURGED' WHERE id = :id;

-- name: borrowed_by_session
SELECT DISTINCT path, name FROM borrowed WHERE task IN (SELECT id FROM tasks WHERE session = :id);

-- name: return_of_session
DELETE FROM borrowed WHERE task IN (SELECT id FROM tasks WHERE session = :id)
    AND task NOT IN (SELECT task FROM objects WHERE removed IS NULL);

-- name: delete_results
UPDATE tasks SET result = NULL, memo = NULL
WHERE state = 'COMPLETED' AND id IN (SELECT value FROM json_each(:tasks));

-- name: return_of_tasks
DELETE FROM borrowed WHERE task IN (SELECT value FROM json_each(:tasks));

-- name: add_claims
-- Results that were released, and are still needed.
INSERT OR IGNORE INTO released (task, place, gone) VALUES (?, ?, 0);

-- name: release_results
UPDATE tasks SET result = ? WHERE id = ? AND state = 'COMPLETED';

-- name: add_released
INSERT OR REPLACE INTO released (task, place, gone) VALUES (?, ?, 1);

-- name: remove_claims
DELETE FROM released WHERE task = ? AND place = ? AND NOT gone;

-- name: return_borrowed
DELETE FROM borrowed WHERE path = ? AND name = ? AND task = ?;

-- name: add_garbage_of_released
INSERT OR IGNORE INTO garbage (path, name) SELECT :path, :name
WHERE NOT EXISTS (SELECT 1 FROM borrowed WHERE path = :path AND name = :name);

-- name: claims
SELECT task, place FROM released WHERE NOT gone;

-- name: any_released
SELECT EXISTS (SELECT 1 FROM released);

-- name: released_places
SELECT task, place FROM released
WHERE gone AND task IN (SELECT value FROM json_each(?)) ORDER BY task, place;

-- name: delete_released
DELETE FROM released WHERE task >= :id << 32 AND task < (:id + 1) << 32;

-- name: memoised
SELECT id FROM tasks WHERE id IN (SELECT value FROM json_each(?)) AND memo IS NOT NULL;

-- name: garbage_among
SELECT g.path, g.name FROM json_each(?) wanted
JOIN garbage g ON g.path = json_extract(wanted.value, '$[0]')
              AND g.name = json_extract(wanted.value, '$[1]');

-- name: completed_of
SELECT id FROM tasks INDEXED BY tasks_listed
WHERE session = :session AND state = 'COMPLETED' AND id > :after ORDER BY id LIMIT :limit;

-- name: add_borrowed
INSERT OR IGNORE INTO borrowed (path, name, task) VALUES (?, ?, ?);

-- name: borrowed_below
SELECT DISTINCT path, name FROM borrowed WHERE path > :path || '/' AND path < :path || '0';

-- name: add_objects
-- The next version of a name; no other one where this result is a version of it already. A name
-- counts from the last that it ever had.
INSERT OR IGNORE INTO objects (name, version, task, place, put, maker, session, session_name, made,
                               user, size, type, tags, expires)
SELECT :name, 1 + coalesce((SELECT max(version) FROM objects WHERE name = :name), 0), t.id, :place,
       :put, :maker, t.session, coalesce((SELECT name FROM sessions WHERE id = t.session), ''),
       :made, :user, :size, :type, :tags, :expires
FROM tasks t WHERE t.id = :task AND t.state = 'COMPLETED' AND t.result IS NOT NULL;

-- name: object_of_result
SELECT version FROM objects
WHERE task = :task AND place = :place AND name = :name AND removed IS NULL;

-- name: objects_of_tasks
SELECT task, name, version FROM objects
WHERE removed IS NULL AND task IN (SELECT value FROM json_each(?)) ORDER BY name, version;

-- name: list_objects
SELECT o.*,
       (SELECT json_group_array(alias) FROM
           (SELECT alias FROM aliases WHERE name = o.name AND version = o.version ORDER BY alias)
       ) AS aliases
FROM objects o
WHERE (:name IS NULL OR o.name = :name) AND (:version IS NULL OR o.version = :version)
  AND (:removed OR o.removed IS NULL)
ORDER BY o.name, o.version DESC LIMIT :limit;

-- name: newest_version
SELECT max(version) AS version FROM objects WHERE name = :name AND removed IS NULL;

-- name: last_version
SELECT max(version) AS version FROM objects WHERE name = :name;

-- name: aliases
SELECT alias, version FROM aliases WHERE name = :name ORDER BY alias;

-- name: set_alias
-- Only to a version that is there.
INSERT INTO aliases (name, alias, version)
SELECT name, :alias, version FROM objects
WHERE name = :name AND version = :version AND removed IS NULL
ON CONFLICT (name, alias) DO UPDATE SET version = excluded.version;

-- name: remove_alias
DELETE FROM aliases WHERE name = :name AND alias = :alias RETURNING version;

-- name: keep_object
UPDATE objects SET expires = :expires WHERE name = :name AND version = :version AND removed IS NULL;

-- name: expired_objects
-- An alias keeps a version.
SELECT name, version FROM objects o
WHERE removed IS NULL AND expires IS NOT NULL AND expires <= :now
  AND NOT EXISTS (SELECT 1 FROM aliases a WHERE a.name = o.name AND a.version = o.version)
ORDER BY expires LIMIT :limit;

-- name: remove_object
UPDATE objects SET removed = :now WHERE name = :name AND version = :version AND removed IS NULL
RETURNING task;

-- name: released_tasks
-- Tasks that nothing keeps any more: they were put for a version, or their sessions' data is deleted.
SELECT t.id FROM tasks t LEFT JOIN sessions s ON s.id = t.session
WHERE t.id IN (SELECT value FROM json_each(:tasks))
  AND t.id NOT IN (SELECT task FROM objects WHERE removed IS NULL)
  AND (s.id IS NULL OR s.state = 'PURGED' OR t.id IN (SELECT task FROM objects WHERE put));

-- name: delete_forgotten_templates
DELETE FROM templates WHERE session NOT IN (SELECT id FROM sessions) AND id IN (
    SELECT template FROM tasks WHERE id IN (SELECT value FROM json_each(:tasks))
) AND id NOT IN (
    SELECT template FROM tasks WHERE session = templates.session
    AND id NOT IN (SELECT value FROM json_each(:tasks))
);

-- name: delete_forgotten_tasks
DELETE FROM tasks WHERE id IN (SELECT value FROM json_each(:tasks))
    AND session NOT IN (SELECT id FROM sessions);

-- name: add_garbage
INSERT OR IGNORE INTO garbage (path, name) SELECT :path, :name
WHERE NOT EXISTS (SELECT 1 FROM borrowed WHERE path = :path AND name = :name)
RETURNING path, name;

-- name: garbage_directories
SELECT path FROM garbage WHERE name = '';

-- name: garbage
SELECT path, name FROM garbage;

-- name: remove_garbage
DELETE FROM garbage
WHERE path = :path AND name = :name
   OR :name = '' AND path > :path || '/' AND path < :path || '0';

-- name: owing_tasks
SELECT id, delegated FROM tasks INDEXED BY tasks_listed
WHERE session IN (SELECT id FROM sessions) AND state = 'DELEGATED';

-- name: tasks_of
-- But for versions of named objects, which stay.
SELECT id FROM tasks WHERE session = :id AND id IN (SELECT value FROM json_each(:tasks))
    AND id NOT IN (SELECT task FROM objects WHERE removed IS NULL);

-- name: purge_functions
DELETE FROM functions WHERE session = :id;

-- name: delete_attempts
DELETE FROM attempts WHERE task IN (SELECT id FROM tasks WHERE session = :id);

-- name: delete_tasks
DELETE FROM tasks WHERE session = :id
    AND id NOT IN (SELECT task FROM objects WHERE removed IS NULL);

-- name: delete_templates
-- After the tasks: of what stays of these.
DELETE FROM templates WHERE session = :id
    AND id NOT IN (SELECT template FROM tasks WHERE session = :id);

-- name: purge_kept
-- What stays of a session that is deleted are results alone.
UPDATE tasks SET payload = NULL, inputs = NULL, after = NULL, delegated = NULL, memo = NULL,
    files = NULL, digest = NULL
WHERE session = :id;

-- name: delete_events
-- The last row stays: the numbers in it are not to be given again.
DELETE FROM events WHERE session = :id AND first < (SELECT max(first) FROM events);

-- name: delete_session
DELETE FROM sessions WHERE id = :id;

-- name: delete_inherited
DELETE FROM inherited
WHERE digest = (SELECT inherited FROM sessions WHERE id = :id)
  AND NOT EXISTS (SELECT 1 FROM sessions o WHERE o.inherited = inherited.digest AND o.id <> :id);

-- name: add_functions
INSERT OR IGNORE INTO functions (session, digest, payload) VALUES (?, ?, ?);

-- name: add_templates
INSERT OR IGNORE INTO templates (id, session, name, kind, pool, detail) VALUES (?, ?, ?, ?, ?, ?);

-- name: add_tasks
INSERT OR IGNORE INTO tasks
    (id, session, template, parent, ordinal, state, created, payload, inputs, digest, retry_of,
     after, commutative)
VALUES (?, ?, ?, ?, ?, 'READY', ?, ?, ?, ?, ?, ?, ?);

-- name: add_versions
INSERT OR REPLACE INTO turns (task, place, latest, latest_place) VALUES (?, ?, ?, ?);

-- name: versions
SELECT task, place, latest, latest_place FROM turns
WHERE task >= :id << 32 AND task < (:id + 1) << 32;

-- name: delete_versions
DELETE FROM turns WHERE task >= :id << 32 AND task < (:id + 1) << 32;

-- name: delegate_tasks
UPDATE tasks SET state = 'DELEGATED', delegated = ? WHERE id = ?;

-- name: end_tasks
UPDATE tasks SET state = ?, ended = ?, result = ?, error = ?, pool = ?, ran = ?, memo = ?,
                 files = ?
WHERE id = ?;

-- name: look_up
SELECT id FROM tasks WHERE memo = ? AND state = 'COMPLETED' AND result IS NOT NULL
ORDER BY id DESC LIMIT 1;

-- name: count_attempts_by_outcome
SELECT a.outcome, count(*) AS attempts FROM tasks t JOIN attempts a ON a.task = t.id
WHERE t.session = :session GROUP BY a.outcome;

-- name: count_found
SELECT count(*) AS found FROM tasks t JOIN templates p ON p.id = t.template
WHERE t.session = :session AND t.state = 'COMPLETED' AND t.attempts = 0 AND p.kind != 'value';

-- name: files_of
SELECT id, files FROM tasks
WHERE id IN (SELECT value FROM json_each(?)) AND files IS NOT NULL;

-- name: detached
SELECT id FROM tasks WHERE parent = ? AND ordinal = ?;

-- name: add_events
INSERT INTO events (first, count, session, changes) VALUES (?, ?, ?, ?);

-- name: next_event
-- Of a row that is damaged the next number is not known, and is not to be one that was given.
SELECT coalesce(max(first + CASE WHEN typeof(count) = 'integer' THEN max(count, 1) ELSE 1 END), 1)
FROM events
WHERE first = (SELECT max(first) FROM events);

-- name: events
SELECT first, count, session, changes FROM events
WHERE first >= coalesce((SELECT max(first) FROM events WHERE first <= :since), 0)
ORDER BY first LIMIT :rows;

-- name: events_of_session
SELECT first, count, session, changes FROM events
WHERE session = :session AND first >= coalesce(
    (SELECT max(first) FROM events WHERE session = :session AND first <= :since), 0)
ORDER BY first LIMIT :rows;

-- name: count_attempts
UPDATE tasks SET attempts = ?, errors = ?, crashes = ? WHERE id = ?;

-- name: count_late_attempts
UPDATE tasks SET attempts = ? WHERE id = ?;

-- name: add_attempts
INSERT OR REPLACE INTO attempts (task, number, outcome, pilot, node, created, ready, assigned,
                                 received, fetched, started, ended, reported, committed,
                                 placement, failure, logs, cpu, memory, version)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: payloads
SELECT id, payload FROM tasks WHERE id IN (SELECT value FROM json_each(?));

-- name: states
SELECT id, CASE WHEN state = 'COMPLETED' AND result IS NULL THEN 'DELETED' ELSE state END
FROM tasks WHERE id IN (SELECT value FROM json_each(?));

-- name: results
SELECT id, CASE WHEN state = 'COMPLETED' AND result IS NULL THEN 'DELETED' ELSE state END, result
FROM tasks
WHERE id IN (SELECT value FROM json_each(?)) AND ended IS NOT NULL;

-- name: lost
SELECT t.id, t.session, t.state, t.ended, t.result, t.error, p.detail
FROM tasks t JOIN templates p ON p.id = t.template
WHERE t.id IN (SELECT value FROM json_each(?));

-- name: functions_of
SELECT digest, payload FROM functions WHERE session = ?;

-- name: unfinished_tasks
SELECT id, session, template, payload, inputs, attempts, errors, crashes, created, delegated,
       digest, after, commutative
FROM tasks INDEXED BY tasks_listed
WHERE session IN (SELECT id FROM sessions WHERE state NOT IN ('CLOSED', 'PURGED'))
  AND state IN ('DELEGATED', 'READY');

-- name: templates_of
SELECT detail FROM templates WHERE session = ?;

-- name: template_of
SELECT p.detail FROM tasks t JOIN templates p ON p.id = t.template WHERE t.id = ?;

-- name: open_sessions
SELECT id FROM sessions WHERE state NOT IN ('CLOSED', 'PURGED') ORDER BY id;

-- What a session that has not ended has is there, too, and counts.
-- name: kept_sessions
SELECT id, CASE state WHEN 'CLOSED' THEN ended END AS ended FROM sessions WHERE state <> 'PURGED';

-- name: leave_out
UPDATE sessions SET state = 'CLOSED', ended = :now
WHERE id = :id AND state NOT IN ('CLOSED', 'PURGED') RETURNING id;

-- name: session
SELECT s.id, s.name, s.state, s.paused, s.weight, s.priority, s.options, s.environment, s.grace,
       i.variables
FROM sessions s LEFT JOIN inherited i ON i.digest = s.inherited WHERE s.id = ?;

-- name: add_pilot
INSERT INTO pilots (name, pool, nodes, walltime, state, job, reason, own, created)
VALUES (:name, :pool, :nodes, :walltime, :state, :job, :reason, :own, :created)
ON CONFLICT (name) DO UPDATE SET state = excluded.state, job = excluded.job, ended = NULL
RETURNING own;

-- name: set_pilot
UPDATE pilots SET state = :state, job = :job, nodes = :nodes, reason = :reason,
                  submitted = :submitted, started = :started, ended = :ended
WHERE name = :name;

-- name: pilots_alive
SELECT name, pool, nodes, walltime, state, job, reason, own, created, submitted, started, ended,
       used, counted
FROM pilots WHERE ended IS NULL ORDER BY created;

-- The oldest first. What somebody started by hand has waited for nothing.
-- name: last_waits
SELECT pool, nodes, started - created AS wait_s FROM (
    SELECT pool, nodes, created, started FROM pilots
    WHERE started IS NOT NULL AND submitted IS NOT NULL ORDER BY created DESC LIMIT :limit
) ORDER BY created;

-- name: is_written
SELECT 1 FROM events WHERE first = ?;

-- name: disown_pilots
UPDATE pilots SET state = 'ENDED', ended = :now, reason = :why
WHERE ended IS NULL;

-- name: list_pilots
SELECT name, pool, nodes, walltime, state, job, reason, created, submitted, started, ended
FROM pilots WHERE NOT :alive OR ended IS NULL ORDER BY created DESC LIMIT :limit;

-- name: pilots_since
-- What has become of pilots since then.
SELECT name, pool, nodes, job, reason, created, submitted, started, ended
FROM pilots
WHERE (created >= :since OR started >= :since OR ended >= :since)
  AND (:pool IS NULL OR pool = :pool)
ORDER BY created DESC LIMIT :limit;

-- name: add_decisions
INSERT INTO decisions (at, pool, pilot, kind, detail) VALUES (?, ?, ?, ?, ?);

-- name: prune_decisions
DELETE FROM decisions
WHERE at < :before OR id <= (SELECT max(id) FROM decisions) - :most;

-- name: last_decisions
SELECT pool, kind, detail FROM decisions
WHERE id IN (SELECT max(id) FROM decisions
             WHERE pilot = '' AND kind IN (SELECT value FROM json_each(:kinds)) GROUP BY pool);

-- name: decisions_since
SELECT at, pool, pilot, kind, detail FROM decisions
WHERE at >= :since AND (:pool IS NULL OR pool = :pool) ORDER BY id DESC LIMIT :limit;

-- name: orders
SELECT verb, subject, nodes, reason, at, within_s FROM orders ORDER BY at;

-- name: set_order
INSERT INTO orders (verb, subject, nodes, reason, at, within_s)
VALUES (:verb, :subject, :nodes, :reason, :at, :within_s)
ON CONFLICT (verb, subject) DO UPDATE
SET nodes = excluded.nodes, reason = excluded.reason, at = excluded.at,
    within_s = excluded.within_s;

-- name: remove_orders
DELETE FROM orders WHERE verb = :verb AND subject = :subject;

-- name: usage_since
SELECT sum(node_s) AS node_s FROM usage WHERE kind = :kind AND name = :name AND day >= :day;

-- name: add_usage
INSERT INTO usage (kind, name, day, node_s) VALUES (?, ?, ?, ?)
ON CONFLICT (kind, name, day) DO UPDATE SET node_s = node_s + excluded.node_s;

-- name: set_counted
UPDATE pilots SET used = ?, counted = ? WHERE name = ?;

-- name: list_sessions
-- Tasks whose places others have taken, by a retry, do not count.
WITH retried AS MATERIALIZED (SELECT id FROM replaced)
SELECT s.id, s.name, s.state, s.paused, s.weight, s.priority, s.created, s.ended,
       coalesce(s.grace, 0.0) AS grace_s, s.reason,
       (SELECT count(*) FROM tasks t
        WHERE t.session = s.id AND t.id NOT IN retried) AS tasks,
       (SELECT count(*) FROM tasks t
        WHERE t.session = s.id AND t.state IN ('DELEGATED', 'READY')) AS unfinished,
       (SELECT count(*) FROM tasks t
        WHERE t.session = s.id AND t.state IN ('FAILED', 'TIMED_OUT')
          AND t.id NOT IN retried) AS failed,
       (SELECT count(*) FROM tasks t
        WHERE t.session = s.id AND t.state = 'ABORTED' AND t.id NOT IN retried) AS aborted,
       (SELECT count(*) FROM tasks t
        WHERE t.session = s.id AND t.state = 'CANCELLED' AND t.id NOT IN retried) AS cancelled
FROM sessions s
WHERE (:session IS NULL OR s.id = :session)
  AND (NOT :open_only OR s.state NOT IN ('CLOSED', 'PURGED'))
  AND (:states IS NULL OR s.state IN (SELECT value FROM json_each(:states))
       OR (:paused AND s.paused AND s.state NOT IN ('CLOSED', 'PURGED')))
  AND (:name IS NULL OR s.name = :name)
  AND (:since IS NULL OR s.created >= :since)
ORDER BY s.id DESC LIMIT :limit;

-- name: last_sessions
SELECT id, ended FROM sessions ORDER BY ended IS NULL DESC, ended DESC, id DESC LIMIT ?;

-- name: created
SELECT id, created FROM tasks WHERE id IN (SELECT value FROM json_each(?));

-- name: count_unfinished
SELECT count(*) AS tasks FROM tasks INDEXED BY tasks_listed
WHERE session IN (SELECT id FROM sessions) AND state IN ('DELEGATED', 'READY');

-- name: session_of_task
SELECT session FROM tasks WHERE id = :task;

-- name: count_runs
SELECT s.value AS state,
       (SELECT count(*) FROM json_each(:runs) r CROSS JOIN tasks t INDEXED BY tasks_listed
        WHERE t.session = :session AND t.state = s.value
          AND t.id BETWEEN json_extract(r.value, '$[0]') AND json_extract(r.value, '$[1]')) AS tasks
FROM json_each(:states) s;

-- name: failed_in_runs
SELECT t.id, t.state, t.result
FROM json_each(:runs) r CROSS JOIN tasks t INDEXED BY tasks_listed
WHERE t.session = :session AND t.state IN ('FAILED', 'TIMED_OUT')
  AND t.id BETWEEN json_extract(r.value, '$[0]') AND json_extract(r.value, '$[1]')
ORDER BY t.id LIMIT :limit;

-- name: tasks_to_retry
-- What was cancelled for want of an input is taken for aborted, what was with its client for failed.
SELECT id, CASE WHEN state = 'CANCELLED' AND error = 'TaskAborted' THEN 'ABORTED'
                WHEN state = 'CANCELLED' AND error = 'ClientGone' THEN 'FAILED'
                ELSE state END AS state, template, payload, inputs, after, digest,
       commutative,
       coalesce((SELECT max(id) FROM tasks again WHERE again.retry_of = t.id), 0) AS again,
       (WITH RECURSIVE above (id) AS (
            SELECT t.parent
            UNION ALL SELECT p.parent FROM above JOIN tasks p ON p.id = above.id WHERE p.parent > 0
        ) SELECT json_group_array(id) FROM above) AS ancestors
FROM tasks t
WHERE session = :session AND state IN (SELECT value FROM json_each(:states)) ORDER BY id;

-- name: list_these_tasks
SELECT t.id, t.session, p.name, p.kind, t.state, t.attempts, t.created, t.ended,
       t.pool, t.error, t.ran AS ran_s, a.pilot, a.node, a.started, a.cpu AS cpu_s,
       a.memory AS peak_mib, CASE WHEN t.error IS NOT NULL THEN t.result END AS result
FROM json_each(:tasks) wanted
JOIN tasks t ON t.id = wanted.value
JOIN templates p ON p.id = t.template
LEFT JOIN attempts a ON a.task = t.id AND a.number = t.attempts
ORDER BY wanted.key;

-- name: show_task
SELECT t.id, t.session, p.name, p.kind, t.state, t.attempts, t.created, t.ended,
       t.pool, t.ran AS ran_s, a.pilot, a.node, a.started, a.cpu AS cpu_s,
       a.memory AS peak_mib, t.result, t.inputs, t.after, t.parent,
       t.retry_of, p.detail
FROM tasks t JOIN templates p ON p.id = t.template
LEFT JOIN attempts a ON a.task = t.id AND a.number = t.attempts
WHERE t.id = :task;

-- name: calls
SELECT t.id, t.session, p.name, p.kind, length(t.payload) AS size, t.inputs, p.detail,
       CASE WHEN length(t.payload) <= :most THEN t.payload END AS payload
FROM json_each(:tasks) wanted
JOIN tasks t ON t.id = wanted.value
JOIN templates p ON p.id = t.template
ORDER BY wanted.key;

-- name: function
SELECT payload FROM functions
WHERE session = :session AND digest = :digest AND length(payload) <= :most;

-- name: explain_task
SELECT t.session, p.name, p.kind, t.state, t.attempts, t.ended, t.inputs, t.after, t.delegated,
       t.result, p.detail, s.state AS session_state, s.paused
FROM tasks t JOIN templates p ON p.id = t.template LEFT JOIN sessions s ON s.id = t.session
WHERE t.id = :task;

-- name: last_attempts
SELECT number, outcome, node, started, ended, failure
FROM attempts WHERE task = :task ORDER BY number DESC LIMIT :limit;

-- name: list_attempts
SELECT number, outcome, pilot, node, created, ready, assigned, received, fetched, started, ended,
       reported, committed, placement, failure, logs, cpu AS cpu_s, memory AS peak_mib, version
FROM attempts WHERE task = :task ORDER BY number;

-- name: list_placements
SELECT a.task AS id, a.number, p.name, a.pilot, a.outcome, a.started, a.ended, a.placement
FROM attempts a JOIN tasks t ON t.id = a.task JOIN templates p ON p.id = t.template
WHERE a.task >= :session << 32 AND a.task < (:session + 1) << 32 AND a.placement IS NOT NULL
    AND a.started > 0 AND (a.task, a.number) > (:after, :number)
ORDER BY a.task, a.number LIMIT :limit;

-- name: get_meta
SELECT value FROM meta WHERE key = ?;

-- name: set_meta
INSERT INTO meta (key, value) VALUES (?, ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value;
