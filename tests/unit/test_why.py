"""Why a task is not done, as a pure function of what the head knows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.builders import done, spec, template

from pilot.client.query_client import in_words
from pilot.errors import PilotError
from pilot.head.core import events as ev
from pilot.head.core.core import Core
from pilot.head.explain import explain as w
from pilot.head.explain import session as why_session
from pilot.head.explain import walk
from pilot.head.explain.report import Answer, Snapshot
from pilot.head.outlook import QUEUED, PilotRow, ProvisioningView, halted
from pilot.head.outlook import RUNNING as JOINED
from pilot.head.setbacks import Losses, Refusal
from pilot.head.store.batch import Batch
from pilot.head.store.store import Store
from pilot.model.ids import task_label
from pilot.model.tasks import Children, Environment, TaskFailure
from pilot.model.values import Value
from pilot.scheduler.amounts import UNIT
from pilot.scheduler.batch import Stuck, find_kind
from pilot.scheduler.elasticity import HELD, Halt, PilotSupply, PoolLimits
from pilot.scheduler.resources import NodeShape, Resources, needs, node_shape
from pilot.wire.messages.client import OpenSession
from pilot.wire.messages.pilot import BookingInfo, InputFetch, RunningTask

ENVIRONMENT = Environment("/home", (), {})
NOW = 1000.0


class Head:
    """A database and a core, with a fleet that the test makes up; time stands at `NOW`."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path)
        self.pools = [PoolLimits("main", node_shape(4, 8000), 0, 2, 2, 2, 3600.0)]
        self.core = Core(self.pools)
        self.batch = Batch()
        self.running: dict[int, RunningTask] = {}
        self.fetches: dict[str, list[InputFetch]] = {}
        self.rows: dict[str, PilotRow] = {}
        self.refused: dict[str, Refusal] = {}
        self.losses: dict[str, Losses] = {}
        self.silence = ""
        self.status: dict[str, Any] = {"pid": 1, "directory": "/site"}
        self.opened = 0
        self.open()

    def open(self, **changes: Any) -> int:
        session = self.store.add_session(OpenSession(1, "study", ENVIRONMENT), NOW)
        self.apply(ev.SessionOpened(session, **changes))
        return session

    def apply(self, event: ev.Event, now: float = NOW) -> ev.Effects:
        effects = self.core.apply(event, now)
        self.batch.add_tasks(effects.accepted)
        self.batch.add_attempts(effects.attempts, now)
        self.batch.add_ends(effects.ended)
        self.batch.add_delegated(effects.delegated)
        return effects

    def submit(
        self, *specs: Any, known: Any = None, session: int = 1, number: int = 1, **changes: Any
    ) -> None:
        known = known or template(number, session, **changes)
        self.batch.add_templates([known])
        self.apply(ev.TasksSubmitted(session, [known], list(specs), {}))

    def join(self, name: str = "p", cores: int = 4, ends_at: float = 0.0, nodes: int = 1) -> None:
        self.rows[name] = PilotRow(name, "main", nodes, 3600.0, JOINED, "7", "work", NOW - 100.0)
        self.apply(ev.PilotJoined(name, "main", node_shape(cores, 8000), nodes, ends_at, []))

    def queue(self, name: str, nodes: int = 1, **changes: Any) -> PilotRow:
        row = PilotRow(name, "main", nodes, 3600.0, QUEUED, "8", "work", NOW - 60.0, **changes)
        self.rows[name] = row
        return row

    def write(self) -> None:
        ended = threading.Event()
        self.store.write(self.batch, lambda _: ended.set())
        assert ended.wait(20)
        self.store.join()
        self.batch = Batch()

    def why(self, subject: str | None, now: float = NOW) -> Answer:
        self.write()
        supply = [
            PilotSupply(
                row.name,
                row.pool,
                row.nodes,
                queued=row.state != JOINED,
                comes=row.stuck is not Stuck.ADMIN,
                left_s=(self.core.pilots[row.name].ends_at or 9e9) - now
                if row.state == JOINED
                else row.walltime,
            )
            for row in self.rows.values()
        ]
        outlook = ProvisioningView(
            find_kind("slurm"),
            self.pools,
            supply,
            self.rows,
            self.refused,
            self.silence,
            NOW - 30.0,
            self.losses,
        )
        facts = Snapshot(
            now, self.core, self.running, outlook, self.store, self.status, self.fetches
        )
        return w.explain(facts, subject)

    def task(self, number: int) -> Answer:
        return self.why(task_label(number))


