"""The attempts that are in a pilot, from the head's assignment to its report. Pure.

Invariants
----------
- Every attempt that came in ends in exactly one completion, or is still in here.
- A task is here once: of two attempts, the older one's end is told as that of the newer.
- Work waits in a queue only once all its inputs are there, and only while the pilot has the nodes
  for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from pilot.agent.rules.completions import ended
from pilot.agent.rules.cores import Cores
from pilot.agent.rules.inputs import Inputs
from pilot.agent.rules.queues import Queue, Queues
from pilot.model.tasks import Completion, Template
from pilot.scheduler.amounts import Amounts
from pilot.wire.messages.pilot import AttemptSpec


class Attempts:
    """The attempts in a pilot, and the completions still to be reported."""

    def __init__(self, queues: Queues, cores: Cores, now: float) -> None:
        self.queues = queues
        self.templates: dict[int, Template] = {}
        #: Task → attempt.
        self.held: dict[int, int] = {}
        #: The amounts of the site that tasks here hold, by task.
        self.site_held: dict[int, Amounts] = {}
        #: When something came or ended last.
        self.busy_at = now
        self._cores = cores
        self._received: dict[int, float] = {}
        self._inputs = Inputs()
        self._completions: list[Completion] = []

    def take_completions(self) -> list[Completion]:
        """Return the completions to be reported to the head, and clear them."""
        completions, self._completions = self._completions, []
        return completions

    # --- what comes

    def add(self, templates: Iterable[Template], work: Iterable[AttemptSpec], now: float) -> None:
        """Take in work that the head has assigned; queue what has all its inputs."""
        for template in templates:
            self.templates[template.id] = template
            self.queues.add_template(template)
        for item in work:
            if item.task in self.held:
                # An older attempt is still here: its end is told as that of the newer one.
                self.held[item.task] = item.attempt
                continue
            self.held[item.task] = item.attempt
            self._received[item.task] = now
            if site := self.templates[item.template].resources.site:
                self.site_held[item.task] = site
            try:
                ready = self._inputs.add(item, self.held)
            except LookupError as error:
                self.report(ended(item, "interrupted", str(error), now))
                continue
            if ready is None:
                continue
            queue = self.queues.of(ready)
            if self._can_run(queue):
                self.queues.push(queue, ready)
            else:
                self.report(self._misfit(ready, now))
        self.busy_at = now

    def forget(self, tasks: Iterable[int]) -> None:
        """Drop the results of tasks whose ends the head has committed."""
        self._inputs.forget(tasks)

    def sessions(self) -> set[int]:
        """Return the sessions that have waiting work here."""
        early = {self.templates[work.template].session for work in self._inputs.waiting()}
        return early.union(queue.session for queue in self.queues.waiting)

    def forget_session(self, session: int) -> None:
        """Forget an ended session that has no attempt here."""
        for template in self.queues.forget(session):
            del self.templates[template]

    # --- what goes unstarted

    def cancel(self, tasks: Collection[int], now: float) -> None:
        """Report as cancelled those of `tasks` that wait."""
        for queue in self.queues.waiting:
            for work in self.queues.take(queue, tasks):
                self.report(ended(work, "cancelled", "cancelled before it started", now))
        for work in self._inputs.take(tasks):
            self.report(ended(work, "cancelled", "cancelled before it started", now))

    def return_to_head(self, tasks: Collection[int], reason: str, now: float) -> None:
        """Return to the head those of `tasks` that wait for cores with all their inputs."""
        for queue in self.queues.waiting:
            for work in self.queues.take(queue, tasks):
                self.report(ended(work, "interrupted", reason, now))

    def hand_back(self, reason: str, now: float) -> None:
        """Return all waiting work to the head."""
        for queue in self.queues.waiting:
            self._hand_back_queue(queue, reason, now)
        self.hand_back_early(reason, now)

    def hand_back_early(self, reason: str, now: float) -> None:
        """Return to the head the work that waits for inputs."""
        for work in self._inputs.take():
            self.report(ended(work, "interrupted", reason, now))

    def hand_back_misfits(self, now: float) -> None:
        """Return to the head the waiting work that the remaining nodes can never run."""
        for queue in self.queues.waiting:
            if not self._can_run(queue):
                self._hand_back_queue(queue, self._nodes_left(), now)

    def put_back(self, work: AttemptSpec, now: float) -> None:
        """Put a task that was popped and has not run back at the front of its class."""
        queue = self.queues.of(work)
        if self._can_run(queue):
            self.queues.put_back(queue, work)
        else:
            self.report(self._misfit(work, now))

    def take_back(self, work: AttemptSpec, cancelled: bool, now: float) -> None:
        """Queue a task again that was sent ahead and skipped, or whose result is lost; report it as
        cancelled if `cancelled`."""
        if cancelled:
            self.report(ended(work, "cancelled", "cancelled before it started", now))
        else:
            self.put_back(work, now)

    def _hand_back_queue(self, queue: Queue, reason: str, now: float) -> None:
        for work in self.queues.pop(queue, len(queue.waiting)):
            self.report(ended(work, "interrupted", reason, now))

    def _can_run(self, queue: Queue) -> bool:
        """Tell whether enough nodes are left for tasks of this class."""
        return queue.nodes is not None and queue.nodes <= len(self._cores.hosts)

    def _misfit(self, work: AttemptSpec, now: float) -> Completion:
        """Return the completion of a task that the remaining nodes can never run."""
        return ended(work, "interrupted", self._nodes_left(), now)

    def _nodes_left(self) -> str:
        return f"the pilot has {len(self._cores.hosts)} nodes left"

    # --- what ends

    def report(self, completion: Completion) -> None:
        """Report a completion to the head, and queue the tasks that waited for it here."""
        ends = [completion]
        while ends:
            completion = ends.pop()
            self._report_one(completion)
            ready, hopeless = self._inputs.ended(completion)
            for work in ready:
                queue = self.queues.of(work)
                if self._can_run(queue):
                    self.queues.push(queue, work)
                    self.queues.look_again = True
                else:
                    ends.append(self._misfit(work, completion.ended))
            reason = "its input has not come"
            ends.extend(ended(work, "interrupted", reason, completion.ended) for work in hopeless)

    def _report_one(self, completion: Completion) -> None:
        attempt = self.held.pop(completion.task, None)
        if attempt is None:
            return
        if self.site_held:
            self.site_held.pop(completion.task, None)
        if attempt != completion.attempt:
            # The older attempt was to be ended, the newer one never ran.
            outcome = completion.outcome
            completion = msgspec.structs.replace(
                completion,
                attempt=attempt,
                outcome="interrupted" if outcome == "cancelled" else outcome,
            )
        received = self._received.pop(completion.task, 0.0)
        if not completion.received:
            completion = msgspec.structs.replace(completion, received=received)
        self._completions.append(completion)
