"""What must always hold in the core and in pilots, counted out; and what the core's log must say.

How the log is read
-------------------
A task begins as PENDING, READY, COMPLETED (values that were put, no work), ABORTED or CANCELLED (an
input of it is lost already), goes along the arrows of `NEXT`, and stays in its final state.

With ``head STARTED`` the changes that the head before had not committed never were, no pilot is
known any more, and what was ASSIGNED or RUNNING *waits*: it is READY (PENDING where an input got
lost with the head) until a pilot brings it back (ASSIGNED) or its end is told. Nothing else changes
there, and nothing is told again. A pilot may also bring back what the log has never told that it
was given: then a task that waits for an input is ASSIGNED, since the input was there before.

A session goes OPEN → STOPPED → CLOSING → CLOSED → PURGED → DELETED and may leave steps out, and
from CLOSED to OPEN again; in between it is PAUSED and RESUMED in turn. One that nobody was told of,
since its head died, may begin with any of these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pilot.agent.rules.rules import Rules
from pilot.head.core.core import Core
from pilot.head.core.events import Change
from pilot.model.ids import session_of, task_label
from pilot.model.states import (
    ABORTED,
    ASSIGNED,
    CANCELLED,
    COMPLETED,
    DELEGATED,
    FINAL,
    PENDING,
    READY,
    RUNNING,
)

#: Of a task that a head had given away which is no more.
WAITING = "waiting"

NEXT: dict[str, frozenset[str]] = {
    "": frozenset((PENDING, READY, COMPLETED, ABORTED, CANCELLED)),
    # Sent ahead of its inputs, it has none of its own that is READY.
    PENDING: frozenset((READY, ASSIGNED, CANCELLED, ABORTED)),
    # It may have run before, here (found again) or where nobody looked (a pilot taken for lost).
    READY: frozenset((ASSIGNED, DELEGATED, COMPLETED, CANCELLED, ABORTED)),
    ASSIGNED: frozenset((RUNNING, READY, PENDING, DELEGATED)) | FINAL,
    # With an input that was lost with its node, before it was written.
    RUNNING: frozenset((READY, PENDING, DELEGATED)) | FINAL,
    DELEGATED: FINAL,
    WAITING: frozenset((READY, ASSIGNED, DELEGATED, COMPLETED, CANCELLED, ABORTED)),
}
#: Besides, once there was another head before: it may have known more of the inputs than it wrote.
NEXT_AFTER_ANOTHER: dict[str, frozenset[str]] = {
    PENDING: frozenset((ASSIGNED, DELEGATED, COMPLETED)),
    ASSIGNED: frozenset((PENDING,)),
    RUNNING: frozenset((PENDING,)),
}

_SESSION_STEPS = ("", "OPEN", "STOPPED", "CLOSING", "CLOSED", "PURGED", "DELETED")
#: In the last of these steps it has no tasks any more.
_OVER = _SESSION_STEPS[-3:]


class Replay:
    """The states that a log leads to; no step of it may be impossible."""

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        self.tasks: dict[int, str] = {}
        self.session_of: dict[int, int] = {}
        #: Id → state, whether paused.
        self.sessions: dict[int, tuple[str, bool]] = {}
        #: Those that have joined, and those whose jobs have ended.
        self.pilots: set[str] = set()
        self.ended: set[str] = set()
        #: Events so far, and how many of them told of each state of tasks.
        self.count = 0
        self.told: Counter[str] = Counter()
        self.unfinished = 0
        self.heads = 0
        self.take(changes)

    def take(self, changes: Iterable[Change]) -> None:
        """Go on with these."""
        for change in changes:
            self.count += change.count
            getattr(self, f"_{change.kind}")(change)

    def _task(self, change: Change) -> None:
        new, tasks = change.state, self.tasks
        self.told[new] += change.count
        spans = iter(change.spans)
        for first, count in zip(spans, spans, strict=True):
            for task in range(first, first + count):
                state = tasks.get(task, "")
                assert state not in FINAL, f"{task_label(task)}: {new} after {state}"
                assert new in NEXT[state] or (
                    self.heads > 1 and new in NEXT_AFTER_ANOTHER.get(state, ())
                ), f"{task_label(task)}: {new} after {state or 'nothing'}"
                assert self.session_of.setdefault(task, change.session) == change.session
                tasks[task] = new
                self.unfinished += (not state) - (new in FINAL)
        if new == ASSIGNED:
            assert change.detail in self.pilots, f"given to {change.detail}, which is not there"

    def _session(self, change: Change) -> None:
        state, paused = self.sessions.get(change.session, ("", False))
        new = change.state
        if new in ("PAUSED", "RESUMED"):
            assert state != "CLOSED", f"session {change.session}: {new} when {state}"
            assert state or self.heads > 1, f"session {change.session}: {new} before it is there"
            assert paused == (new == "RESUMED"), f"session {change.session}: {new} twice"
            paused = not paused
        else:
            at, to = _SESSION_STEPS.index(state), _SESSION_STEPS.index(new)
            if (state, new) == ("CLOSED", "OPEN"):  # somebody has reopened it, or come back
                paused = False
            else:
                assert at < to, f"session {change.session}: {new} after {state}"
            assert state or new == "OPEN" or self.heads > 1, (
                f"session {change.session} begins as {new}"
            )
            state = new
        self.sessions[change.session] = (state, paused)

    def _pilot(self, change: Change) -> None:
        name, new = change.detail.partition(":")[0], change.state
        if new in ("JOINED", "QUEUED", "RUNNING", "ENDED"):
            # As a job it is there longer than as a pilot that has joined.
            assert name not in self.pilots or new == "QUEUED", f"pilot {name}: {new}"
            # One that was given up and lives after all joins again.
            assert name not in self.ended or new == "JOINED", f"pilot {name}: {new} after its end"
        elif new != "SHRUNK":  # its job is, whether it talks or not
            assert name in self.pilots, f"pilot {name}: {new}"
        if new == "JOINED":
            self.pilots.add(name)
            self.ended.discard(name)
        elif new == "LEFT":
            self.pilots.remove(name)
        elif new == "ENDED":
            self.ended.add(name)

    def _head(self, change: Change) -> None:
        assert change.state == "STARTED"
        self.heads += 1
        self.pilots.clear()
        for task, state in self.tasks.items():
            if state in (ASSIGNED, RUNNING):
                self.tasks[task] = WAITING

    def check(self, core: Core) -> None:
        """Whether the core of the last head is in the states that the log tells."""
        for number, task in core.tasks.items():
            told = self.tasks.get(number)
            assert told == task.state or (told == WAITING and task.state in (READY, PENDING)), (
                f"{task_label(number)} is {task.state}, the log says {told}"
            )
            assert self.session_of[number] == task.template.session
        assert self.unfinished == len(core.tasks), "the log has tasks that are not there"
        for number, (state, paused) in self.sessions.items():
            session = core.sessions.get(number)
            if session is None:
                assert state in _OVER, f"session {number} has ended, the log says {state}"
            else:
                assert (session.state, session.paused) == (state, paused), f"session {number}"
        assert self.pilots == core.pilots.keys()


def check_core(core: Core) -> None:
    """The invariants of the core, counted out."""
    ready: Counter[int] = Counter()
    assigned: Counter[int] = Counter()
    unfinished: Counter[int] = Counter()
    loads: Counter[int] = Counter()
    for task in core.tasks.values():
        unfinished[task.template.session] += 1
        before = {*(source for source, _ in task.inputs), *task.after} & core.tasks.keys()
        assert task.missing == len(before), f"{task.id:#x} waits for {before}, not {task.missing}"
        for follower in task.followers or ():
            assert task.id in follower.after, f"{follower.id:#x} does not come after {task.id:#x}"
        work = id(task.task_class)
        if task.state == READY:
            assert not task.missing, f"{task.id:#x} is ready without {task.missing} inputs"
            assert task.pilot is None
            if task.template.cache and task.memo is None:
                continue  # it is looked up whether it has run before
            if task.aside:
                assert task.parts, f"{task.id:#x} waits for no turn"
                continue
            ready[work] += 1
            assert task in task.task_class.queue, f"{task.id:#x} is ready, but in no queue"
        elif task.state in (ASSIGNED, RUNNING):
            assert task.pilot is not None, f"{task.id:#x} is {task.state} nowhere"
            if task.id in task.pilot.waits:
                assert task.state == RUNNING, f"{task.id:#x} waits for others, and has not begun"
            else:
                assigned[work] += 1
                loads[task.template.session] += task.task_class.cores
            assert core.pilots.get(task.pilot.name) is task.pilot, f"{task.id:#x} is lost"
            assert task.id in task.pilot.held, f"{task.id:#x} is not held by its pilot"
        elif task.state == DELEGATED:
            children = {child.id for child in task.delegates} & core.tasks.keys()
            owed = [
                there
                for child in children
                for heir, there, _ in core.tasks[child].result_receivers or ()
                if heir is task
            ]
            assert task.pilot is None and task.owed
            assert len(owed) == len(set(owed)) == task.owed, f"{task.id:#x} hopes in vain"
        else:
            assert task.missing and task.pilot is None, f"{task.id:#x} waits for nothing"
    for task_class in core.classes.values():
        assert task_class.ready == ready[id(task_class)]
        assert task_class.assigned == assigned[id(task_class)]
    for session in core.sessions.values():
        assert session.unfinished == unfinished[session.id]
        assert session.load == loads[session.id]
    for pilot in core.pilots.values():
        assert pilot.eased <= pilot.held.keys() and pilot.waits.keys() <= pilot.held.keys()
        away = pilot.eased | pilot.waits.keys()
        counted = {task: cores for task, cores in pilot.held.items() if task not in away}
        assert not pilot.eased & pilot.waits.keys(), "it has ended, and waits"
        assert (pilot.load, pilot.coreless) == (
            sum(counted.values()),
            [*counted.values()].count(0),
        )
        of_sessions = Counter[int]()
        for number, cores in counted.items():
            of_sessions[session_of(number)] += cores
        assert pilot.shares == +of_sessions
        assert pilot.lasting == sum(pilot.held[task] for task in pilot._lasts)
        waiting = {task.id for tasks in pilot.waiting.values() for task in tasks}
        mine = [core.tasks[task] for task in pilot.held if task in core.tasks]
        mine = [task for task in mine if task.pilot is pilot]
        assert waiting == {task.id for task in mine if task.state == ASSIGNED}
        running = [task for task in mine if task.state == RUNNING and task.id not in pilot.eased]
        # Without a core there is nothing that lasts.
        running = [task for task in running if pilot.held[task.id]]
        assert all(task.id in pilot._lasts or task.id in pilot.waits for task in running)
        for task_class, tasks in pilot.waiting.items():
            since = list(tasks.values())
            assert since and since == sorted(since), "the oldest is not the first"
            assert all(task.task_class is task_class for task in tasks)
    _check_site(core)
    for turn in [turn for session in core.sessions.values() for turn in session.turns.values()]:
        holder = turn.holder
        behind = [task for tasks in turn.aside.values() for task in tasks if task.aside]
        assert holder or turn.candidates or not behind, f"nobody has the turn of {turn.anchor}"
        for task in turn.candidates.values():
            assert task.state == READY and not task.aside, f"{task.id:#x} has left the queue"
    for task in core.tasks.values():
        if task.parts and task.state in (ASSIGNED, RUNNING, DELEGATED):
            assert all(part.turn.holder is task for part in task.parts), f"{task.id:#x} has no turn"
    for task in core.tasks.values():
        if task.near_pilot is not None and task.state == PENDING:
            sources = {source for source, _ in task.inputs} & core.tasks.keys()
            near = sum(core.tasks[source].pilot is task.near_pilot for source in sources)
            assert 0 <= task.near <= near, f"{task.id:#x} has {near} inputs near, not {task.near}"


def _check_site(core: Core) -> None:
    """Check that tasks have what is in use of the site, and no more than there is."""
    site = core.site
    used: Counter[str] = Counter()
    for tasks in site.holders.values():
        assert tasks, "a pilot is listed that has nothing"
        for need in tasks.values():
            used.update(dict(need))
    assert used == Counter({name: amount for name, amount in site.used.items() if amount})
    assert all(used[name] <= amount for name, amount in site.total.items()), "more than there is"
    for pilot in core.pilots.values():
        assert pilot.name not in site.unheard
        its = site.held(pilot.name)
        mine = [core.tasks[task] for task in pilot.held if task in core.tasks]
        for task in mine:
            # Of one whose end has been told to nobody yet, its pilot has nothing any more.
            assert its.get(task.id) in (None, task.task_class.need.site)


def check_rules(rules: Rules, cores_of_node: int) -> None:
    """The invariants of a pilot: every core has one user, every attempt is in one place, and what
    is counted or kept by its state is what the state says."""
    queues, cores = rules._queues, rules._cores
    used: dict[str, list[int]] = {name: [] for name in rules.nodes}
    attempts = rules._attempts
    places: Counter[int] = Counter(list(attempts._inputs._waiting))
    places.update(work.task for work in attempts._fetches.waiting())
    places.update(end.task for end in attempts._kept.ends())
    known = [queue for session in queues._sessions.values() for queue in session.queues.values()]
    known += [near for queue in known for near in queue.near.values()]
    for queue in known:
        places.update(work.task for work in queue.waiting)
    for executor in rules.executors.values():
        places.update(work.task for work in executor.pipeline)
        places.update(list(executor.unsealed))
        if executor.queue is not None:
            assert executor.pipeline or executor.stopping, "it holds cores for nothing"
            for share in executor.shares or executor.pinned:
                used.setdefault(share.node, []).extend(share.cores)
    for world in rules.worlds.values():
        places.update(work.task for work in world.pipeline)
        if world.queue is not None:
            assert world.pipeline or world.stopping, "it holds cores for nothing"
            for share in world.pinned:
                used.setdefault(share.node, []).extend(share.cores)
    for share in rules._bookings._kept.values():
        used.setdefault(share.node, []).extend(share.cores)
    for name, node in rules.nodes.items():
        assert sorted([*used[name], *node.cores]) == list(range(cores_of_node)), (
            f"{name}: cores {sorted(used[name])} are used, {sorted(node.cores)} are free"
        )
    _check_kept(attempts)
    assert places == Counter(list(rules.held)), f"held {sorted(rules.held)}, found {places}"
    assert cores.free == sum(len(node.cores) for node in rules.nodes.values())
    waiting = [queue for queue in known if queue.waiting]
    assert queues.waiting == sorted(waiting, key=lambda queue: queue.rank)
    assert queues.wide == sum(queue.is_wide for queue in waiting)
    busy = Counter(e.queue for e in rules.executors.values() if e.queue is not None)
    busy += Counter(w.queue for w in rules.worlds.values() if w.queue is not None)
    assert busy == Counter({queue: queue.busy for queue in known if queue.busy})
    _check_idle(rules._executors._warm, rules.executors, cores)
    _check_idle(rules._worlds._warm, rules.worlds, cores)
    listed = [number for idle in rules._executors._idle.values() for number in idle]
    idle = [e.id for e in rules.executors.values() if e.queue is None and not e.stopping]
    assert sorted(listed) == sorted(idle)


def _check_kept(attempts: Any) -> None:
    """Ends that are held back wait for something, and all that have used them are known."""
    kept = attempts._kept
    for task, held in kept._held.items():
        assert not kept._group(task), f"{task:#x} is held back for nothing"
        assert held.makers <= kept._held.keys()
        assert all(task in kept._of_path[path] for path in held.unwritten | held.waived)
        assert not held.unwritten & held.waived
        assert all(task in kept._users[maker] for maker in held.makers)
    for task, makers in kept._used.items():
        assert makers and makers <= kept._held.keys() and task not in kept._held
        assert all(task in kept._users[maker] for maker in makers)
    for maker, users in kept._users.items():
        assert maker in kept._held and users, "results of one that is not held have users"
    for task, results in kept._needed.items():
        assert task in attempts.held, "what is released is of a task that is not here"
        for index, result in results.items():
            assert all((task, index) in kept._needs[user] for user in result.pending)
    for user, needs in kept._needs.items():
        assert needs and all(user in kept._needed[task][index].pending for task, index in needs)
    assert set(attempts._vain) <= set(attempts.held)
    fetches = attempts._fetches
    assert all(works for works in fetches._aside.values())
    assert all(path in kept._of_path for path in fetches._aside), "it waits for nothing"
    load = Counter(node for works in fetches._aside.values() for _, node in works)
    assert load == +fetches._load


def _check_idle(warm: Any, processes: dict[int, Any], cores: Any) -> None:
    """Whatever is idle is known as such, and found unless something is in its way."""
    near = [number for items in warm._near.values() for number in items]
    aside = [number for items in warm._aside.values() for number in items]
    idle = {p.id for p in processes.values() if p.queue is None and not p.stopping}
    assert sorted([*near, *aside]) == sorted(idle)
    for number in aside:
        assert cores.in_the_way(processes[number].pinned) is not None, "it could be used"
