"""The reasons why no pilot takes a ready task: the pilots that exist, those to come, the limits.

All is said of a class of tasks at once, since its tasks are alike for the scheduler; only the place
in the queue is a task's own. Pure: it asks the functions that `Core.assign` and the fleet act by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

from pilot.formatting import counted, duration, moment
from pilot.head.core.state import Pilot, Task, TaskClass
from pilot.head.explain.report import SHOWN, Cause, Finding, Snapshot, first_line
from pilot.head.outlook import QUEUED, UNREACHED_ADVICE, PilotRow, hindrance
from pilot.model.ids import session_of
from pilot.model.states import READY
from pilot.scheduler import assignment
from pilot.scheduler.amounts import amount_number, amount_text
from pilot.scheduler.demand import ClassDemand, holds
from pilot.scheduler.elasticity import (
    ADMIN,
    AT_ONCE,
    BUDGET,
    ENOUGH,
    HELD,
    MAX_NODES,
    MAX_QUEUED,
    SCALED,
    PoolLimits,
    PoolStatus,
    standings,
)
from pilot.scheduler.resources import NodeShape, amount_of
from pilot.wire.messages.pilot import BookingInfo

#: The largest place in a queue that is counted.
LOOK_QUEUE = 100_000
#: The kinds of reasons that are limits of a pool.
LIMITS = (MAX_NODES, MAX_QUEUED, AT_ONCE)
#: The silence after which a pilot is called silent, in seconds; pilots report every second.
SILENT_S = 5.0


class _Planned(msgspec.Struct):
    """A pilot that does not exist yet, as the assignment would see it."""

    pool: str
    shape: NodeShape
    nodes: int
    load: int = 0
    ends_at: float = 0.0


class Readiness:
    """Finds why ready tasks have no pilot; remembers the finding of each class."""

    def __init__(self, facts: Snapshot) -> None:
        self._now = facts.now
        self._core = facts.core
        self._outlook = facts.outlook
        self._head = facts.head
        self._of_class: dict[int, Finding] = {}
        self._standings: list[PoolStatus] | None = None

    def finding(self, work: TaskClass) -> Finding:
        """Return the reason why ready tasks of a class have no pilot."""
        finding = self._of_class.get(id(work))
        if finding is None:
            finding = self._as_versions(work) if len(work.versions) > 1 else self._why_ready(work)
            self._of_class[id(work)] = finding
        return finding

    def _as_versions(self, work: TaskClass) -> Finding:
        """Return why tasks with versions have no pilot: as the first one that can ever run, with a
        line for each of the others."""
        findings = [(each, self._why_ready(each)) for each in work.versions]
        chosen = next((its for _, its in findings if its.kind != "impossible"), findings[0][1])
        lines = [
            Cause(
                "version",
                f"as its version {each.version.version!r} it {its.clause}"
                if each.version
                else f"as itself it {its.clause}",
                facts={"why": its.kind},
            )
            for each, its in findings
            if (its.kind, its.clause) != (chosen.kind, chosen.clause)
        ]
        return chosen._replace(because=(*chosen.because, *lines))

    def _why_ready(self, work: TaskClass) -> Finding:
        if reason := self._head.get("stopping"):
            return Finding(
                "stopping",
                f"is ready, but the head ends ({reason})",
                advice=("`pilot head start` brings up the next one when it is gone",),
            )
        if waits := self._head.get("awaits"):
            return self._rejoin(waits)
        session = work.session
        if session.paused:
            return Finding(
                "paused",
                f"is ready, but session {session.id} is paused",
                advice=(f"`pilot session resume {session.id}` lets it go on",),
            )
        if session.over_budget:
            account = self._outlook.session_accounts.get(session.id)
            used = "" if account is None else f": {account.words}"
            return Finding(
                "budget",
                f"is ready, but the budget of session {session.id} is used up{used}",
                advice=(f"`pilot session budget {session.id} HOURS` gives it more",),
            )
        pilots = [p for p in self._core.pilots.values() if not p.draining]
        misfits = {p.name: assignment.why_unfit(work, p, self._now) for p in pilots}
        fitting = [p for p in pilots if not misfits[p.name]]
        needs_site = bool(work.need.site)
        if (not fitting or needs_site) and (finding := self._impossible(work)):
            return finding
        if needs_site and (finding := self._used_up(work)):
            return finding
        short = [p for p in pilots if misfits[p.name] == assignment.TOO_SHORT]
        coming = self._coming(work)
        pool, hindered = self._growth(work)
        more = [*map(self._coming_line, coming[:SHOWN]), *self._no_answer(), *hindered]
        system = self._outlook.kind
        # Higher limits are no remedy where pilots are there that do not start.
        useless = LIMITS if self._outlook.silence or any(row.stuck for row in coming) else ()
        advice = [
            each
            for line in hindered
            if line.kind not in useless
            for each in self._advice(line.kind, pool)
        ]
        advice += [UNREACHED_ADVICE] * any(row.unreached for row in coming)
        advice += filter(None, (system.release_advice(r.waits_for, r.job or "") for r in coming))
        draining = [
            p for p in self._core.pilots.values() if p.draining and self._would_fit(work, p)
        ]
        more += [
            Cause("drains", f"{self.pilot_name(p.name)} drains: it starts nothing more")
            for p in draining[:SHOWN]
        ]
        lines = [*map(self._short_line(work), short[:SHOWN]), *more]
        if fitting:
            return self._busy(work, fitting, lines, tuple(advice))
        kind, clause = self._nobody(short, coming, more)
        first = next((line for line in lines if line.kind == kind), None)
        return Finding(
            kind,
            f"is ready, but {clause}",
            tuple(lines),
            tuple(advice),
            first.facts if first else {},
        )

    def _nobody(
        self, short: list[Pilot], coming: list[PilotRow], more: list[Cause]
    ) -> tuple[str, str]:
        """Return why no pilot can take a task: the kind of reason, and a clause."""
        told = {line.kind: line.text for line in reversed(more)}
        if "lost" in told:
            return "lost", told["lost"]
        started = next((row for row in coming if row.job_runs_since is not None), None)
        if started is not None:
            return "starting", f"its pilot is starting: {told['starting']}"
        for kind in ("silence", "suspended", "queued", "refused", "submitting"):
            if kind in told:
                return kind, told[kind]
        if short:
            return "walltime", (
                "the pilot that is there ends"
                if len(short) == 1
                else f"the {len(short)} pilots that are there end"
            ) + " too soon for it"
        limits = (HELD, ADMIN, BUDGET, SCALED, MAX_NODES, MAX_QUEUED, AT_ONCE)
        for kind in (*limits, "drains", ENOUGH):
            if kind in told:
                return kind, told[kind]
        return "next", "no pilot is there yet; the next is about to be asked for"

    def _rejoin(self, waits: Mapping[str, Any]) -> Finding:
        names, until = waits["pilots"], waits["until"]
        which = ", ".join(map(self.pilot_name, names[:SHOWN]))
        if len(names) > SHOWN:
            which += f" and {len(names) - SHOWN} more"
        left = max(0.0, until - self._now)
        return Finding(
            "rejoin",
            f"is ready, but the head has just started, and waits for {duration(left)} more for "
            "pilots of the previous head: they may have it",
            (Cause("pilots", f"it waits for {which}", facts={"pilots": names, "until": until}),),
            facts={"until": until},
        )

    def _impossible(self, work: TaskClass) -> Finding | None:
        pools = [
            (pool.name, pool.shape, pool.nodes_per_pilot, pool.walltime_s)
            for pool in self._outlook.pools
        ]
        site = tuple(self._core.site.total.items())
        reason = assignment.why_infeasible(work.need, work.pool, pools, work.time_limit_s, site)
        if not reason:
            return None
        site_file = f"{self._head.get('directory')}/site.yaml"
        return Finding(
            "impossible",
            f"is ready, but {reason}",
            (Cause("pools", f"the pools are those of {site_file}"),),
            (
                f"change the pool in {site_file}, and let the next head read it "
                "(`pilot head stop --leave-pilots`, `pilot head start`); or cancel the task, and "
                "submit it with other needs",
            ),
        )

    def _used_up(self, work: TaskClass) -> Finding | None:
        """Return why tasks lack amounts that exist once per site; None if there is enough now."""
        site, need = self._core.site, work.need.site
        if site.unheard:
            names = sorted(site.unheard)
            return Finding(
                "unheard",
                f"is ready, but {counted(len(names), 'pilot')} of the previous head may still use "
                f"some of {_listed(name for name, _ in need)}: it goes on when each has reported "
                "itself, or its job has ended",
                tuple(
                    Cause("pilot", f"{self.pilot_name(name)} has not reported itself to this head")
                    for name in names[:SHOWN]
                ),
                self._of_left_alone(names),
                {"pilots": names},
            )
        if not (lacking := site.lacking(need)):
            return None
        parts: list[str] = []
        lines: list[Cause] = []
        amounts = dict(need)
        for name in lacking:
            used, total = site.used[name], site.total[name]
            parts.append(
                f"{amount_text(name, amounts[name])} of the site's {amount_number(total)}, of "
                f"which {amount_number(max(0, total - used))} are free"
            )
            lines += self._users(name)
        facts = {
            name: {
                "needed": amount_number(amounts[name]),
                "total": amount_number(site.total[name]),
                "used": amount_number(site.used[name]),
            }
            for name in lacking
        }
        clause = f"is ready, but needs {_listed(parts)}"
        return Finding("resources", clause, tuple(lines), self._of_left_alone(site.holders), facts)

    def _of_left_alone(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return what frees the amounts of pilots that are silent in allocations of users."""
        rows = self._outlook.rows
        alone = [name for name in names if name in rows and rows[name].left_alone]
        return tuple(
            f"if nothing of {self.pilot_name(name)} runs any more, `pilot fleet cancel {name}` "
            "frees what its tasks held"
            for name in alone[:SHOWN]
        )

    def _users(self, name: str) -> Iterator[Cause]:
        """List the holders of an amount that exists once per site."""
        sessions: Counter[int] = Counter()
        away: Counter[str] = Counter()
        for pilot, tasks in self._core.site.holders.items():
            for task, need in tasks.items():
                if amount := amount_of(need, name):
                    sessions[session_of(task)] += amount
                    if pilot not in self._core.pilots:
                        away[pilot] += amount
        if sessions:
            text = ", ".join(
                f"session {session} has {amount_text(name, amount)}"
                for session, amount in sessions.most_common(SHOWN)
            )
            facts = {str(session): amount_number(its) for session, its in sessions.items()}
            yield Cause("used", text, facts=facts)
        for pilot, amount in away.most_common(SHOWN):
            text = (
                f"{amount_text(name, amount)} may be in use in {self.pilot_name(pilot)}, which "
                "does not answer, until its job has ended"
            )
            yield Cause("silent", text, facts={"pilot": pilot})

    def _busy(
        self, work: TaskClass, pilots: list[Pilot], lines: list[Cause], advice: tuple[str, ...]
    ) -> Finding:
        cores = sum(map(assignment.cores_of, pilots))
        facts = {"pilots": len(pilots), "cores": cores, "load": sum(p.load for p in pilots)}
        if any(assignment.free_slots(work, p) for p in pilots):
            clause = "is ready, and the next to be given to a pilot"
            return Finding("next", clause, tuple(lines), facts=facts)
        where = "the pilot" if len(pilots) == 1 else f"the {len(pilots)} pilots"
        avoided = [p for p in pilots if work in p.avoided]
        crowded = [p for p in pilots if p.is_crowded(work.depth)]
        if not (work.need.cores or avoided or crowded):
            places = sum(map(assignment.coreless_of, pilots))
            facts["coreless"] = places
            clause = (
                f"needs no core and is ready, but {where} that can run it "
                f"{'has' if len(pilots) == 1 else 'have'} {counted(places, 'task')} without a core "
                "already, and no more run at a time"
            )
            line = Cause("coreless", "how many run on each node says coreless_per_node of the pool")
            return Finding("busy", clause, (line, *lines), advice, facts)
        clause = f"is ready, but all {counted(cores, 'core')} of {where} that can run it are busy"
        if not work.need.cores or any(
            p.load < assignment.cores_of(p) for p in (*avoided, *crowded)
        ):
            clause = f"is ready, but there is no room for it in {where} that can run it"
        users = sorted(
            (s for s in self._core.sessions.values() if s.load), key=lambda s: (-s.load, s.id)
        )
        text = ", ".join(
            f"session {s.id} has {counted(s.load, 'core')}"
            + (" (this one)" if s is work.session else "")
            for s in users[:SHOWN]
        )
        if len(users) > SHOWN:
            text += f", and {counted(len(users) - SHOWN, 'other session')} the rest"
        shares = {str(s.id): s.load for s in users[:SHOWN]}
        lines = [
            Cause("cores", f"of the cores in use, {text}", facts=shares),
            *(
                Cause(
                    "avoided", f"{self.pilot_name(p.name)} did not start the last task of its kind"
                )
                for p in avoided[:SHOWN]
            ),
            *(
                Cause(
                    "crowded",
                    f"{self.pilot_name(p.name)} has {counted(len(p.waits), 'task')} that wait for "
                    "others: no more of them begin before some go on",
                    facts={"pilot": p.name, "waiting": len(p.waits)},
                )
                for p in crowded[:SHOWN]
            ),
            *lines,
        ]
        told = {line.kind: line.text for line in lines}
        troubles = ("silence", "lost", "refused", "queued")
        for kind in (*troubles, HELD, ADMIN, BUDGET, SCALED, MAX_NODES):
            if kind in told:
                clause += f", and {told[kind]}"
                break
        return Finding("busy", clause, tuple(lines), advice, facts)

    def booking_of(self, pilot: Pilot) -> BookingInfo | None:
        """Return what a pilot keeps for a task that waits there, as it said last."""
        row = self._outlook.rows.get(pilot.name)
        return None if row is None else row.booking

    def place(self, task: Task) -> tuple[Cause, ...]:
        """Return how many tasks go before a ready one, as causes."""
        work = task.task_class
        own = 0
        found = False
        for each in islice(work.queue, LOOK_QUEUE):
            if each is task:
                found = True
                break
            own += each.state == READY
        mine = assignment.order(work)[:3]
        higher: dict[int, int] = {}
        sharing: dict[int, int] = {}
        for other in self._core.classes.values():
            if other in work.versions or not other.ready or other.session.rests:
                continue
            if not any(
                not assignment.why_unfit(work, p, self._now)
                and not assignment.why_unfit(other, p, self._now)
                for p in self._core.pilots.values()
            ):
                continue
            its = assignment.order(other)[:3]
            if its <= mine:
                counts = higher if its < mine else sharing
                # One that starves gets one task before all others.
                count = 1 if its[0] < mine[0] else other.ready
                counts[other.session.id] = counts.get(other.session.id, 0) + count
        before = own + sum(higher.values())
        parts = [f"{own} of its own kind"] if own else []
        parts += [
            f"{count} of session {session}, of higher priority"
            for session, count in list(higher.items())[:SHOWN]
        ]
        text = "it is the first in line"
        if before:
            least = "" if found else "more than "
            go = "goes" if before == 1 else "go"
            text = f"{least}{counted(before, 'ready task')} {go} before it: {', '.join(parts)}"
        lines = [Cause("line", text, facts={"before": before, "own": own, "higher": higher})]
        if sharing:
            weights = self._core.sessions
            shares = ", ".join(
                f"{counted(count, 'task')} of session {session}"
                + (f" (weight {weights[session].weight:g})" if session in weights else "")
                for session, count in list(sharing.items())[:SHOWN]
            )
            text = (
                f"it takes turns with {shares}: sessions of the same priority share the cores by "
                f"weight, and this one has {work.session.weight:g}"
                if set(sharing) != {work.session.id}
                else f"it takes turns with {shares}, of the same priority"
            )
            lines.append(Cause("share", text, facts={"sharing": sharing}))
        return tuple(lines)

    def _short_line(self, work: TaskClass) -> Callable[[Pilot], Cause]:
        required_s = assignment.required_walltime_s(work)
        limit_s, mean_s = work.time_limit_s, work.mean_s or 0.0
        if required_s >= (limit_s or 1.5 * mean_s):
            reason = "its time limit" if limit_s else "1.5 times the mean of its kind"
        else:
            reason = "nearly all that a new pilot of the longest walltime has, since its " + (
                f"time limit is {duration(limit_s)}"
                if limit_s
                else f"kind takes {duration(mean_s)} on average"
            )
        wanted = f"it needs {duration(required_s)}, {reason}, and {assignment.DRAIN_S:g} s to spare"

        def line(pilot: Pilot) -> Cause:
            left_s = pilot.ends_at - self._now
            text = f"{self.pilot_name(pilot.name)} ends in {duration(left_s)}: {wanted}"
            facts = {"left_s": left_s, "required_walltime_s": required_s, "ends_at": pilot.ends_at}
            return Cause("walltime", text, facts=facts)

        return line

    def _would_fit(self, work: TaskClass, pilot: Pilot) -> bool:
        return assignment.why_unfit(work, pilot, self._now) in ("", assignment.TOO_SHORT)

    # --- pilots to come

    def _coming(self, work: TaskClass) -> list[PilotRow]:
        """Return the queued pilots that could run the tasks, the soonest first."""
        pools = {pool.name: pool for pool in self._outlook.pools}
        found = [
            row
            for row in self._outlook.rows.values()
            if row.name not in self._core.pilots
            and not row.draining
            and row.pool in pools
            and not assignment.why_unfit(
                work,
                _Planned(
                    row.pool,
                    pools[row.pool].shape,
                    row.nodes,
                    ends_at=self._now + row.walltime if row.walltime else 0.0,
                ),
                self._now,
            )
        ]
        found.sort(key=lambda r: (r.job_runs_since is None, r.state != QUEUED, r.expected or 9e99))
        return found

    def _coming_line(self, row: PilotRow) -> Cause:
        system = self._outlook.kind
        facts: dict[str, Any] = {"pilot": row.name, "job": row.job, "reason": row.waits_for}
        size = f"{counted(row.nodes, 'node')} of pool {row.pool}"
        if row.job_runs_since is not None:
            how = (
                f"does not reach this head {row.unreached}"
                if row.unreached
                else f"has not reported itself; its output is in jobs/{row.job}.out"
            )
            text = (
                f"job {row.job} ({size}) runs for {duration(self._now - row.job_runs_since)}, and "
                f"its pilot {how}"
            )
            return Cause("starting", text, facts={**facts, "since": row.job_runs_since})
        if row.suspended:
            text = f"job {row.job} ({size}) is SUSPENDED, before its pilot has reported itself"
            return Cause("suspended", text, facts=facts)
        if row.state != QUEUED:
            text = f"a job for {size} is being submitted since {duration(self._now - row.created)}"
            return Cause("submitting", text, facts={**facts, "since": row.created})
        text = f"job {row.job} ({size}) waits in {system.title}"
        if row.waits_for:
            text += f" for {duration(self._now - (row.submitted or row.created))}: {row.waits_for}"
            if meaning := system.meaning(row.waits_for, row.job or ""):
                text += f" ({meaning})"
        else:
            text += ", which has not said for what"
        if row.expected is None:
            text += "; no start is estimated"
        elif row.expected > self._now:
            text += (
                f"; estimated start {moment(row.expected)}, in {duration(row.expected - self._now)}"
            )
        else:
            text += "; it is expected to start any moment"
        facts |= {"since": row.submitted or row.created, "expected": row.expected}
        return Cause("queued", text, facts=facts)

    def _no_answer(self) -> list[Cause]:
        outlook = self._outlook
        if not outlook.silence:
            return []
        text = (
            f"{outlook.kind.title} has not answered since {moment(outlook.silent_since)} "
            f"({first_line(outlook.silence)})"
        )
        return [Cause("silence", text, facts={"since": outlook.silent_since})]

    def _growth(self, work: TaskClass) -> tuple[PoolLimits | None, list[Cause]]:
        """Return the pool that grows for the tasks, and why it grows no further."""
        required_s = assignment.required_walltime_s(work)
        demand = ClassDemand(work.need, work.pool, max(1, work.ready), work.mean_s, required_s)
        if self._standings is None:
            outlook = self._outlook
            self._standings = standings(outlook.pools, self._core.demand(), outlook.supply)
        its = next((each for each in self._standings if holds(each.pool, demand)), None)
        if its is None:
            return None, []
        pool = its.pool
        lines = []
        if losses := self._outlook.losses.get(pool.name):
            wait = losses.until - self._now
            again = (
                f"next try at {moment(losses.until)}, in {duration(wait)}"
                if wait > 0
                else "trying again with one"
            )
            facts = {"until": losses.until, "pilots": losses.count, "job": losses.job}
            lines.append(Cause("lost", f"{losses.describe(pool.name)}; {again}", facts=facts))
        refused = self._outlook.refused.get(pool.name)
        if refused is not None and its.blocked_by in ("", AT_ONCE):
            wait = refused.until - self._now
            again = (
                f"next try at {moment(refused.until)}, in {duration(wait)}"
                if wait > 0
                else "trying again"
            )
            text = (
                f"{self._outlook.kind.title} took no pilot of pool {pool.name} "
                f"({first_line(refused.error)}); {again}"
            )
            facts = {"until": refused.until, "error": refused.error}
            lines.append(Cause("refused", text, facts=facts))
        if text := hindrance(its):
            facts = {"pool": pool.name, "max_nodes": pool.max_nodes, "have": its.have}
            lines.append(Cause(its.blocked_by, text, facts=facts))
        return pool, lines

    def _advice(self, kind: str, pool: PoolLimits | None) -> Iterator[str]:
        if pool is None:
            return
        site_file = f"{self._head.get('directory')}/site.yaml"
        reread = "it holds after `pilot head stop --leave-pilots` and `pilot head start`"
        if kind in (MAX_NODES, AT_ONCE):
            yield f"for more nodes, raise max_nodes of pool {pool.name} in {site_file}; {reread}"
        elif kind == BUDGET:
            yield f"for more node-hours, raise budget of pool {pool.name} in {site_file}; {reread}"
        elif kind == HELD:
            yield f"`pilot fleet resume {pool.name}` lets pilots come again"
        elif kind == SCALED:
            yield f"`pilot fleet scale {pool.name} auto` lets the pool follow its work again"
        elif kind == MAX_QUEUED:
            yield (
                f"to queue more pilots, raise max_pilots_queued of pool {pool.name} in "
                f"{site_file}; {reread}"
            )
        elif kind == "lost":
            losses = self._outlook.losses[pool.name]
            output = f"see what {self._head.get('directory')}/jobs/{losses.job}.out says" + (
                "" if losses.output else ", if it is there"
            )
            more = self._outlook.kind.losing_keys
            yield (
                f"{output}; mend environment.setup, environment.python, or the pool {pool.name} in "
                f"{site_file}, where one of these is wrong{more and f'; {more}'}; {reread}"
            )
        elif kind == "refused":
            keys = self._outlook.kind.asking_keys
            yield f"mend {keys} of pool {pool.name} in {site_file}; {reread}"

    def is_suspended(self, pilot: Pilot) -> bool:
        """Tell whether the job of a pilot is suspended."""
        row = self._outlook.rows.get(pilot.name)
        return row is not None and row.suspended

    def pilot_name(self, name: str) -> str:
        row = self._outlook.rows.get(name)
        return f"pilot {name}" + (f" (job {row.job})" if row and row.job else "")

    def pilot_line(self, pilot: Pilot) -> Cause:
        row = self._outlook.rows.get(pilot.name)
        text = f"it is with {self.pilot_name(pilot.name)} of pool {pilot.pool}"
        if pilot.ends_at:
            text += f", whose walltime ends in {duration(pilot.ends_at - self._now)}"
        if row is not None and row.suspended:
            advice = self._outlook.kind.resume_advice(row.job or "")
            text += f"; its job is SUSPENDED, and stands still: {advice}"
        elif row is not None and row.heard and self._now - row.heard > SILENT_S:
            text += f"; it has been silent for {duration(self._now - row.heard)}"
        return Cause("pilot", text, facts={"pilot": pilot.name, "job": row.job if row else None})


def _listed(parts: Iterable[str]) -> str:
    """Join names or clauses into one text."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
