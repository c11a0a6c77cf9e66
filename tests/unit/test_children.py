"""What a running task submits: names of its children, and futures that outlive it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from pilot.client.child_tasks import TaskSession, delegations
from pilot.client.submission import Submission
from pilot.client.submitter import Submitter
from pilot.errors import PilotError
from pilot.model.ids import task_id
from pilot.site import Site, create_site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return create_site(tmp_path / "site", "local")


def session(site: Site, task: str = "7.1") -> TaskSession:
    """What a task has to submit with; the head takes detached children on as 7.100, 7.101, …."""

    def detach(submission: Submission) -> list[int]:
        return [task_id(7, 99 + spec.ordinal) for spec in submission.tasks]

    submitter, link = Submitter(7, site), cast("Any", Link())
    return TaskSession(submitter, 7, task, detached=submitter, detach=detach, link=lambda: link)


class Link:
    """A connection to a head that never tells how a task ends."""

    def __init__(self) -> None:
        self.watched: list[int] = []

    def watch(self, awaited: dict[int, Any]) -> None:
        self.watched += awaited


def test_children_are_named_by_their_place_until_they_come_to_be(site: Site) -> None:
    here = session(site)
    first = here.submit(pow, 2, 3)
    second, third = here.submit_many(pow, [(first, 1), (2, first)])
    detached = here.submit(pow, 2, 3, detached=True)
    assert [each.task_id for each in (first, second, third)] == ["child 1", "child 2", "child 3"]
    assert detached.task_id == "7.100"
    assert "child 1" in repr(first) and "task 7.100" in repr(detached)
    last = here.submit(pow, detached, second)
    children = here.take(delegations([last]))
    assert children is not None
    assert [spec.id for spec in children.tasks] == [1, 2, 3, 5]
    assert [spec.inputs for spec in children.tasks] == [
        (),
        ((1, 0),),
        ((1, 0),),
        ((task_id(7, 100), 0), (2, 0)),
    ]
    assert children.delegated == {0: (5, 0)}
    assert len({template.id for template in children.templates}) == len(children.templates) == 1


def test_children_come_after_others(site: Site) -> None:
    here = session(site)
    first = here.submit(pow, 2, 3)
    detached = here.submit(pow, 2, 3, detached=True)
    here.submit(pow, 2, 3, after=[first, detached, "7.1", first])
    here.submit_many(pow, [(2, 3), (2, 4)], after=first)
    with pytest.raises(PilotError, match="cannot need, or come after, a child that comes with"):
        here.submit(pow, 2, 3, detached=True, after=first)
    children = here.take({})
    assert children is not None
    afters = [(), (1, task_id(7, 100), task_id(7, 1)), (1,), (1,)]
    assert [spec.after for spec in children.tasks] == afters
    following = session(site)
    with pytest.raises(PilotError, match=r"child of task 7\.1, which has ended"):
        following.submit(pow, 2, 3, after=first)


@pytest.mark.parametrize("ends", ["well", "by an error"])
def test_a_future_is_not_taken_for_a_child_of_the_next_task(site: Site, ends: str) -> None:
    """It was kept in a global variable, say: in the next task it would stand for another child."""
    before = session(site)
    kept, detached = before.submit(pow, 2, 3), before.submit(pow, 2, 3, detached=True)
    if ends == "well":
        before.take({})
    else:
        before.drop()
    after = session(site, "7.2")
    own = after.submit(pow, 2, 4)
    for use in (lambda: after.submit(pow, kept, 2), lambda: delegations([kept])):
        with pytest.raises(PilotError, match=r"child of task 7\.1, which has ended"):
            use()
    after.submit(pow, detached, own)  # that one is a task
    children = after.take({})
    assert children is not None and len(children.tasks) == 2


def test_templates_have_the_same_id_whoever_makes_them(site: Site) -> None:
    def made(submitter: Submitter, number: int) -> int:
        submission = Submission()
        submitter.add(submission, submitter.task(pow), [((2, 3), {})], [number])
        assert submission.tasks[0].template == submission.templates[0].id
        return submission.templates[0].id

    one, other, elsewhere = Submitter(7, site), Submitter(7, site), Submitter(8, site)
    assert made(one, 1) == made(other, 2) != made(elsewhere, 3)
    assert 0 < made(Submitter(7, site), 4) < 1 << 63