def kinds(answer: Answer) -> list[str]:
    return [cause.kind for cause in answer.because]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    head = Head(tmp_path / "tasks.db")
    yield head
    head.store.close()


# --- chains --------------------------------------------------------------------------------------


def test_a_long_chain_is_followed_to_its_end_and_told_in_short(head: Head) -> None:
    length = 3000
    head.submit(*(spec(n, needs=(n - 1,) if n > 1 else ()) for n in range(1, length + 1)))
    found = head.task(length)
    assert found.answer.startswith(
        f"task 0.{length} (t1) waits for task 0.1 (t1), {length - 1} tasks back, which is ready"
    )
    depth, cause = 0, found.because[0]
    texts = [cause.text]
    while cause.because and depth < 20:
        depth, cause = depth + 1, cause.because[0]
        texts.append(cause.text)
    assert depth <= 8 and any("and so on over" in text for text in texts)
    assert texts[0] == f"task 0.{length} (t1) needs its input task 0.{length - 1} (t1)"


def test_no_more_than_so_many_tasks_are_looked_at(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "LOOK_TASKS", 50)
    head.submit(*(spec(n) for n in range(1, 201)), spec(201, needs=tuple(range(1, 201))))
    found = head.task(201)
    assert found.because[-1].kind == "more"
    assert "only the first 51 tasks on the way were looked at" in found.because[-1].text


def test_inputs_that_wait_for_different_things(head: Head) -> None:
    head.join(cores=1)
    head.submit(spec(1), spec(2), spec(3), spec(9, needs=(1, 2, 3)))
    head.core.assign(NOW - 100.0)
    head.running[1] = RunningTask(1, 1, "n1", NOW - 90.0)
    head.apply(ev.AttemptsRunning("p", [head.running[1]]), NOW - 90.0)
    found = head.task(9)
    # What does not run yet comes first.
    assert found.kind == "busy" and "(and for 2 other tasks)" in found.answer
    assert "needs 3 of 3 inputs still, such as task 0.2" in found.because[0].text
    assert "runs for 1m 30s on node n1" in in_words_of(found)


def in_words_of(answer: Answer) -> str:
    return in_words(msgspec.to_builtins(answer))


def test_a_task_that_others_precede_names_them(head: Head) -> None:
    head.join(cores=1)
    head.submit(
        spec(1), spec(2, after=(1,)), spec(3, needs=(2,)), spec(4, needs=(1,), after=(1, 2))
    )
    head.core.assign(NOW - 100.0)
    found = head.task(2)
    assert found.answer.startswith("task 0.2 (t1) waits for the end of task 0.1 (t1), which was")
    assert found.because[0].text == "task 0.2 (t1) starts after the end of task 0.1 (t1)"
    texts = in_words_of(head.task(3))
    assert "task 0.3 (t1) needs its input task 0.2 (t1)" in texts
    assert "task 0.2 (t1) starts after the end of task 0.1 (t1)" in texts
    assert "waits for an input: task 0.1 (t1)" in head.task(4).answer


def test_without_a_head_the_database_tells_the_order(head: Head) -> None:
    head.submit(spec(1), spec(2, after=(1,)))
    head.write()
    head.core, head.status = Core(head.pools), {"directory": "/site"}
    found = head.task(2)
    assert found.answer.startswith("task 0.2 (t1) waits for the end of task 0.1 (t1), which is")
    assert found.because[0].text == "task 0.2 (t1) starts after the end of task 0.1 (t1)"


