"""The answers to "why is this task, result or session not done?", from memory and the database.

`explain` is the door. `task` and `session` answer for one of these; `walk` follows inputs back to
the tasks that wait for no other, `diagnose` says what is the matter with such a task, and `ready`
why no pilot takes one that is ready. `lookup` finds tasks, `report` holds what an answer is made
of.
"""
