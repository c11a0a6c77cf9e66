"""The workloads of ``scripts/bench``: what Pilot costs, measured beside its references.

`cli` runs each workload (`w1` to `w8`, `core`, `idle`, `chain`, …) in a process and a directory of
its own; `stage` gives it fresh sites and contenders. What is measured of several contenders is a
load (`loads`, `graphs`, `blocked`), written for what they can be (`systems`): `ours`, `references`,
and the `peers`, each in its own interpreter (`peer_process` outside, `peer_runner` and
``peer_NAME`` inside). `measure` has the arithmetic and what ``/proc`` knows; `report` the tables
and `plot` the pictures. Nothing here is part of the library.

Invariants: figures are compared only within one run; every wait has a deadline; every result is
checked, so that no figure is of work that was not done; nothing runs or lies around afterwards.
"""