def test_what_was_cancelled_for_another_one_names_the_first(head: Head) -> None:
    head.join()
    known = template(1, 1, on_failure="cancel_successors")
    head.submit(spec(1), spec(2, needs=(1,)), spec(3, needs=(2,)), known=known)
    head.core.assign(NOW)
    head.apply(ev.AttemptsEnded("p", [done(1, "error")]))
    found = head.task(3)
    assert (found.state, found.kind) == ("CANCELLED", "cancelled")
    assert "its input, task 0.1 (t1), is FAILED: ValueError: as told" in found.answer
    assert found.because[0].text.startswith("task 0.1 (t1) has failed: ValueError")


@pytest.mark.parametrize(
    ("options", "outcome", "words"),
    [
        ({"no_retry_on": ("KeyError", "ValueError")}, "error", "ValueError is in no_retry_on"),
        ({"retry_on": ("exit 3",)}, "error", "it is tried again only after exit 3 (retry_on)"),
        ({"time_limit_s": 3.0}, "timeout", "is tried again only with retry_timeouts"),
        ({"retries": 0, "no_retry_on": ("ValueError",)}, "error", ""),
    ],
)
def test_what_kept_a_retry_away_is_told(
    head: Head, options: dict[str, Any], outcome: Any, words: str
) -> None:
    head.join()
    head.submit(spec(1), known=template(1, 1, **{"retries": 2, **options}))
    head.core.assign(NOW)
    head.apply(ev.AttemptsEnded("p", [done(1, outcome)]))
    told = [cause.text for cause in head.task(1).because if "it has" in cause.text]
    assert len(told) == bool(words) and all(words in text for text in told)


def test_what_was_aborted_leads_to_what_failed(head: Head) -> None:
    head.join()
    head.submit(spec(1), spec(2, needs=(1,)), spec(3, needs=(2,)))
    head.core.assign(NOW)
    head.apply(ev.AttemptsEnded("p", [done(1, "error")]))
    found = head.task(3)
    assert (found.state, found.kind) == ("ABORTED", "failed")
    assert "because of task 0.1 (t1), 2 tasks back, which has failed: ValueError" in found.answer
    assert "`pilot task logs 0.1` has what it wrote" in found.advice


def test_a_delegated_result_is_followed_to_the_child_that_has_it(head: Head) -> None:
    head.join()
    known = template(1, returns=2, return_names=("own", "childs"))
    head.submit(spec(1), known=known)
    head.core.assign(NOW)
    child, grandchild = 10, 20
    for parent, number, index in ((1, child, 1), (child, grandchild, 0)):
        delegated = {index: (number, 0)}
        children = Children((), (template(number),), (spec(number, number),), delegated)
        values = (Value(1, b"x"), Value(0))[: index + 1]
        head.batch.add_templates([template(number)])
        end = done(parent, values=values, children=children)
        head.apply(ev.AttemptsEnded("p", [end]))
        head.core.assign(NOW)
    head.running[grandchild] = RunningTask(grandchild, 1, "n1", NOW - 5.0)
    head.apply(ev.AttemptsRunning("p", [head.running[grandchild]]))
    found = head.why("0.1/childs")
    assert "result childs of task 0.1 (t1) is that of task 0.20 (t20)" in found.answer
    assert found.kind == "runs" and "runs for 5.0 s on node n1" in found.answer
    assert head.why("0.1[1]").answer.endswith("runs for 5.0 s on node n1")
    assert "waits for task 0.20 (t20), 2 tasks back" in head.task(1).answer
    with pytest.raises(PilotError, match="has no result 'sum'; it has own, childs"):
        head.why("0.1/sum")


# --- ready tasks ---------------------------------------------------------------------------------


def test_no_pool_fits_and_the_nearest_is_named(head: Head) -> None:
    head.pools.append(PoolLimits("big", node_shape(64, 1000), 0, 1, 1, 2, 3600.0))
    head.submit(spec(1), resources=needs(8, memory_mib=2000, gpus=1))
    found = head.task(1)
    assert found.kind == "impossible"
    assert "it needs 8 cores, 2000 MiB, 1 GPU, but a node of pool 'main' has 4" in found.answer


