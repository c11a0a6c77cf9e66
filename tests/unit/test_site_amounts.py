"""What a site has only once: never more in use than there is, and all of it free in the end."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.builders import done, spec, template

from pilot.head.core.core import Core
from pilot.head.core.events import (
    AttemptsEnded,
    Effects,
    Event,
    PilotJoined,
    PilotLost,
    Restored,
    TasksCancelled,
    TasksRestored,
    TasksSubmitted,
)
from pilot.model.states import Outcome
from pilot.model.tasks import Template
from pilot.scheduler.amounts import UNIT, Amounts
from pilot.scheduler.demand import ClassDemand, nodes_wanted
from pilot.scheduler.elasticity import PoolLimits
from pilot.scheduler.resources import NodeShape, needs
from pilot.scheduler.site_amounts import SiteAmounts

TOTAL = (("buffer", 3 * UNIT // 2), ("licence", 3 * UNIT))
NEEDS: tuple[Amounts, ...] = (
    (("licence", UNIT),),
    (("licence", 2 * UNIT),),
    (("buffer", UNIT // 2),),
    (("buffer", UNIT // 3), ("licence", UNIT)),
)
pilots = st.sampled_from(["p", "q", "r"])
tasks = st.integers(1, 5)


class Counting(RuleBasedStateMachine):
    """The amounts beside a plain set of who has what."""

    def __init__(self) -> None:
        super().__init__()
        self.site = SiteAmounts(TOTAL)
        self.model: dict[tuple[str, int], Amounts] = {}
        self.unheard: set[str] = set()

    def free(self, name: str) -> int:
        used = sum(dict(need).get(name, 0) for need in self.model.values())
        return dict(TOTAL)[name] - used

    @rule(pilot=pilots, task=tasks, need=st.sampled_from(NEEDS))
    def take_what_fits(self, pilot: str, task: int, need: Amounts) -> None:
        if self.site.fit(need):
            self.site.take(pilot, task, need)
            self.model.setdefault((pilot, task), need)

    @rule(pilot=pilots, task=tasks)
    def release(self, pilot: str, task: int) -> None:
        self.site.release(pilot, task)
        self.model.pop((pilot, task), None)

    @rule(pilot=pilots)
    def end_of_a_pilot(self, pilot: str) -> None:
        self.site.forget(pilot)
        self.unheard.discard(pilot)
        self.model = {key: need for key, need in self.model.items() if key[0] != pilot}

    @rule(pilot=pilots, kept=st.sets(tasks))
    def a_pilot_says_what_it_has(self, pilot: str, kept: set[int]) -> None:
        its = [(task, need) for (name, task), need in self.model.items() if name == pilot]
        its = [(task, need) for task, need in its if task in kept]
        self.site.replace(pilot, its)
        self.unheard.discard(pilot)
        self.model = {key: need for key, need in self.model.items() if key[0] != pilot}
        self.model.update({(pilot, task): need for task, need in its})

    @rule(pilot=pilots)
    def a_new_head(self, pilot: str) -> None:
        self.site.unheard.add(pilot)
        self.unheard.add(pilot)

    @invariant()
    def all_is_counted(self) -> None:
        for name in dict(TOTAL):
            assert self.site.used[name] == dict(TOTAL)[name] - self.free(name)
            assert self.free(name) >= 0
        for need in NEEDS:
            each = min(self.free(name) // amount for name, amount in need)
            assert self.site.fit(need) == (0 if self.unheard else each)
            assert self.site.fit(need, reserved={need[0][0]}) == 0
            assert bool(self.site.lacking(need)) == (each == 0)
        for pilot in "pqr":
            mine = {task: need for (name, task), need in self.model.items() if name == pilot}
            assert dict(self.site.held(pilot)) == mine
            assert self.site.concerns(pilot) == (bool(mine) or pilot in self.unheard)


TestCounting = Counting.TestCase


def test_what_the_site_does_not_have() -> None:
    site = SiteAmounts(TOTAL)
    assert site.fit((("other", 1),)) == site.most((("other", 1),)) == 0
    assert site.lacking((("licence", 1), ("other", 1))) == ["other"]


def test_a_site_file_that_has_less_than_it_had() -> None:
    site = SiteAmounts((("licence", UNIT),))
    site.replace("p", [(1, NEEDS[0]), (2, NEEDS[0])])  # from before
    assert site.fit(NEEDS[0]) == 0
    site.release("p", 1)
    assert site.fit(NEEDS[0]) == 0
    site.release("p", 2)
    assert site.fit(NEEDS[0]) == 1


# --- in the core ---------------------------------------------------------------------------------

ONE = template(1, resources=needs(site={"licence": UNIT}))
TWO = template(2, resources=needs(site={"licence": 2 * UNIT}), priority=1)
PLAIN = template(3)


class Head:
    """A core of a site with so many licences."""

    def __init__(self, licences: int = 1, *pilots: str) -> None:
        self.core = Core((), (("licence", licences * UNIT),))
        self.now = 0.0
        for pilot in pilots:
            self.join(pilot)

    def apply(self, event: Event) -> Effects:
        self.now += 1.0
        return self.core.apply(event, self.now)

    def join(
        self,
        pilot: str,
        held: Iterable[tuple[int, int]] = (),
        site: Iterable[tuple[int, Amounts]] = (),
    ) -> Effects:
        shape = NodeShape(4)
        return self.apply(PilotJoined(pilot, "main", shape, 1, 0.0, list(held), list(site)))

    def submit(self, kind: Template, *numbers: int) -> None:
        self.apply(TasksSubmitted(1, [kind], [spec(n, kind.id) for n in numbers], {}))

    def assign(self) -> list[int]:
        """The tasks that are given to pilots."""
        self.now += 1.0
        return sorted(task.id for given in self.core.assign(self.now).values() for task in given)

    def end(self, task: int, outcome: Outcome = "ok", pilot: str = "p", **changes: Any) -> None:
        self.apply(AttemptsEnded(pilot, [done(task, outcome, **changes)]))

    @property
    def used(self) -> float:
        return self.core.site.used["licence"] / UNIT


def test_no_more_run_at_once_than_there_are_licences() -> None:
    head = Head(3, "p", "q")
    head.submit(ONE, *range(1, 9))
    assert len(head.assign()) == 3 and head.used == 3
    assert head.assign() == []
    pilot = next(t.pilot.name for t in head.core.tasks.values() if t.pilot is not None)
    head.end(1, pilot=pilot)
    assert head.assign() == [4]


def test_others_run_beside_them() -> None:
    head = Head(1, "p")
    head.submit(ONE, 1, 2)
    head.submit(PLAIN, 3, 4)
    assert head.assign() == [1, 3, 4]


@pytest.mark.parametrize("outcome", ["error", "crash", "interrupted", "timeout"])
def test_a_licence_is_free_when_an_attempt_has_ended_however(outcome: Outcome) -> None:
    head = Head(1, "p")
    head.submit(ONE, 1, 2)
    assert head.assign() == [1]
    head.end(1, outcome)
    assert head.used == 0
    head.end(1, outcome)  # told twice
    assert head.used == 0 and len(head.assign()) == 1 and head.used == 1


def test_a_task_that_is_cancelled_has_its_licence_until_its_pilot_has_ended_it() -> None:
    head = Head(1, "p", "q")
    head.submit(ONE, 1, 2)
    assert head.assign() == [1]
    head.apply(TasksCancelled(1, [1]))
    assert head.assign() == []
    head.end(1, "cancelled")
    assert head.assign() == [2]


def test_a_pilot_that_is_gone_has_nothing() -> None:
    head = Head(1, "p")
    head.submit(ONE, 1)
    assert head.assign() == [1]
    head.apply(PilotLost("p", "its job has ended"))
    head.join("q")
    assert head.assign() == [1] and head.used == 1


def test_a_pilot_that_may_live_keeps_what_it_has_until_its_job_has_ended() -> None:
    head = Head(1, "p")
    head.submit(ONE, 1)
    assert head.assign() == [1]
    head.apply(PilotLost("p", "silent", may_live=True))
    head.join("q")
    assert head.assign() == [] and head.used == 1
    head.apply(PilotLost("p", "its job has ended"))
    assert head.assign() == [1] and head.used == 1


def test_a_pilot_that_was_silent_says_what_it_still_has() -> None:
    head = Head(2, "p")
    head.submit(ONE, 1, 2)
    assert head.assign() == [1, 2]
    head.apply(PilotLost("p", "silent", may_live=True))
    head.join("p", [(2, 1)], [(2, ONE.resources.site)])
    assert head.used == 1
    assert head.assign() == [1] and head.used == 2


def test_what_a_lost_pilot_reports_after_all_is_free() -> None:
    head = Head(1, "p")
    head.submit(ONE, 1, 2)
    assert head.assign() == [1]
    head.apply(PilotLost("p", "silent", may_live=True))
    head.end(1)
    head.join("q")
    assert head.assign() == [2] and head.used == 1


def test_a_new_head_gives_nothing_out_before_it_knows_who_has_what() -> None:
    head = Head(1)
    restored = [Restored(spec(n, ONE.id), 0, 0, 0, 0.0) for n in (1, 2)]
    head.apply(TasksRestored([ONE, PLAIN], restored, pilots=("p", "q")))
    head.submit(PLAIN, 3)
    head.join("r")
    assert head.assign() == [3]
    head.join("p", [(1, 1)], [(1, ONE.resources.site)])
    assert head.used == 1
    head.apply(PilotLost("q", "its job has ended"))
    assert head.assign() == []
    head.end(1)
    assert head.assign() == [2]


def test_what_a_pilot_has_of_a_task_that_is_unknown_counts_until_it_has_ended_it() -> None:
    head = Head(1)
    effects = head.join("p", [(7, 1)], [(7, ONE.resources.site)])
    assert effects.cancel == {"p": [7]} and head.used == 1
    head.submit(ONE, 1)
    assert head.assign() == []
    head.end(7, "cancelled")
    assert head.assign() == [1]


def test_who_needs_several_is_not_overtaken_by_those_who_need_one() -> None:
    head = Head(2, "p")
    head.submit(ONE, 1, 2, 3)
    assert head.assign() == [1, 2]
    head.submit(TWO, 4)
    head.end(1)
    assert head.assign() == []  # the one that is free is left for task 4
    head.end(2)
    assert head.assign() == [4]
    head.end(4)
    assert head.assign() == [3]


def test_who_needs_more_than_there_is_keeps_nobody_waiting() -> None:
    head = Head(1, "p")
    head.submit(TWO, 1)
    head.submit(ONE, 2)
    assert head.assign() == [2]


def test_a_task_does_not_hold_a_licence_while_it_waits_for_its_inputs() -> None:
    head = Head(1, "p")
    head.submit(PLAIN, 10)
    assert head.assign() == [10]
    head.end(10, ended=1.001)  # plain ones are short, so that others go ahead of their inputs
    head.submit(ONE, 20)
    assert head.assign() == [20]
    head.end(20, ended=1.001)
    head.submit(PLAIN, 11)
    assert head.assign() == [11]
    head.apply(TasksSubmitted(1, [ONE], [spec(12, ONE.id, needs=(11,))], {}))
    head.apply(TasksSubmitted(1, [PLAIN], [spec(13, PLAIN.id, needs=(11,))], {}))
    assert head.assign() == [13] and head.used == 0


def test_no_more_nodes_than_licences_are_good_for() -> None:
    limits = PoolLimits("main", NodeShape(4), 0, 100, 1, 100, 3600.0)
    need = needs(4, site={"licence": UNIT})
    work = ClassDemand(need, "", 1000, 600.0)
    assert nodes_wanted(limits, [work])[0] == 1000
    few = ClassDemand(need, "", 1000, 600.0, most=3)
    assert nodes_wanted(limits, [few])[0] == 3
    head = Head(3)
    head.submit(ONE, *range(1, 9))
    head.submit(PLAIN, 20)
    assert [work.most for work in head.core.demand()] == [3, math.inf]
