"""The answers to "why is this task, result or session not done?", from memory and the database.

`explain` is the entry point. `task` and `session` answer for one of these; `walk` follows inputs
back to the tasks that wait for no other, `diagnose` finds the reason for the state of such a task,
and `ready` why no pilot takes a ready one. `lookup` finds tasks, `report` has the parts of an
answer. `fleet` says why pools have the pilots that they have.
"""