def test_a_mean_that_takes_nearly_all_of_a_walltime(head: Head) -> None:
    head.join(ends_at=NOW + 1800.0)
    head.submit(spec(1))
    next(iter(head.core.classes.values())).mean_s = 3000.0
    found = head.task(1)
    assert found.kind == "walltime"
    assert (
        "it needs 52m 52s, nearly all that a new pilot of the longest walltime has, since its kind "
        "takes 50m 00s on average"
    ) in found.because[0].text
    # The next pilot is about to be asked for, and is what it waits for then.
    assert kinds(found) == ["walltime"]
    head.queue("q", waits_for="Resources")
    assert head.task(1).kind == "queued"
    # A pilot that has just begun gets it.
    head.core.pilots["p"].ends_at = NOW + 3580.0
    assert head.task(1).kind == "next"
    assert head.core.assign(NOW)


def test_pilots_that_end_too_soon(head: Head) -> None:
    head.join(ends_at=NOW + 100.0)
    head.submit(spec(1), time_limit_s=90.0)
    found = head.task(1)
    assert found.kind == "walltime"
    assert found.facts == {"left_s": 100.0, "required_walltime_s": 90.0, "ends_at": NOW + 100.0}
    assert kinds(found) == ["walltime"], "one node is not enough"
    # Nor are two; but it may have no more.
    head.join("q", ends_at=NOW + 100.0)
    assert kinds(head.task(1)) == ["walltime", "walltime", "max_nodes"]


def test_a_job_that_would_end_too_soon_is_not_what_it_waits_for(head: Head) -> None:
    head.pools.insert(0, PoolLimits("short", node_shape(4, 8000), 0, 2, 2, 2, 600.0))
    head.submit(spec(1), time_limit_s=900.0)
    head.rows["s"] = PilotRow("s", "short", 1, 600.0, QUEUED, "9", "work", NOW)
    assert head.task(1).kind == "next"
    head.queue("q", waits_for="Resources")
    found = head.task(1)
    assert found.kind == "queued" and "job 9" not in in_words_of(found)


def test_a_queued_job_with_a_reason_and_an_expected_start(head: Head) -> None:
    head.submit(spec(1))
    head.queue("q", submitted=NOW - 50.0, waits_for="Priority", expected=NOW + 600.0)
    found = head.task(1)
    assert found.kind == "queued"
    assert "job 8 (1 node of pool main) waits in Slurm for 50.0 s: Priority" in found.answer
    assert "(jobs of higher priority go first); estimated start" in found.answer
    assert "in 10m 00s" in found.answer
    assert found.facts["expected"] == NOW + 600.0


@pytest.mark.parametrize("reason", ["QOSMaxJobsPerUserLimit", "AssocGrpNodeLimit"])
def test_limits_of_a_site_are_named_so(head: Head, reason: str) -> None:
    head.submit(spec(1))
    head.queue("q", waits_for=reason)
    assert "a limit of your account, partition or quality of service" in head.task(1).answer


def test_a_job_that_runs_without_a_word_of_its_pilot(head: Head) -> None:
    head.submit(spec(1))
    head.queue("q", job_runs_since=NOW - 20.0)
    found = head.task(1)
    assert found.kind == "starting" and "its output is in jobs/8.out" in found.answer


def test_a_job_that_is_too_small_is_not_what_it_waits_for(head: Head) -> None:
    head.submit(spec(1), resources=Resources(cores=4, ranks=2))
    head.queue("q", nodes=1, waits_for="Resources")
    head.rows["r"] = PilotRow("r", "main", 1, 3600.0, QUEUED, "9", "work", NOW)
    found = head.task(1)
    assert "job 8" not in in_words_of(found)
    assert found.kind == "max_nodes"


def test_slurm_that_does_not_answer_and_slurm_that_refuses(head: Head) -> None:
    head.submit(spec(1))
    head.refused["main"] = Refusal(NOW + 40.0, 40.0, "sbatch: error: Invalid account\nmore")
    found = head.task(1)
    assert found.kind == "refused" and "(sbatch: error: Invalid account)" in found.answer
    assert found.facts["until"] == NOW + 40.0
    head.silence = "squeue gave no answer within 30 s"
    found = head.task(1)
    assert found.kind == "silence" and "squeue gave no answer within 30 s" in found.answer
    assert kinds(found) == ["silence", "refused"]


