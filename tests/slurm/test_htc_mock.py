"""HTC Mock over the nodes of a Slurm: the answer, and every attempt, is as it must be."""

from __future__ import annotations

import pytest
from support.htc import MANY_FAULTS, TREE, check, htc_mock

import pilot
from pilot.site import Site

DEADLINE_S = 120.0
#: Its tasks take so long that there are some for each node.
TREE_OF_WORK = TREE._replace(total_s=20.0)


@pytest.mark.parametrize("faults", [htc_mock.NO_FAULTS, MANY_FAULTS], ids=["", "faults"])
def test_tree(shared_site: Site, faults: htc_mock.Faults) -> None:
    with pilot.Session(shared_site) as session:
        check(session, TREE_OF_WORK._replace(faults=faults), DEADLINE_S)
        nodes = {row["node"] for row in session.tasks(limit=TREE.tasks)}
    assert len(nodes) > 1, "it ran on one node only"
