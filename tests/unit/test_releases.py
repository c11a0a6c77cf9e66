"""Released results: when they go, who is told, and what stays for others. No processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builders import done, spec, template

from pilot.head.clients import Clients
from pilot.head.connections import PilotPeer, Sent
from pilot.head.core import events as ev
from pilot.head.core.core import Core
from pilot.head.core.events import Effects
from pilot.head.janitor import Janitor
from pilot.head.objects import Objects
from pilot.head.session_commands import SessionCommands
from pilot.head.shell import Shell
from pilot.head.store.store import Store
from pilot.model.ids import task_id
from pilot.model.objects import Naming, encode_naming
from pilot.model.tasks import Children, Environment, Function, TaskOutcome, TaskSpec
from pilot.model.values import RELEASED, Value
from pilot.scheduler.resources import NodeShape
from pilot.site import create_site
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import client as m
from pilot.wire.messages.pilot import Released, ReleasedResult

NOW = 1000.0
PEER = b"client"


# --- when: the core -------------------------------------------------------------------------------


class Tasks:
    """A core with one pilot, driven in the fewest words."""

    def __init__(self) -> None:
        self.core = Core()
        self.now = 0.0
        self.apply(ev.PilotJoined("p", "main", NodeShape(4), 1, 0.0, []))

    def apply(self, event: ev.Event) -> Effects:
        self.now += 1.0
        return self.core.apply(event, self.now)

    def submit(self, *tasks: TaskSpec, **known: Any) -> Effects:
        ended = known.pop("ended", {})
        kinds = [known.pop("kind", template())]
        return self.apply(ev.TasksSubmitted(1, kinds, list(tasks), ended, **known))

    def release(self, *results: tuple[int, int]) -> Effects:
        return self.apply(ev.ResultsReleased(results))

    def run(self, *tasks: int, **how: Any) -> Effects:
        self.core.assign(self.now)
        return self.apply(ev.AttemptsEnded("p", [done(task, **how) for task in tasks]))


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


def test_a_result_that_nobody_needs_goes_at_once(tasks: Tasks) -> None:
    assert tasks.release((7, 0)).released == [(7, 0)]


def test_a_result_goes_when_its_task_has_ended(tasks: Tasks) -> None:
    tasks.submit(spec(1))
    effects = tasks.release((1, 0))
    assert effects.claimed == [(1, 0)] and not effects.released
    assert tasks.run(1).released == [(1, 0)]


def test_a_needed_result_goes_with_the_end_of_the_last_that_needs_it(tasks: Tasks) -> None:
    tasks.submit(spec(1))
    tasks.run(1)
    tasks.submit(spec(2, needs=(1,)), spec(3, needs=(1,)), ended={1: "COMPLETED"})
    assert tasks.release((1, 0)).claimed == [(1, 0)]
    assert not tasks.run(2).released
    assert tasks.run(3).released == [(1, 0)]


def test_who_is_tried_again_still_finds_its_input(tasks: Tasks) -> None:
    tasks.submit(spec(2, needs=(1,)), ended={1: "COMPLETED"}, kind=template(retries=1))
    tasks.release((1, 0))
    assert not tasks.run(2, outcome="error").released
    tasks.core.assign(tasks.now)
    again = tasks.apply(ev.AttemptsEnded("p", [done(2, attempt=2, outcome="error")]))
    assert again.released == [(1, 0)]  # it has failed for good


def test_parts_go_one_by_one(tasks: Tasks) -> None:
    tasks.submit(
        msgspec.structs.replace(spec(2), inputs=((1, 0),)),
        ended={1: "COMPLETED"},
    )
    effects = tasks.release((1, 0), (1, 1))
    assert effects.released == [(1, 1)] and effects.claimed == [(1, 0)]
    assert tasks.run(2).released == [(1, 0)]


def test_released_twice_is_released_once(tasks: Tasks) -> None:
    tasks.submit(spec(1))
    tasks.release((1, 0))
    again = tasks.release((1, 0))
    assert not again.claimed and not again.released


def test_what_is_submitted_after_the_release_is_refused(tasks: Tasks) -> None:
    tasks.submit(spec(1))
    tasks.release((1, 0))
    ((_, why),) = tasks.submit(spec(2, needs=(1,))).refused
    assert "released" in why and "0.1" in why
    gone = tasks.submit(spec(3, needs=(7,)), ended={7: "COMPLETED"}, gone={(7, 0)})
    assert [task for task, _ in gone.refused] == [3]


def test_of_a_task_that_fails_nothing_is_kept(tasks: Tasks) -> None:
    tasks.submit(spec(1), spec(2, needs=(1,)))
    tasks.release((1, 0))
    effects = tasks.run(1, outcome="error")
    assert {end.task: end.state for end in effects.ended} == {1: "FAILED", 2: "ABORTED"}
    assert effects.released == [(1, 0)]


def test_what_a_parent_has_of_its_child_goes_after_the_parent(tasks: Tasks) -> None:
    tasks.submit(spec(1), kind=template(returns=2))
    kinds = (template(), template(2))
    children = Children(
        (), kinds[1:], (spec(11, 2), spec(12, 2)), {0: (11, 0), 1: (12, 0)}, ((11, 0),)
    )
    tasks.core.assign(tasks.now)
    values = (Value(0), Value(0))
    handed = tasks.apply(ev.AttemptsEnded("p", [done(1, values=values, children=children)]))
    assert handed.claimed == [(11, 0)] and not handed.released
    assert not tasks.run(11, values=(Value(1, b"a"),)).released
    last = tasks.run(12, values=(Value(1, b"b"),))
    assert last.released == [(11, 0)]
    assert [end.values for end in last.ended if end.task == 1] == [(Value(1, b"a"), Value(1, b"b"))]


def test_a_task_cannot_return_what_was_released(tasks: Tasks) -> None:
    tasks.submit(spec(1))
    tasks.core.assign(tasks.now)
    children = Children((), (), (), {0: (9, 0)})
    outcome = TaskOutcome(9, "COMPLETED", (RELEASED,))
    end = ev.AttemptsEnded("p", [done(1, children=children)], outcomes={9: outcome})
    (ended,) = tasks.apply(end).ended
    assert ended.state == "ABORTED" and ended.failure is not None
    assert "released" in ended.failure.message


def test_a_new_head_goes_on(tasks: Tasks) -> None:
    found = [ev.Restored(spec(2, needs=(1,)), 0, 0, 0, 0.0)]
    restored = ev.TasksRestored([template()], found, released=[(1, 0), (5, 0)])
    effects = tasks.apply(restored)
    assert effects.released == [(5, 0)] and not effects.claimed
    assert tasks.run(2).released == [(1, 0)]


def test_a_pilot_hears_what_its_own_tasks_alone_need(tasks: Tasks) -> None:
    tasks.submit(spec(1), spec(2, needs=(1,)))
    tasks.core.classes[next(iter(tasks.core.classes))].learn(0.01)  # short: it is sent ahead
    tasks.core.assign(tasks.now)
    assert tasks.core.tasks[2].pilot is tasks.core.tasks[1].pilot
    told = tasks.release((1, 0), (2, 0)).unwanted
    assert told == {"p": [ReleasedResult(1, 0, (2,)), ReleasedResult(2, 0, ())]}


def test_a_pilot_hears_it_when_the_last_of_them_comes(tasks: Tasks) -> None:
    tasks.submit(spec(1), spec(2, needs=(1,)))
    assert not tasks.release((1, 0)).unwanted
    tasks.core.classes[next(iter(tasks.core.classes))].learn(0.01)
    tasks.core.assign(tasks.now)
    told = tasks.core.take_unwanted()["p"]
    assert told[-1] == ReleasedResult(1, 0, (2,))
    assert not tasks.core.take_unwanted()


@given(st.randoms(use_true_random=False))
def test_a_result_goes_when_it_is_not_needed_any_more_and_not_before(rng: Random) -> None:
    """Whatever is submitted, released and ended, in whatever order."""
    tasks = Tasks()
    needs: dict[int, tuple[tuple[int, int], ...]] = {}
    released: set[tuple[int, int]] = set()
    gone: set[tuple[int, int]] = set()
    ended: dict[int, str] = {}
    for number in range(1, 15):
        refs = (
            {(rng.randrange(1, number), rng.randrange(2)) for _ in range(rng.randrange(3))}
            if (number > 1)
            else set()
        )
        task = msgspec.structs.replace(spec(number), inputs=tuple(sorted(refs)))
        refused = tasks.submit(task, ended=ended, gone=gone, kind=template(returns=2)).refused
        assert bool(refused) == bool(refs & released or any(r[0] not in needs for r in refs))
        if not refused:
            needs[number] = task.inputs
        steps = []
        for _ in range(rng.randrange(3)):
            known = [one for one in needs if (one, 0) not in released]
            if known and rng.random() < 0.6:
                one = (rng.choice(known), rng.randrange(2))
                steps.append(tasks.release(one))
                released.add(one)
            elif live := [one for one, its in tasks.core.tasks.items() if not its.missing]:
                one_task = rng.choice(live)
                values = (Value(1, b"a"), Value(1, b"b"))
                steps.append(tasks.run(one_task, values=values))
                ended |= {end.task: end.state for end in steps[-1].ended}
        for effects in steps:
            gone.update(effects.released)
        wanted = {ref for one in tasks.core.tasks for ref in needs[one]}
        free = {ref for ref in released if ref[0] in ended and ref not in wanted}
        assert gone == free


# --- what becomes of them: the head ---------------------------------------------------------------


class Head:
    """The head's side of clients, over a database and files, without pilots' processes."""

    def __init__(self, directory: Path) -> None:
        self.site = create_site(directory / "site", "local")
        self.swept: list[tuple[str, str]] = []
        self.start()
        self.hear(m.ClientHello(PROTOCOL, "1", True))
        opened = self.hear(m.OpenSession(1, "s", Environment("/", (), {})))
        self.session = int(opened.result[0])
        self.hear(m.Reserve(2, self.session, 1000))

    def start(self) -> None:
        self.sent: list[Any] = []
        self.store = Store(self.site.database)
        self.shell = Shell(
            self.store, lambda _, what: self.sent.append(what), (), lambda: None, lambda _: 0
        )
        janitor = Janitor(self.site.directory, lambda: None)
        self.clients = Clients(self.shell, 1, lambda: None)
        self.control = SessionCommands(self.site, self.shell, janitor)
        self.objects = Objects(self.shell, janitor)

    def hear(self, *messages: Any) -> Any:
        handlers = {**self.clients.handlers, **self.control.handlers, **self.objects.handlers}
        self.sent.clear()
        for message in messages:
            handlers[type(message)](PEER, message, NOW)
        self.commit()
        return self.sent[-1] if self.sent else None

    def commit(self) -> None:
        for _ in range(5):
            self.shell.commits.begin(NOW, events_too=True)
            self.store.join()
            self.shell.commits.finish()
            self.shell.telling.go_on()
        assert not self.shell.commits.pending and not self.shell.commits.trouble
        self.shell.releasing.sweep(lambda rows: self.swept.extend((r.path, r.name) for r in rows))

    def id(self, number: int) -> int:
        return task_id(self.session, number)

    def put(self, number: int, *values: Value, payload: bytes = b"") -> m.Submit:
        kind = template(1, self.session, kind="value", function=b"", returns=len(values))
        task = TaskSpec(self.id(number), 1, payload, values=values)
        return m.Submit(number, self.session, [], [kind], [task])

    def task(self, number: int, *needs: tuple[int, int], **more: Any) -> m.Submit:
        kind = template(7, self.session, **more)
        inputs = tuple((self.id(source), place) for source, place in needs)
        task = msgspec.structs.replace(spec(self.id(number), 7), inputs=inputs)
        return m.Submit(number, self.session, [Function(b"f7", b"code")], [kind], [task])

    def release(self, *parts: tuple[int, int], whole: tuple[int, ...] = ()) -> m.Release:
        return m.Release(
            99, [self.id(one) for one in whole], [(self.id(one), place) for one, place in parts]
        )

    def values(self, number: int) -> tuple[Value, ...]:
        (outcome,) = self.store.results([self.id(number)])
        assert outcome.state == "COMPLETED"
        return outcome.values

    def end(self, number: int, *values: Value) -> None:
        self.shell.apply(
            ev.PilotJoined("p", "main", NodeShape(4), 1, 0.0, [(self.id(number), 1)]), NOW
        )
        finish = done(self.id(number), values=values)
        self.shell.apply(ev.AttemptsEnded("p", [finish]), NOW)
        self.commit()


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    head = Head(tmp_path)
    yield head
    head.store.close()


def stored(head: Head, number: int, index: int = 0, file: str = "a") -> Value:
    name = f"/{head.session}/t/{head.session}.{number}/{index}"
    return Value(100_000, path=f"results/{head.session}/{file}.h5", name=name, checksum=1)


def test_it_goes_from_the_database_and_the_disk(head: Head) -> None:
    value = stored(head, 1)
    head.hear(head.put(1, value), head.put(2, Value(1, b"v")))
    assert head.hear(head.release(whole=(1, 2))) == m.Accepted(99)
    assert head.values(1) == head.values(2) == (RELEASED,)
    assert head.swept == [(value.path, value.name)]


def test_only_the_part_that_was_released_goes(head: Head) -> None:
    head.hear(head.put(1, Value(1, b"a"), stored(head, 1, 1), Value(1, b"c")))
    head.hear(head.release((1, 1)))
    assert head.values(1) == (Value(1, b"a"), RELEASED, Value(1, b"c"))
    assert len(head.swept) == 1
    head.hear(head.release(whole=(1,)))
    assert head.values(1) == (RELEASED,) * 3 and len(head.swept) == 1


def test_all_in_one_turn_is_as_one_after_the_other(head: Head) -> None:
    head.hear(head.put(1, stored(head, 1)), head.release(whole=(1,)), head.task(2, (1, 0)))
    answers = {said.seq: said for said in head.sent if isinstance(said, m.Accepted)}
    refused = answers[2].refused
    assert "released" in refused[0][1]
    assert head.values(1) == (RELEASED,) and len(head.swept) == 1


def test_it_stays_until_who_needs_it_has_ended(head: Head) -> None:
    head.hear(head.put(1, stored(head, 1)), head.task(2, (1, 0)), head.release(whole=(1,)))
    assert not head.values(1)[0].is_released and not head.swept
    head.end(2, Value(1, b"x"))
    assert head.values(1) == (RELEASED,) and len(head.swept) == 1


def test_a_new_head_carries_it_out(head: Head) -> None:
    head.hear(head.put(1, stored(head, 1)), head.task(2, (1, 0)), head.release(whole=(1,)))
    head.store.close()
    head.start()
    (restored,) = head.store.unfinished()[head.session]
    known = head.store.templates(head.session)
    event = ev.TasksRestored(known, [restored], released=head.store.claims())
    head.shell.apply(event, NOW)
    head.commit()
    assert not head.values(1)[0].is_released
    head.end(2, Value(1, b"x"))
    assert head.values(1) == (RELEASED,) and len(head.swept) == 1
    assert not head.store.claims()


def test_of_a_task_that_ends_later_nothing_is_kept(head: Head) -> None:
    head.hear(head.task(1), head.release(whole=(1,)))
    head.end(1, stored(head, 1))
    assert head.values(1) == (RELEASED,) and len(head.swept) == 1


def test_what_has_failed_is_told_as_before(head: Head) -> None:
    head.hear(head.task(1), head.release(whole=(1,)))
    head.hear(m.Cancel(5, head.session, [head.id(1)]))
    (outcome,) = head.store.results([head.id(1)])
    assert outcome.state == "CANCELLED" and not head.store.claims()


def test_what_others_find_by_a_name_stays(head: Head) -> None:
    naming = encode_naming(Naming("mesh"))
    value = stored(head, 1)
    head.hear(head.put(1, value, payload=naming), head.release(whole=(1,)))
    assert head.values(1) == (value,) and not head.swept
    assert not head.hear(head.task(2, (1, 0))).refused


def test_what_others_find_by_a_key_stays(head: Head) -> None:
    head.hear(head.task(1, cache=b"source"))
    head.shell.apply(ev.TasksLookedUp({head.id(1): b"key"}, {}), NOW)
    value = stored(head, 1)
    head.hear(head.release(whole=(1,)))
    head.end(1, value)
    assert not head.values(1)[0].is_released
    head.hear(head.release(whole=(1,)))
    assert not head.values(1)[0].is_released and not head.swept


def test_what_another_task_has_as_its_own_stays_on_the_disk(head: Head) -> None:
    value = stored(head, 1)
    head.hear(head.put(1, value), head.put(2, value))  # as if 2 had returned the future of 1
    head.hear(head.release(whole=(1,)))
    assert head.values(1) == (RELEASED,) and head.values(2) == (value,) and not head.swept
    head.hear(head.release(whole=(2,)))
    assert head.swept == [(value.path, value.name)]


def test_who_has_made_it_keeps_what_others_release(head: Head) -> None:
    value = stored(head, 1)
    head.hear(head.put(1, value), head.put(2, value))
    head.hear(head.release(whole=(2,)))
    assert head.values(2) == (RELEASED,) and not head.swept
    head.hear(head.release(whole=(1,)))
    assert head.swept == [(value.path, value.name)]


def test_what_does_not_exist_is_released_in_vain(head: Head) -> None:
    assert head.hear(head.release((1, 5), whole=(77,))) == m.Accepted(99)
    head.hear(head.put(1, Value(1, b"v")), head.release((1, 5)))
    assert head.values(1) == (Value(1, b"v"),)
    assert not head.store.any_released


def test_pilots_hear_of_large_results_once_that_is_written(head: Head) -> None:
    head.hear(head.put(1, stored(head, 1)), head.put(2, Value(1, b"v")))
    peer = head.shell.peers.pilots["p"] = PilotPeer(b"pilot:p")
    peer.sent[head.session] = Sent(set(), set())
    handler = head.clients.handlers[m.Release]
    head.sent.clear()
    handler(PEER, head.release(whole=(1, 2)), NOW)
    assert not head.sent
    head.commit()
    told = [said for said in head.sent if isinstance(said, Released)]
    assert told == [Released([ReleasedResult(head.id(1), 0)])]


def test_a_purged_session_keeps_why_its_tasks_have_failed(head: Head) -> None:
    head.hear(head.task(1), head.task(2))
    head.shell.apply(ev.PilotJoined("p", "main", NodeShape(4), 1, 0.0, [(head.id(1), 1)]), NOW)
    head.shell.apply(
        ev.AttemptsEnded("p", [done(head.id(1), outcome="error")]),
        NOW,
    )
    head.end(2, Value(1, b"v"))
    head.hear(m.ControlSession(6, head.session, "close"))
    head.hear(m.ControlSession(7, head.session, "purge"))
    failed, deleted = head.store.results([head.id(1), head.id(2)])
    assert failed.state == "FAILED" and failed.failure is not None
    assert deleted.state == "DELETED"