def test_pilots_that_end_before_they_have_worked(head: Head) -> None:
    head.submit(spec(1))
    losses = Losses()
    for job in range(17, 21):
        losses.add(NOW + 100.0 * job, NOW + 100.0 * job, str(job), "its job has ended: failed")
    losses.output = "module: command not found"
    losses.until = NOW + 40.0
    head.losses["main"] = losses
    found = head.task(1)
    assert found.kind == "lost"
    assert "the last 4 pilots of pool main ended before they had worked" in found.answer
    assert "jobs/20.out ends with: module: command not found; next try at" in found.answer
    assert any("jobs/20.out" in advice for advice in found.advice)
    # The next one is on its way; that is not what keeps the task.
    head.queue("q")
    assert head.task(1).kind == "lost"


def test_a_suspended_pilot_is_told_as_such(head: Head) -> None:
    head.join(cores=1)
    head.submit(spec(1))
    head.core.assign(NOW)
    for row in head.rows.values():
        row.suspended, row.heard = True, NOW - 300.0
    found = head.why(task_label(1), now=NOW + 60.0)
    assert "its job is SUSPENDED, and stands still: `scontrol resume" in in_words_of(found)
    assert "silent" not in in_words_of(found)


def test_a_pilot_about_to_be_asked_for(head: Head) -> None:
    head.submit(spec(1))
    assert head.task(1).kind == "next"


def test_as_many_pilots_in_the_queue_as_may_be(head: Head) -> None:
    head.pools = [PoolLimits("main", NodeShape(4), 0, 8, 1, 1, 3600.0)]
    head.join(cores=1)
    head.submit(*(spec(n) for n in range(1, 50)))
    head.core.assign(NOW)
    head.queue("q", waits_for="Resources")
    found = head.task(5)
    assert found.kind == "busy" and "max_queued" in kinds(found)
    assert "waits in Slurm" in found.answer


def test_silent_pilot_in_an_allocation_keeps_what_the_site_has_once_until_a_user_says_more(
    head: Head,
) -> None:
    head.core.site.total, head.core.site.used = {"licence": UNIT}, {"licence": 0}
    head.submit(spec(1), resources=needs(site={"licence": UNIT}))
    head.queue("q", own=True, left_alone=True)
    advice = "if nothing of pilot q (job 8) runs any more, `pilot fleet cancel q` frees what"
    head.core.site.unheard.add("q")
    found = head.task(1)
    assert found.kind == "unheard" and found.advice[0].startswith(advice)
    head.core.site.replace("q", [(7, (("licence", UNIT),))])
    found = head.task(1)
    assert found.kind == "resources" and found.advice[0].startswith(advice)


def test_a_pool_that_a_user_has_ordered_something_for(head: Head) -> None:
    limits = PoolLimits("main", NodeShape(4), 0, 8, 1, 1, 3600.0)
    held = Halt(HELD, "it is held by hand: maintenance")
    head.pools = [msgspec.structs.replace(limits, halt=held)]
    head.submit(spec(1))
    found = head.task(1)
    assert found.kind == "held"
    assert found.answer.endswith(
        "is ready, but pool main gets no new pilots: it is held by hand: maintenance"
    )
    assert found.advice == ("`pilot fleet resume main` lets pilots come again",)
    head.pools = halted([limits], [head.queue("q", stuck=Stuck.ADMIN, waits_for="JobHeldAdmin")])
    found = head.task(1)
    assert found.kind == "queued" and "JobHeldAdmin (an administrator holds it)" in found.answer
    assert kinds(found) == ["queued", "administrator"]
    assert found.because[1].text == "pool main gets no new pilots: an administrator holds job 8"
    (advice,) = found.advice
    assert "ask the administrators why they hold job 8" in advice
    del head.rows["q"]
    words = "scaled to 0 nodes by hand: a demonstration"
    head.pools = [msgspec.structs.replace(limits, max_nodes=0, scaled=words)]
    found = head.task(1)
    assert found.kind == "scaled" and found.answer.endswith(f"it is {words}")
    assert found.advice == ("`pilot fleet scale main auto` lets the pool follow its work again",)


