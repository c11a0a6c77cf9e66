"""Test suites of other systems, run on Pilot from a snapshot of their sources.

Nothing of them is in this repository: whoever runs one gives the path of a snapshot. Each file of
tests runs twice, on Pilot and as plain Python: what fails in both is not Pilot's.
"""
