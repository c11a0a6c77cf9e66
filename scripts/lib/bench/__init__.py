"""The workloads of ``scripts/bench``: what Pilot costs, measured beside its references.

`cli` runs each workload (`w1` to `w8`) in a process and a directory of its own; `stage` gives a
workload fresh sites, contenders and deadlines; `systems`, `references` and `peers` are the
contenders; `measure` has the arithmetic and what ``/proc`` knows; `report` the tables and `plot`
the pictures. Nothing here is part of the library.

Invariants: figures are compared only within one run; every wait has a deadline; every result is
checked, so that no figure is of work that was not done; nothing runs or lies around afterwards.
"""
