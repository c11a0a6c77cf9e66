"""What is submitted, and how it ends when it runs: all of it left to chance."""

from __future__ import annotations

import itertools
from random import Random
from typing import TYPE_CHECKING

import msgspec

from pilot.model.ids import Ref, session_of
from pilot.model.objects import Naming, encode_naming
from pilot.model.states import Outcome, TaskKind
from pilot.model.tasks import Children, TaskSpec, Template
from pilot.model.values import Value
from pilot.scheduler.amounts import UNIT
from pilot.scheduler.resources import Resources, needs
from pilot.wire.messages.pilot import AttemptSpec

if TYPE_CHECKING:
    from simulated.client import Client
    from simulated.cluster import Cluster

NEEDS: tuple[tuple[TaskKind, Resources], ...] = (
    ("python", Resources()),
    ("python", Resources()),
    ("python", Resources(cores=2)),
    ("python", needs(0)),
    ("python", Resources(cores=4)),
    ("mpi", Resources(ranks=2)),
    ("mpi", Resources(ranks=2, ranks_per_node=1)),
    ("mpi-command", Resources(ranks=3)),
    ("python", needs(nodes=2)),
    ("python", needs(site={"licence": UNIT})),
    ("python", needs(cores=2, site={"licence": 2 * UNIT, "buffer": UNIT // 2})),
    ("mpi", needs(ranks=2, site={"buffer": UNIT})),
)
#: What the site has only once, for all pilots.
SITE = {"licence": 3, "buffer": 1}
#: Names of objects.
NAMES = ("mesh", "model")
#: There is no such task.
NOWHERE = 0xDEAD
#: No task submits children once there are so many.
MANY = 300


class Tasks:
    """All tasks of a site, as who submitted them knows them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.rng = cluster.chance("tasks")
        self._templates = itertools.count(1)
        #: Numbers attempts that end.
        self.runs = itertools.count(1)
        self.templates: dict[int, Template] = {}
        #: Those that the submissions of a session are of.
        self.of_session: dict[int, list[Template]] = {}
        self.specs: dict[int, tuple[Template, TaskSpec]] = {}
        self.by_client: dict[int, Client] = {}
        #: Children that tasks have submitted, also in attempts that did not count.
        self.parents: dict[int, int] = {}
        self.error_rate = self.rng.choice((0.0, 0.1, 0.4))
        self.crash_rate = self.rng.choice((0.0, 0.05, 0.2))
        self.children_rate = self.rng.choice((0.0, 0.15))
        self._detach_rate = self.rng.choice((0.0, 0.1, 0.4))
        #: How likely a task waits for those that it has had begin.
        self._wait_rate = self.rng.choice((0.0, 0.5, 1.0))
        #: By parent.
        self._detached: dict[int, list[TaskSpec]] = {}
        #: How likely a task starts after the ends of others.
        self._after_rate = self.rng.choice((0.0, 0.0, 0.3))
        self._cache_rate = self.rng.choice((0.0, 0.0, 0.3))
        #: How likely a task takes a value by turns with others.
        self._turns_rng = cluster.chance("turns")
        #: How likely a submission is an exchange: some tasks, and others that need several of them.
        self._exchanges = cluster.chance("exchanges")
        self._exchange_rate = self._exchanges.choice((0.0, 0.2, 0.6))
        self._turn_rate = self._turns_rng.choice((0.0, 0.0, 0.3))
        #: The values that tasks take by turns, with these, by session; and the templates of tasks
        #: that take over what these leave.
        self.turns: dict[int, dict[Ref, list[int]]] = {}
        self._readers: dict[int, Template] = {}
        self._stop_rate = self.rng.choice((0.0, 0.0, 0.05))
        self._mean_s = cluster.hasty(self.rng.choice((0.001, 0.05, 1.0, 5.0)))
        #: How likely a task never ends in a pilot where some do not.
        self.hang_rate = self.rng.choice((0.0, 0.05, 0.5))

    # --- how they run

    def duration(self, rng: Random) -> float:
        """Return what a task takes: all are alike, but some turn out to be long."""
        longer_s = 1.0 if rng.random() < 0.03 else 0.0
        return longer_s + rng.expovariate(1.0 / self._mean_s)

    def outcome(self, rng: Random) -> Outcome:
        """Return how an attempt ends."""
        if rng.random() < self.crash_rate:
            return "crash"
        if rng.random() < self.error_rate:
            return "error"
        return "ok"

    def children(self, work: AttemptSpec, born: list[int], rng: Random) -> Children | None:
        """Return what a task submits, if it does, and which child has its result, if one has.

        `born` are those that have begun already.
        """
        parent = self.specs[work.task][0]
        if (rng.random() > self.children_rate and not born) or len(self.specs) > MANY:
            return None
        templates = rng.sample(self.of_session[parent.session], 2)
        new: tuple[Template, ...] = ()
        if rng.random() < 0.3:
            new = (self.template(parent.session),)
        specs: list[TaskSpec] = []
        for number in range(1, rng.randrange(0 if born else 1, 4) + 1):
            template = rng.choice([*templates, *new])
            # Children may need their elder siblings, and what their parent needed.
            sources = [*(spec.id for spec in specs), *born, *(item.task for item in work.inputs)]
            refs = self._refs(sources, rng.choice((0, 0, 1)), rng)
            if rng.random() < 0.02:
                refs = (*refs, (NOWHERE, 0))
            # The end of the parent is theirs to wait for, too: it comes before they do.
            after = self._after([*sources, work.task], rng)
            specs.append(TaskSpec(number, template.id, b"x", refs, after=after))
        delegated: dict[int, Ref] = {}
        for index in range(0 if self.specs[work.task][1].commutative else parent.returns):
            if rng.random() < 0.6:
                delegated[index] = (rng.choice([*(spec.id for spec in specs), *born]), 0)
        released = tuple((one, 0) for one in [*(s.id for s in specs), *born] if rng.random() < 0.2)
        made = tuple({one.template: self.templates[one.template] for one in specs}.values())
        functions = tuple(self.cluster.function(one) for one in made)
        return Children(functions, made, tuple(specs), delegated, released)

    def detached(self, work: AttemptSpec, rng: Random) -> list[TaskSpec]:
        """Return the children that a task has begin at once: in each attempt the same."""
        if work.task not in self._detached:
            specs: list[TaskSpec] = []
            template = self.specs[work.task][0]
            if rng.random() < self._detach_rate and len(self.specs) < MANY:
                refs = tuple((item.task, item.index) for item in work.inputs)
                for ordinal in range(1, rng.choice((1, 2)) + 1):
                    child = rng.choice(self.of_session[template.session])
                    chosen = refs if rng.random() < 0.5 else ()
                    after = self._after([work.task, *(item.task for item in work.inputs)], rng)
                    specs.append(
                        TaskSpec(ordinal, child.id, b"d", chosen, ordinal=ordinal, after=after)
                    )
            self._detached[work.task] = specs
        return self._detached[work.task]

    def awaited(self, work: AttemptSpec, born: list[int], rng: Random) -> list[int]:
        """Return those of its children that a task waits for before it goes on.

        It holds what it has of the site, and maybe all that there is; one with several processes
        keeps its cores as well. And some children come after it.
        """
        template = self.templates[work.template]
        if template.kind != "python" or template.resources.site or rng.random() >= self._wait_rate:
            return []
        return [task for task in born if work.task not in self.specs[task][1].after]

    def born(self, parent: int, specs: list[TaskSpec]) -> None:
        """Note detached children that a head takes on, if that is committed."""
        for spec in specs:
            if spec.id not in self.specs:
                self.specs[spec.id] = (self.templates[spec.template], spec)
                self.parents[spec.id] = parent

    def named(self, parent: int, children: Children) -> None:
        """Note children that have got their numbers: they come to be if that is committed."""
        for spec in children.tasks:
            assert spec.id not in self.specs, f"{spec.id:#x} was given twice"
            assert session_of(spec.id) == session_of(parent)
            # They are there once their parent has ended, or handed its results on.
            after = tuple(other for other in spec.after if other != parent)
            known = msgspec.structs.replace(spec, after=after)
            self.specs[spec.id] = (self.templates[spec.template], known)
            self.parents[spec.id] = parent

    # --- what is submitted

    def template(self, session: int) -> Template:
        """Return a new template."""
        rng = self.rng
        kind, need = rng.choice(NEEDS)
        group, returns = rng.choice(("", "", "", "a", "b")), rng.choice((1, 1, 1, 2, 3))
        number = next(self._templates)
        template = self.templates[number] = Template(
            id=number,
            session=session,
            name=f"t{number}",
            kind=kind,
            function=b"%d" % number,
            resources=need,
            time_limit_s=self.cluster.hasty(rng.choice((0.0, 0.0, 0.0, 10.0))),
            retries=rng.choice((0, 1, 3)),
            retry_on=rng.choice(((), (), ("ValueError",))),
            max_crashes=rng.choice((0, 3)),
            priority=rng.choice((0, 0, 5)),
            on_failure="stop_session"
            if rng.random() < self._stop_rate
            else rng.choice(("fail", "fail", "ignore", "cancel_successors")),
            default=b"default",
            returns=returns,
            group=group,
            group_fails_together=bool(group) and rng.random() < 0.4,
            cache=b"%d.%d" % (rng.choice((1, 2)), returns)
            if rng.random() < self._cache_rate
            else b"",
            no_retry_on=rng.choice(((), (), ("OSError",))),
            retry_timeouts=rng.random() < 0.3,
        )
        return template

    def values(self, task: int, template: Template) -> tuple[Value, ...]:
        """Return values that tell where they come from."""
        texts = [b"%x.%d" % (task, index) for index in range(template.returns)]
        return tuple(Value(len(text), text) for text in texts)

    def made_by(self, work: AttemptSpec) -> tuple[Value, ...]:
        """Return what an attempt returns that goes well; a version tells from which it was made."""
        template, spec = self.specs[work.task]
        made = list(self.values(work.task, template))
        for place, result in spec.commutative:
            source = work.inputs[place]
            text = made[result].payload + b"<%x.%d" % (source.task, source.index)
            made[result] = Value(len(text), text)
        return tuple(made)

    def _refs(self, sources: list[int], count: int, rng: Random) -> tuple[Ref, ...]:
        chosen = rng.sample(sources, min(len(sources), count))
        returns = [self.specs[one][0].returns if one in self.specs else 1 for one in chosen]
        return tuple((one, rng.randrange(n)) for one, n in zip(chosen, returns, strict=True))

    def _after(self, others: list[int], rng: Random) -> tuple[int, ...]:
        if rng.random() >= self._after_rate:
            return ()
        chosen = rng.sample(others, min(len(others), rng.choice((1, 1, 2, 4))))
        return (*chosen, NOWHERE) if rng.random() < 0.01 else tuple(chosen)

    def _by_turns(
        self,
        task: int,
        template: Template,
        refs: tuple[Ref, ...],
        after: tuple[int, ...],
        rng: Random,
    ) -> tuple[Template, tuple[Ref, ...], tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Have a task take a value by turns, or take over what those leave that do."""
        session = template.session
        turns = self.turns.setdefault(session, {})
        mine = [one for one, (its, _) in self.specs.items() if its.session == session]
        if not mine or template.cache:
            return template, refs, after, ()
        if not turns or rng.random() < 0.1:
            turns.setdefault(self._refs(mine[-10:], 1, rng)[0], [])
        anchor = rng.choice(list(turns))
        if turns[anchor] and rng.random() < 0.1:
            members = tuple(turns.pop(anchor))  # no more are to take it
            return self._reader(session), (anchor,), members, ((0, 0),)
        turns[anchor].append(task)
        others = tuple(ref for ref in refs if ref != anchor)
        return template, (anchor, *others), after, ((0, rng.randrange(template.returns)),)

    def _reader(self, session: int) -> Template:
        if session not in self._readers:
            number = next(self._templates)
            self._readers[session] = self.templates[number] = Template(
                number, session, "latest", "value", b"", Resources()
            )
        return self._readers[session]

    def know(self, session: int) -> None:
        """Have templates for a session."""
        if session not in self.of_session:
            self.of_session[session] = [self.template(session) for _ in range(4)]

    def submit(self, client: Client, session: int, rng: Random) -> bool:
        """Submit some; False where the client would wait for numbers."""
        templates = self.of_session[session]
        # Often a few that may need others; or so many alike that they are sent several at a time.
        alike = rng.choice(templates) if rng.random() < 0.1 else None
        # Or a chain, of which each result is released once the next step is submitted.
        is_chain = alike is None and rng.random() < 0.2
        if is_chain:
            templates = [rng.choice(templates)]
        most = self.cluster.life.size.tasks
        count = rng.randint(1, most) if alike is None else 5 * most
        plain = [one for one in templates if self._is_plain(one)]
        is_exchange = self._exchanges.random() < self._exchange_rate and plain
        makers = 0
        if is_exchange and alike is None and not is_chain:
            # Wide ones, which are on several nodes.
            templates = [max(plain, key=lambda one: one.resources.cores)]
            makers, count = 8, 12
        try:
            given = client.numbers[session].take(count)
        except InterruptedError:
            return False
        specs: list[TaskSpec] = []
        elsewhere = rng.random() < 0.2
        for task in given:
            assert task not in self.specs, f"{task:#x} was given twice"
            template = alike or rng.choice(templates)
            refs: tuple[Ref, ...] = ()
            after: tuple[int, ...] = ()
            if alike is None:
                # Sometimes of other sessions, too.
                known = [
                    one
                    for one, (its, _) in self.specs.items()
                    if its.session == session or elsewhere
                ]
                refs = self._refs(known[-10:], rng.choice((0, 0, 1, 2)), rng)
                if rng.random() < 0.005:
                    refs = (*refs, (NOWHERE, 0))
                after = self._after(known[-10:], rng)
            if is_chain and specs:
                refs, after = ((specs[-1].id, 0),), ()
            if makers:
                made = [spec.id for spec in specs[:makers]]
                after = ()
                refs = self._refs(made, 3, self._exchanges) if len(specs) >= makers else ()
            values: tuple[Value, ...] = ()
            if rng.random() < 0.03 and not (is_chain or makers):
                values = self.values(task, template)
            refs, after = ((), ()) if values else (refs, after)
            parts: tuple[tuple[int, int], ...] = ()
            by_turns = self._turns_rng
            takes_turns = by_turns.random() < self._turn_rate
            if takes_turns and not (values or alike or makers):
                template, refs, after, parts = self._by_turns(task, template, refs, after, by_turns)
            payload = b"%d" % rng.randrange(5)
            if values and rng.random() < 0.7:
                payload = encode_naming(Naming(rng.choice(NAMES)))
            spec = TaskSpec(
                task, template.id, payload, refs, values, after=after, commutative=parts
            )
            self.specs[task] = (template, spec)
            self.by_client[task] = client
            specs.append(spec)
        client.submit(
            session,
            list({one.template: self.templates[one.template] for one in specs}.values()),
            specs,
        )
        if is_chain:
            client.release([spec.id for spec in specs[:-1]], [])
        if makers and self._exchanges.random() < 0.5:
            client.release([spec.id for spec in specs[:makers]], [])
        return True

    def _is_plain(self, template: Template) -> bool:
        """Tell whether tasks of a template need nothing but some cores of one node."""
        need = template.resources
        is_plain = need.cores >= 1 and need.ranks == 1 and not need.site
        return template.kind == "python" and is_plain and not template.cache