def test_a_session_whose_budget_is_used_up(head: Head) -> None:
    head.join()
    head.submit(spec(1))
    head.apply(ev.BudgetChanged(1, True))
    found = head.task(1)
    assert found.kind == "budget"
    assert found.answer.endswith("is ready, but the budget of session 1 is used up")
    assert found.advice == ("`pilot session budget 1 HOURS` gives it more",)


def test_a_pilot_that_did_not_begin_what_it_was_given(head: Head) -> None:
    head.join("p")
    head.submit(spec(1), spec(2))
    head.core.assign(NOW)
    head.join("q")
    assert head.core.ask_back(NOW + 2.0) == {"p": [1, 2]}
    head.apply(ev.AttemptsEnded("p", [done(1, "interrupted", started=0.0)]))
    head.apply(ev.PilotLost("q", "gone"))
    del head.rows["q"]
    found = head.task(1)
    assert found.kind == "busy" and "no room for it in the pilot that can run it" in found.answer
    (avoided,) = [cause for cause in found.because if cause.kind == "avoided"]
    assert "did not start the last task of its kind" in avoided.text
    assert head.core.assign(NOW) == {}, "as it says"


def test_the_place_in_line(head: Head) -> None:
    head.join(cores=1)
    other = head.open(priority=3)
    head.submit(*(spec(n) for n in range(1, 6)))
    head.core.assign(NOW)
    head.submit(*(spec(n, 2) for n in range(101, 104)), session=other, number=2)
    found = head.task(4)
    line = next(cause for cause in found.because if cause.kind == "line")
    assert line.facts == {"before": 5, "own": 2, "higher": {other: 3}}
    assert f"5 ready tasks go before it: 2 of its own kind, 3 of session {other}" in line.text
    # What is paused is not before anybody.
    head.apply(ev.SessionOpened(other, priority=3, paused=True))
    line = next(cause for cause in head.task(4).because if cause.kind == "line")
    assert line.facts["before"] == 2


def test_a_head_that_waits_for_its_pilots(head: Head) -> None:
    head.submit(spec(1))
    head.status["awaits"] = {"pilots": ["p-1", "p-2"], "until": NOW + 4.0}
    found = head.task(1)
    assert found.kind == "rejoin" and "waits for 4.0 s more" in found.answer
    head.status.update(awaits=None, stopping="told to")
    assert head.task(1).kind == "stopping"


def test_a_database_that_cannot_be_written(head: Head) -> None:
    head.submit(spec(1))
    head.status["unwritten"] = "disk full"
    assert head.task(1).because[-1].kind == "database"


# --- tasks with pilots, and sessions -------------------------------------------------------------


def test_a_task_with_a_pilot_that_is_silent(head: Head) -> None:
    head.join()
    head.rows["p"].heard = NOW - 40.0
    head.submit(spec(1))
    head.core.assign(NOW - 50.0)
    found = head.task(1)
    assert found.kind == "assigned"
    assert "was given to a pilot 50.0 s ago, and has not started there" in found.answer
    assert "it has been silent for 40.0 s" in in_words_of(found)


def test_a_task_that_waits_for_an_input_from_another_node(head: Head) -> None:
    head.join()
    head.submit(spec(1))
    head.core.assign(NOW - 50.0)
    head.fetches = {"p": [InputFetch(2, 1, 5, "n3", "n4"), InputFetch(1, 1, 64 << 20, "n1", "n2")]}
    found = head.task(1)
    assert "has not started there: it waits for an input" in found.answer
    words = in_words_of(found)
    assert "its input of 64.0 MiB is on its way from the memory of node n1 to node n2" in words
    head.fetches = {"p": [InputFetch(1, 1, 64 << 20, "", "n2")]}
    assert "is being written to the site directory" in in_words_of(head.task(1))
    head.fetches = {"another": [InputFetch(1, 1, 64 << 20, "", "n2")]}
    assert "waits for an input" not in head.task(1).answer


