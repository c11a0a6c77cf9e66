"""The client: all that a user's program uses, behind the names of `pilot`.

`session` is where tasks are submitted, with its `session_settings`, its `session_tasks` and the
`group` that a task is in; `future` is what they give, `program_end` what becomes of open sessions.
In the order in which a call goes: `task` and `command` are what can be called, `functions` and
`arguments` pickle it, `submitter` makes a message of it, `numbers` names it, `connection` sends it,
and `callbacks` run when it is done. `caching` says whether it has run before, `query_client` asks
the head, or the database file where no head runs; `starter` starts one. A running task uses
`context` and `child_tasks`.
"""
