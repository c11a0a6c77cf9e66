"""Programs for PymoniK, the Python client of ArmoniK, on Pilot.

`session` has the instance of a program, `tasks` the functions, `handles` the results, `materials`
files that tasks find at a path, `context` what a task knows of itself, and `worker` what runs in
the task.
"""