def test_a_result_of_the_same_work_in_an_earlier_run(head: Head) -> None:
    head.submit(spec(1), cache=b"source")
    assert head.task(1).kind == "lookup"
    head.apply(ev.TasksLookedUp({1: b"key"}, {1: (Value(1, b"x"),)}))
    found = head.task(1)
    assert found.kind == "found"
    assert "without a run: its result is that of the same work in an earlier run" in found.answer


def test_a_session_in_groups(head: Head) -> None:
    head.join(cores=2)
    head.submit(*(spec(n) for n in range(1, 8)), *(spec(n, needs=(7,)) for n in range(20, 30)))
    head.core.assign(NOW - 10.0)
    found = head.why("1")
    assert found.answer == (
        "session 1 (study) has 17 unfinished tasks: 5 ready, 2 with pilots, 10 waiting for others"
    )
    assert [(c.kind, c.facts["count"]) for c in found.because] == [
        ("busy", 5),
        ("assigned", 2),
        ("busy", 10),
    ]
    head.apply(ev.SessionOpened(1, paused=True))
    found = head.why(None)
    assert found.kind == "paused"
    assert found.advice[0] == "`pilot session resume 1` lets it go on"


def test_a_session_with_many_that_wait(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(why_session, "LOOK_WAITING", 10)
    head.submit(spec(1), *(spec(n, needs=(1,)) for n in range(2, 100)))
    found = head.why("1")
    assert found.because[-1].text == "of the 98 tasks that wait for others, 10 were looked at"


def test_a_session_that_has_ended(head: Head) -> None:
    head.join()
    failure = TaskFailure("KeyError", "no")
    head.submit(spec(1), spec(2))
    head.core.assign(NOW)
    head.apply(ev.AttemptsEnded("p", [done(1), done(2, "error", failure=failure)]))
    found = head.why("1")
    assert found.kind == "idle"
    assert found.answer.endswith("all 2 tasks have ended: 1 COMPLETED, 1 FAILED")
    assert found.because[0].text == "task 0.2 (t1) has failed: KeyError: no"


@pytest.mark.parametrize("subject", ["1.x", "sum", "0.1[", "0.1/", "-1", ""])
def test_what_is_no_subject(head: Head, subject: str) -> None:
    head.submit(spec(1))
    with pytest.raises(PilotError, match="neither a task"):
        head.why(subject)


@pytest.mark.parametrize("subject", ["9" * 23, "9" * 5000, "1." + "9" * 30, f"{'9' * 10}.1"])
def test_what_has_too_many_digits_is_no_session_and_no_task(head: Head, subject: str) -> None:
    with pytest.raises(PilotError, match=r"there is no session|is not a task id"):
        head.why(subject)


def test_each_version_of_a_ready_task_has_its_reason(head: Head) -> None:
    own = template(1, resources=Resources(cores=64), versions=(2,))
    small = template(2, version="small", version_of=9)
    head.batch.add_templates([own, small])
    head.apply(ev.TasksSubmitted(1, [own, small], [spec(1)], {}))
    answer = head.why(task_label(1))
    assert answer.kind == "next"
    (line,) = [cause for cause in answer.because if cause.kind == "version"]
    assert "as itself it is ready, but no pool can run it: it needs 64 cores" in line.text


@pytest.mark.parametrize(
    ("in_s", "due"), [(42.0, "is thought to begin in 42.0 s"), (-1.0, "begins nobody knows when")]
)
def test_a_booking_is_told_to_its_task_and_to_others(head: Head, in_s: float, due: str) -> None:
    head.submit(spec(1), spec(2))
    head.join()
    head.core.assign(NOW)
    head.rows["p"].booking = BookingInfo(1, ("n1", "n2"), in_s, 3.0)
    (own,) = [c for c in head.why(task_label(1), NOW + 9.0).because if c.kind == "booking"]
    assert "it has a booking: what becomes free on 2 nodes (n1, n2) is kept for it" in own.text
    assert due in own.text and own.facts["in_s"] == (in_s if in_s > 0 else None)
    (other,) = [c for c in head.why(task_label(2), NOW + 9.0).because if c.kind == "booking"]
    assert f"booked for task {task_label(1)}, which has waited for 3.0 s and {due}" in other.text
