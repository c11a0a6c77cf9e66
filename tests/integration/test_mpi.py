"""MPI functions in warm worlds, MPI programs, and what happens when ranks fail or die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support import tasks
from support.sites import TESTS, SiteUnderTest, local_template, site_under_test
from support.waiting import wait_until

import pilot
from pilot import Session

pytest.importorskip("mpi4py")

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def cores() -> int:
    """So that several worlds run at once."""
    return 4


@pilot.mpi(ranks=2)
def total(x: float) -> tuple[float, int, int]:
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    return world.allreduce(x * (world.rank + 1)), world.size, os.getpid()


def test_body_runs_on_every_rank(session: Session) -> None:
    value, size, _ = session.submit(total, 10.0).result(DEADLINE_S)
    assert (value, size) == (30.0, 2)


@pilot.mpi(ranks=3)
def talk(how: str) -> str:
    """Ranks 0 and 2 say something, and it ends as told."""
    from mpi4py import MPI

    rank = MPI.COMM_WORLD.rank
    if rank != 1:
        print(f"rank {rank} {how}", flush=True)
    MPI.COMM_WORLD.barrier()
    if how == "fails" and rank == 1:
        raise ValueError("as told")
    if how == "dies" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "dies":
        signal.pause()
    return how


@pytest.mark.parametrize("how", ["ends", "fails", "dies"])
def test_what_each_rank_has_written_is_there_after_the_end(
    shared_site: SiteUnderTest, session: Session, how: str
) -> None:
    before = session.submit(talk, "before")  # in the same files, where the world is the same
    assert before.result(DEADLINE_S) == "before"
    future = session.submit(talk.options(max_crashes=0), how)
    error = future.exception(DEADLINE_S)
    assert (error is None) == (how == "ends")
    for each, word in ((before, "before"), (future, how)):
        spans = shared_site.query("logs", task=each.task_id)
        told = []
        for span in spans:
            with (shared_site.directory / span["path"]).open("rb") as file:
                file.seek(span["start"])
                told.append(file.read(span["end"] - span["start"]).decode())
        assert told == [f"rank 0 {word}\n", f"rank 2 {word}\n"]
        assert [span["path"][-10:] for span in spans] == ["rank-0.out", "rank-2.out"]


def test_world_has_exactly_the_ranks(session: Session) -> None:
    futures = [session.submit(total.options(ranks=ranks), 1.0) for ranks in (1, 2, 3, 4)]
    assert [future.result(DEADLINE_S)[:2] for future in futures] == [
        (1.0, 1),
        (3.0, 2),
        (6.0, 3),
        (10.0, 4),
    ]


def test_worlds_are_kept_warm(session: Session) -> None:
    pids = {session.submit(total, 1.0).result(DEADLINE_S)[2] for _ in range(10)}
    assert len(pids) == 1


def test_no_rank_begins_a_task_before_all_have_left_the_one_before(session: Session) -> None:
    """Else a message of a rank that is ahead is taken for one of the task before."""

    @pilot.mpi(ranks=3)
    def gather_by_hand(number: int) -> list[int]:
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        if world.rank:
            tasks.pause(0.0005 * (world.rank - 1))
            world.send(number, 0)
            return []
        return [world.recv(source=MPI.ANY_SOURCE) for _ in range(world.size - 1)]

    futures = session.submit_many(gather_by_hand, [(n,) for n in range(300)])
    assert pilot.gather(futures, timeout=DEADLINE_S) == [[n, n] for n in range(300)]


def test_context_of_a_rank(session: Session) -> None:
    @pilot.mpi(ranks=3)
    def ask() -> Any:
        from mpi4py import MPI

        here = pilot.context()
        return MPI.COMM_WORLD.gather((here.rank, here.ranks))

    assert session.submit(ask).result(DEADLINE_S) == [(0, 3), (1, 3), (2, 3)]


def test_ranks_depend_on_the_arguments(session: Session) -> None:
    dynamic = total.options(ranks=lambda x: int(x))
    assert session.submit(dynamic, 3.0).result(DEADLINE_S)[1] == 3


def test_results_of_ranks_feed_other_tasks(session: Session) -> None:
    futures = [session.submit(total, float(n)) for n in range(5)]
    after = session.submit(lambda parts: sum(part[0] for part in parts), futures)
    assert after.result(DEADLINE_S) == sum(3.0 * n for n in range(5))


def test_large_result_of_a_world(session: Session) -> None:
    @pilot.mpi(ranks=2)
    def field() -> Any:
        import numpy as np
        from mpi4py import MPI

        return np.full(50_000, float(MPI.COMM_WORLD.size))

    assert session.submit(field).result(DEADLINE_S).tolist() == [2.0] * 50_000


def test_checkpoint_has_the_parts_of_all_ranks(session: Session) -> None:
    @pilot.mpi(ranks=2, retries=1)
    def work() -> Any:
        from mpi4py import MPI

        here, world = pilot.context(), MPI.COMM_WORLD
        found = here.checkpoint.load()
        if found is None:
            here.checkpoint.save(3, {"mine": here.rank * 10})
            world.barrier()
            raise OSError("try again")
        step, state = found
        return world.gather((step, state["mine"]))

    assert session.submit(work).result(DEADLINE_S) == [(3, 0), (3, 10)]


@pilot.mpi(ranks=2, retries=1)
def write_together(path: str) -> tuple[str, int]:
    """All ranks write one file, which the first try leaves to the second as its checkpoint."""
    import h5py
    from mpi4py import MPI

    here, world = pilot.context(), MPI.COMM_WORLD
    found = here.checkpoint.load()
    if found is not None:
        return found[1], found[0]
    with h5py.File(f"{path}.part", "w", driver="mpio", comm=world) as file:
        field = file.create_dataset("field", (100, 50))
        rows = slice(50 * world.rank, 50 * (world.rank + 1))
        field[rows] = world.rank
    if world.rank == 0:
        os.replace(f"{path}.part", path)
    world.barrier()
    here.checkpoint.save(7, path)
    world.barrier()
    raise OSError("try again")


@pytest.mark.skipif(not h5py.get_config().mpi, reason="this h5py is built without MPI")
def test_all_ranks_write_one_file(session: Session, tmp_path: Path) -> None:
    path = str(tmp_path / "field.h5")
    assert session.submit(write_together, path).result(DEADLINE_S) == (path, 7)
    with h5py.File(path) as file:
        assert file["field"][0, 0] == 0 and file["field"][99, 49] == 1


SPAWNED = """
import sys
from mpi4py import MPI
parent = MPI.Comm.Get_parent()
parent.reduce(MPI.COMM_WORLD.rank + 1, root=0)
parent.Disconnect()
"""


@pilot.mpi(ranks=2)
def spawn(script: str) -> tuple[int, int | None]:
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    more = world.Spawn(sys.executable, [script], maxprocs=2)
    added = more.reduce(None, root=MPI.ROOT if world.rank == 0 else MPI.PROC_NULL)
    size = more.remote_size
    more.Disconnect()
    return size, added


def test_ranks_may_start_more_ranks(session: Session, tmp_path: Path) -> None:
    """The launcher has to take these from a world that it has started with our options."""
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED)
    for _ in range(2):
        assert session.submit(spawn, str(script)).result(DEADLINE_S) == (2, 3)


# --- arguments in parts, results of all ranks -----------------------------------------------------


@pilot.mpi(ranks=3, split=("x", "names"), result="list")
def parts(x: Any, names: list[str], factor: float) -> Any:
    from mpi4py import MPI

    return MPI.COMM_WORLD.rank, x.tolist(), names, factor


def test_each_rank_gets_its_rows(session: Session) -> None:
    rows = np.arange(7.0)
    wanted = [(0, [0.0, 1.0, 2.0], ["a"], 2.0), (1, [3.0, 4.0], [], 2.0), (2, [5.0, 6.0], [], 2.0)]
    assert session.submit(parts, rows, ["a"], factor=2.0).result(DEADLINE_S) == wanted
    assert session.submit(parts, names=["a"], x=rows, factor=2.0).result(DEADLINE_S) == wanted


@pilot.mpi(ranks=3, split="field", result="rows")
def scaled(field: Any, factor: float) -> Any:
    return field * factor


def test_rows_of_all_ranks_are_one_array_again(session: Session) -> None:
    field = np.arange(300_000.0).reshape(1000, 300)
    put = session.put(field)
    for given in (put, field, session.submit(scaled, put, 1.0)):
        done = session.submit(scaled, given, 2.0).result(DEADLINE_S)
        assert done.shape == field.shape and (done == 2 * field).all()
    few = session.submit(scaled, np.ones((1, 2), "f4"), 2.0).result(DEADLINE_S)
    assert few.tolist() == [[2.0, 2.0]], "where some ranks have no rows"


def test_large_arguments_are_read_once_for_all_ranks_of_a_node(
    shared_site: SiteUnderTest, session: Session
) -> None:
    """The first rank copies the file to the node's disk, and all map that copy."""

    @pilot.mpi(ranks=3, split="field", result="list")
    def where(field: Any) -> Any:
        base = field
        while isinstance(base, np.ndarray) and base.base is not None:
            base = base.base
        return type(base).__name__, len(field)

    field = np.ones((3000, 100))
    made = session.submit(np.ones, (3000, 100))  # a result, that nobody has put
    for given in (session.put(field), made):
        bases = session.submit(where, given).result(DEADLINE_S)
        assert bases == [("mmap", 1000)] * 3


@pilot.mpi(ranks=3, result="rows")
def uneven(how: str) -> Any:
    from mpi4py import MPI

    rank = MPI.COMM_WORLD.rank
    if rank == 1:
        if how == "raises":
            raise ValueError("on one rank")
        if how == "exits":
            raise SystemExit(3)
        return {"shape": np.ones((2, 5)), "type": "no array", "ends": np.ones((1, 4), "i4")}[how]
    return np.ones((2, 4))


def test_rows_that_do_not_go_together_are_an_error_and_the_world_lives_on(
    session: Session,
) -> None:
    pids = {session.submit(pid_of_rank_0).result(DEADLINE_S)}
    for how, told in (
        ("raises", "on one rank"),
        ("exits", "SystemExit"),
        ("shape", "differ in more than rows"),
        ("type", "no array of numbers with rows"),
    ):
        error = session.submit(uneven, how).exception(DEADLINE_S)
        assert error is not None and told in f"{error} {error.__cause__}", how
    assert session.submit(uneven, "ends").result(DEADLINE_S).shape == (5, 4)
    pids.add(session.submit(pid_of_rank_0).result(DEADLINE_S))
    assert len(pids) == 1, "no rank waited for one that had failed"


@pilot.mpi(ranks=3)
def pid_of_rank_0() -> int:
    return os.getpid()


def test_fresh_tasks_have_ranks_and_processes_of_their_own(session: Session) -> None:
    """Also plain ones, with large results, and beside warm ones of the same shape."""
    warm = session.submit(total, 1.0).result(DEADLINE_S)[2]
    fresh = total.options(isolation="fresh")
    pids = [session.submit(fresh, 1.0).result(DEADLINE_S)[2] for _ in range(2)]
    assert len({warm, *pids}) == 3
    assert session.submit(total, 1.0).result(DEADLINE_S)[2] == warm

    @pilot.task(isolation="fresh")
    def process() -> Any:
        return np.full(20_000, os.getpid())

    found = pilot.gather([session.submit(process) for _ in range(3)], timeout=DEADLINE_S)
    assert len({int(array[-1]) for array in found}) == 3


def test_worlds_of_many_shapes_run_at_once(session: Session, tmp_path: Path) -> None:
    """Two and two ranks, and three beside one: each waits for the other, so they are there
    together; and a hundred short ones in random order, each with as many ranks as it asked for."""

    @pilot.mpi(ranks=2)
    def meet(own: str, other: str) -> tuple[int, int]:
        from mpi4py import MPI

        tasks.wait_for_file(own, other)
        world = MPI.COMM_WORLD
        return world.size, world.allreduce(1)

    for sizes in ((2, 2), (3, 1)):
        names = [str(tmp_path / f"{sizes[0]}-{number}") for number in range(2)]
        pair = [
            session.submit(meet.options(ranks=size), own, other)
            for size, own, other in zip(sizes, names, reversed(names), strict=True)
        ]
        assert pilot.gather(pair, timeout=DEADLINE_S) == [(size, size) for size in sizes]
    ranks = [1 + number * 7 % 4 for number in range(100)]
    many = [session.submit(total.options(ranks=count), 1.0) for count in ranks]
    sizes_seen = [size for _, size, _ in pilot.gather(many, timeout=2 * DEADLINE_S)]
    assert sizes_seen == ranks


@pilot.mpi(ranks=2)
def leave_behind() -> int:
    """Leave a receive, a message that nobody receives, and a communicator."""
    import numpy as np
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    other = 1 - world.rank
    kept = getattr(MPI, "kept_by_a_test", [])
    MPI.kept_by_a_test = kept  # type: ignore[attr-defined]  # as a module of the user's might
    buffer = np.zeros(4)
    kept += [buffer, world.Irecv(buffer, other, tag=4711), world.Dup()]
    kept.append(world.Isend(np.ones(4), other, tag=4712))
    return world.size


def test_what_a_task_leaves_behind_in_mpi_does_no_harm_to_others_and_never_to_fresh_ones(
    session: Session,
) -> None:
    for _ in range(3):
        assert session.submit(leave_behind).result(DEADLINE_S) == 2
        assert session.submit(total, 10.0).result(DEADLINE_S)[:2] == (30.0, 2)

    @pilot.mpi(ranks=2, isolation="fresh")
    def probe() -> bool:
        from mpi4py import MPI

        MPI.COMM_WORLD.barrier()
        return bool(MPI.COMM_WORLD.iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG))

    assert session.submit(leave_behind.options(isolation="fresh")).result(DEADLINE_S) == 2
    assert session.submit(probe).result(DEADLINE_S) is False


# --- failures -------------------------------------------------------------------------------------


def test_all_ranks_raise(session: Session) -> None:
    @pilot.mpi(ranks=2)
    def fail() -> None:
        raise ValueError("on every rank")

    error = session.submit(fail).exception(DEADLINE_S)
    assert isinstance(error, ValueError)
    assert "2 of 2 ranks failed" in str(error.__cause__)


@pytest.mark.parametrize(
    ("how", "kind", "told"),
    [
        ("exits", pilot.TaskError, "SystemExit"),
        ("raises", ValueError, "on one rank"),
        ("aborts", pilot.TaskCrashed, "a rank died"),
        ("crashes", pilot.TaskCrashed, "Segmentation fault"),
        ("hangs", pilot.TaskTimedOut, "rank 1:"),
    ],
)
def test_however_ranks_go_wrong_they_tell_where_they_were_and_the_next_task_is_fine(
    session: Session, how: str, kind: type[BaseException], told: str
) -> None:
    def here_it_waits(world: Any) -> None:
        world.recv(source=1, tag=99)

    @pilot.mpi(ranks=3, max_crashes=0, time_limit=5 if how == "hangs" else 60)
    def go_wrong() -> None:
        """Rank 1 does, the others wait for it."""
        import ctypes

        from mpi4py import MPI

        world = MPI.COMM_WORLD
        if world.rank == 1:
            if how == "exits":
                sys.exit(3)
            if how == "raises":
                raise ValueError("on one rank")
            if how == "aborts":
                world.Abort(7)
            if how == "crashes":
                ctypes.string_at(0)
            world.recv(source=0, tag=99)
        here_it_waits(world)

    future = session.submit(go_wrong)
    after = session.submit(total.options(ranks=3), 1.0)
    error = future.exception(DEADLINE_S)
    text = f"{error!r} {error} {error.__cause__}" if error else ""
    assert isinstance(error, kind) and told in text, text
    if how == "crashes":
        assert "in string_at" in text, text
    if how in ("raises", "hangs"):  # else the launcher may end them first
        assert "rank 0, 2:" in text and text.count("in here_it_waits") == 1, text
    assert after.result(DEADLINE_S)[0] == 6.0


def test_one_rank_raises_and_the_others_wait_for_it(session: Session) -> None:
    @pilot.mpi(ranks=2)
    def fail() -> None:
        from mpi4py import MPI

        if MPI.COMM_WORLD.rank == 1:
            raise ValueError("on one rank")
        MPI.COMM_WORLD.barrier()

    error = session.submit(fail).exception(DEADLINE_S)
    assert isinstance(error, ValueError)
    text = str(error.__cause__)
    assert "1 of 2 ranks failed, 1 did not leave the task" in text and "rank 1:" in text
    assert session.submit(total, 1.0).result(DEADLINE_S)[0] == 3.0


def test_time_limit(session: Session) -> None:
    @pilot.mpi(ranks=2, time_limit=1)
    def hang() -> None:
        tasks.pause(1000)

    error = session.submit(hang).exception(DEADLINE_S)
    assert isinstance(error, pilot.TaskTimedOut)
    assert session.submit(total, 1.0).result(DEADLINE_S)[0] == 3.0


def test_what_ranks_end_by_is_retried_as_the_options_say(session: Session) -> None:
    class Hopeless(ValueError):
        pass

    @pilot.mpi(ranks=2, time_limit=3, retries=1, retry_timeouts=True, no_retry_on=Hopeless)
    def hang_or_fail(fails: bool) -> int:
        context = pilot.context()
        if fails and context.rank == 1:
            raise Hopeless("as told")
        if context.attempt == 1 and not fails:
            tasks.pause(1000)
        return context.attempt

    assert session.submit(hang_or_fail, False).result(DEADLINE_S) == 2
    hopeless = session.submit(hang_or_fail, True)
    assert type(hopeless.exception(DEADLINE_S)).__name__ == "Hopeless"
    assert session.query("task", task=hopeless.task_id)["attempts"] == 1


@pilot.mpi(ranks=2)
def fork(waits: bool) -> str:
    child = os.fork()
    if child == 0:
        return "copy"
    return f"parent {os.waitpid(child, 0)[1]}" if waits else "parent"


def test_copies_of_ranks_end_where_they_leave_the_task(session: Session) -> None:
    assert session.submit(fork, True).result(DEADLINE_S) == "parent 0"
    assert session.submit(fork, False).result(DEADLINE_S) == "parent"
    after = [session.submit(total, float(n)) for n in range(20)]
    assert [future.result(DEADLINE_S)[0] for future in after] == [3.0 * n for n in range(20)]


def test_whatever_ranks_raise_or_close_they_live_on(session: Session) -> None:
    @pilot.mpi(ranks=2)
    def leave(how: str) -> None:
        if how == "raises":
            raise SystemExit(3)
        for descriptor in (0, 1, 2):
            os.close(descriptor)
        os.chdir("/")

    error = session.submit(leave, "raises").exception(DEADLINE_S)
    assert error is not None and "SystemExit" in f"{error!r} {error.__cause__!r}"
    session.submit(leave, "closes").result(DEADLINE_S)
    assert session.submit(total, 1.0).result(DEADLINE_S)[0] == 3.0
    where = session.submit(pilot.mpi(ranks=2)(os.getcwd)).result(DEADLINE_S)
    assert where == os.getcwd()


def test_each_rank_of_a_program_knows_which_one_it_is(session: Session) -> None:
    told = "printf '%s\\n' \"$PILOT_TASK_ID $PILOT_CORES $PILOT_RANK/$PILOT_RANKS\""
    future = session.submit(pilot.shell(told, ranks=3))
    lines = sorted(future.result(DEADLINE_S).stdout.splitlines())
    assert lines == [f"{future.task_id} 1 {rank}/3" for rank in range(3)]


def test_what_ranks_have_started_ends_with_them(session: Session, tmp_path: Path) -> None:
    @pilot.mpi(ranks=2, time_limit=2)
    def hang(directory: str) -> None:
        import subprocess

        sleeps = "setsid sleep 600 & echo $! > $0; wait"
        name = f"{directory}/{pilot.context().rank}"
        subprocess.Popen(["/bin/sh", "-c", f"({sleeps}) & sleep 600", name]).wait()

    error = session.submit(hang, str(tmp_path)).exception(DEADLINE_S)
    assert isinstance(error, pilot.TaskTimedOut)
    pids = [path.read_text().strip() for path in tmp_path.iterdir()]
    assert len(pids) == 2

    def are_gone() -> bool:
        return not any(Path(f"/proc/{pid}").exists() for pid in pids)

    wait_until(are_gone, DEADLINE_S, "the end of what the ranks have started")


def test_cancel(session: Session, shared_site: SiteUnderTest, tmp_path: Path) -> None:
    hold = pilot.mpi(ranks=3)(tasks.wait_for_file)
    started, never = tmp_path / "started", tmp_path / "never"
    future = session.submit(hold, str(started), str(never), 1000.0)
    wait_until(started.exists, DEADLINE_S, "the ranks to run")
    assert len(shared_site.processes("pilot rank 0/3")) == 1
    assert future.cancel()
    wait_until(lambda: not shared_site.processes("/3 world"), DEADLINE_S, "the ranks to end")
    assert session.submit(total, 1.0).result(DEADLINE_S)[0] == 3.0


@pytest.mark.parametrize("victim", ["rank 0/2", "rank 1/2", "mpiexec"])
def test_killed_process_of_a_world(
    session: Session, shared_site: SiteUnderTest, tmp_path: Path, victim: str
) -> None:
    """It takes down its world only; the task is run again, in a new one."""
    started, go, beside = tmp_path / "started", tmp_path / "go", tmp_path / "beside"
    other = session.submit(tasks.wait_for_file, str(beside), str(go))
    wait_until(beside.exists, DEADLINE_S, "the other task to run")
    agent = shared_site.pid_of("agent")

    def work(started: str, go: str) -> int:
        tasks.wait_for_file(started, go)
        return pilot.context().attempt

    future = session.submit(pilot.mpi(ranks=2)(work), str(started), str(go))
    wait_until(started.exists, DEADLINE_S, "the ranks to run")
    # Launchers of other, idle worlds may be there, too: the newest is this task's.
    words = "mpiexec" if victim == "mpiexec" else f"pilot {victim}"
    ranks = {process.pid for process in shared_site.processes("/2 world")}
    for process in shared_site.processes(words):
        os.kill(process.pid, signal.SIGKILL)
    wait_until(
        lambda: not ranks & {process.pid for process in shared_site.processes("/2 world")},
        DEADLINE_S,
        "the ranks to be gone, which end well if they see the file before",
    )
    go.touch()
    assert future.result(DEADLINE_S) >= 2
    assert other.result(DEADLINE_S) == str(beside)
    assert shared_site.pid_of("agent") == agent


def test_rank_that_kills_itself_is_told(session: Session) -> None:
    @pilot.mpi(ranks=2, max_crashes=0)
    def die() -> None:
        from mpi4py import MPI

        print("goodbye from", MPI.COMM_WORLD.rank, flush=True)
        if MPI.COMM_WORLD.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        tasks.pause(1000)

    error = session.submit(die).exception(DEADLINE_S)
    assert isinstance(error, pilot.TaskCrashed)
    assert "a rank died" in str(error)


def test_failures_among_short_tasks(session: Session) -> None:
    """Some raise on one rank, some on both: the world goes on behind them."""

    @pilot.mpi(ranks=2)
    def work(number: int) -> int:
        from mpi4py import MPI

        if number % 10 == 3 or (number % 10 == 7 and MPI.COMM_WORLD.rank == 1):
            raise ValueError(number)
        return number

    futures = session.submit_many(work, [(n,) for n in range(200)])
    for number, future in enumerate(futures):
        if number % 10 in (3, 7):
            error = future.exception(DEADLINE_S)
            assert error is not None and error.args == (number,)
        else:
            assert future.result(DEADLINE_S) == number


def test_death_among_short_tasks_is_blamed_on_one(session: Session) -> None:
    """What was sent ahead of it or behind it runs again, without having spent an attempt."""

    @pilot.mpi(ranks=2, max_crashes=0)
    def work(number: int) -> int:
        from mpi4py import MPI

        if number == 150 and MPI.COMM_WORLD.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        MPI.COMM_WORLD.barrier()
        return pilot.context().attempt

    futures = session.submit_many(work, [(n,) for n in range(300)])
    assert isinstance(futures[150].exception(DEADLINE_S), pilot.TaskCrashed)
    del futures[150]
    assert pilot.gather(futures, timeout=DEADLINE_S) == [1] * 299


@pytest.mark.parametrize(("waits", "behind"), [((0, 1), 0), ((0,), 0), ((1,), 1)])
def test_nothing_waits_behind_a_task_that_turns_out_to_be_long(
    session: Session, tmp_path: Path, waits: tuple[int, ...], behind: int
) -> None:
    """But for one task, where rank 0 has left the long one and told the others what comes next."""
    go, runs = tmp_path / "go", tmp_path / "runs"
    runs.mkdir()

    @pilot.mpi(ranks=2)
    def work(number: int) -> int:
        rank = pilot.context().rank
        if number == 100 and rank in waits:
            tasks.wait_for_file(str(tmp_path / f"started{rank}"), str(go))
        return tasks.note_run(str(runs), number) if number else 0

    # Known to be short, they are sent several at a time.
    pilot.gather(session.submit_many(work, [(0,)] * 100), timeout=DEADLINE_S)
    numbers = range(1, 201)
    futures = session.submit_many(work, [(number,) for number in numbers])
    late = futures[99]
    wait_until(
        lambda: sum(future.done() for future in futures) >= len(futures) - 1 - behind,
        DEADLINE_S,
        "all others to end",
    )
    assert not late.done()
    go.touch()
    assert pilot.gather(futures, timeout=DEADLINE_S) == [*numbers]
    marks = {path.name: path.read_text().split() for path in runs.iterdir()}
    assert {number: len(pids) for number, pids in marks.items()} == {str(n): 2 for n in numbers}
    assert all(len(set(pids)) == 2 for pids in marks.values()), "each rank has run each once"


# --- programs -------------------------------------------------------------------------------------


def test_mpi_program(session: Session, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import sys\n"
        "from mpi4py import MPI\n"
        "world = MPI.COMM_WORLD\n"
        "ranks = world.gather(world.rank)\n"
        "if world.rank == 0:\n"
        "    open(sys.argv[1], 'w').write(f'{world.size} {ranks}')\n"
    )
    program = pilot.shell(f"{sys.executable} {script} {{out}}", outputs=["out"], ranks=2)
    out = tmp_path / "out"
    assert session.submit(program, out=out).result(DEADLINE_S).returncode == 0
    assert out.read_text() == "2 [0, 1]"


def test_values_reach_mpi_programs_as_they_are(session: Session, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import sys\n"
        "from mpi4py import MPI\n"
        "if MPI.COMM_WORLD.rank == 0:\n"
        "    open(sys.argv[1], 'w').write(repr(sys.argv[2:]))\n"
    )
    # To mpirun and srun a ':' of its own is where another program begins.
    values = [":", "", "$(id)", "a\nb", "'\"", "-n"]
    program = pilot.shell(f"{sys.executable} {script} {{out}} {{values}}", ranks=2)
    session.submit(program, out=tmp_path / "out", values=values).result(DEADLINE_S)
    assert (tmp_path / "out").read_text() == repr(values)


def test_mpi_program_that_fails(session: Session, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("import sys\nfrom mpi4py import MPI\nMPI.COMM_WORLD.barrier()\nsys.exit(5)\n")
    error = session.submit(pilot.shell(f"{sys.executable} {script}", ranks=2)).exception(DEADLINE_S)
    assert isinstance(error, pilot.CommandFailed)
    assert "exit status" in str(error)


PLACE = """
import json, os, sys
rank = os.environ["PILOT_RANK"]
print(json.dumps([sorted(os.sched_getaffinity(0)), os.environ["OMP_NUM_THREADS"], sys.argv[1:]]))
print("rank", rank, file=sys.stderr)
"""


def test_each_rank_of_a_program_has_its_cores_and_its_files(
    tmp_path: Path,
) -> None:
    """On a site of its own: that of this module has more cores than there are, so nothing is
    pinned."""
    script = tmp_path / "place.py"
    script.write_text(PLACE)
    there = sorted(os.sched_getaffinity(0))[:2]
    program = pilot.shell(
        f"{sys.executable} {script} {{x}}",
        ranks=len(there),
        cwd=tmp_path,
        stdout="out-{x}",
        output_per_rank=True,
    )
    with site_under_test(local_template(cores=len(os.sched_getaffinity(0)))) as site:
        with site.session() as pinned:
            done = pinned.submit(program, x="a b").result(DEADLINE_S)
    assert sorted(done.stdout.splitlines()) == [f"rank {n}" for n in range(len(there))]
    told = [json.loads((tmp_path / f"out-a b.{n}").read_text()) for n in range(len(there))]
    assert sorted(cores for (cores,), _, _ in told) == there or len(there) == 1
    assert all((threads, words) == ("1", ["a b"]) for _, threads, words in told)


def test_several_programs_in_one_job(session: Session, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import sys\n"
        "from mpi4py import MPI\n"
        "told = MPI.COMM_WORLD.gather(sys.argv[1])\n"
        "if MPI.COMM_WORLD.rank == 0:\n"
        "    print(told)\n"
    )
    run = f"{sys.executable} {script}"
    coupled = pilot.mpmd([(f"{run} {{case}}", 1), (f"{run} ice-{{case}}", 2)])
    done = session.submit(coupled, case="x").result(DEADLINE_S)
    assert done.stdout.strip() == "['x', 'ice-x', 'ice-x']"


# --- idle -----------------------------------------------------------------------------------------


def test_idle_ranks_do_not_spin(session: Session, shared_site: SiteUnderTest) -> None:
    session.submit(total, 1.0).result(DEADLINE_S)
    pids = shared_site.pids_of("rank", 2)
    before = sum(map(_cpu_ticks, pids))
    # Some other work takes its time meanwhile.
    session.submit(tasks.pause, 1.0).result(DEADLINE_S)
    assert sum(map(_cpu_ticks, pids)) - before <= 5 * len(pids)


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # before it was opened, or after
        return 0
    return int(fields[11]) + int(fields[12])


def test_all_ranks_end_with_the_pilot() -> None:
    """Also when the agent is killed in the middle of a task."""
    with site_under_test(local_template(cores=2)) as site, site.session() as session:
        started, go = site.scratch / "started", site.scratch / "go"
        future = session.submit(
            pilot.mpi(ranks=2)(tasks.wait_for_file), str(started), str(go), 1000.0
        )
        wait_until(started.exists, DEADLINE_S, "the ranks to run")
        ranks = site.pids_of("rank", 2)
        os.kill(site.pid_of("agent"), signal.SIGKILL)
        wait_until(
            lambda: not set(ranks) & {process.pid for process in site.processes()},
            DEADLINE_S,
            "the ranks to end",
        )
        go.touch()
        assert future.result(DEADLINE_S) == str(started)


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import pilot
from support import tasks

with pilot.Session({site!r}, sys_path=[{tests!r}]) as session:
    print(session.submit(tasks.world_size).result({deadline_s}))
"""


def test_a_head_that_a_rank_has_started_is_no_rank() -> None:
    from pilot.launchers.mpirun import find_mpi

    with site_under_test(local_template(cores=2)) as site:
        _, mpirun = find_mpi("")
        program = PROGRAM.format(tests=str(TESTS), site=str(site.directory), deadline_s=DEADLINE_S)
        done = subprocess.run(
            [str(mpirun), "-n", "1", sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE_S,
            check=False,
        )
        assert done.stdout == "1\n", done.stderr
        # And for whoever comes later to the same head.
        with site.session() as session:
            assert session.submit(tasks.world_size).result(DEADLINE_S) == 1
            assert session.submit(total, 10.0).result(DEADLINE_S)[:2] == (30.0, 2)


HIDES_MPI = """
import importlib.util

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: name != "mpi4py" and find_spec(name, *more) or None
"""


def test_that_there_is_no_mpi4py_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDES_MPI)
    variables = {"PYTHONPATH": str(tmp_path)}
    with site_under_test(local_template(environment={"variables": variables})) as site:
        with site.session() as session:
            future = session.submit(total, 1.0)
            error = future.exception(DEADLINE_S)
            assert f"{sys.executable}, has no mpi4py" in str(error)
            (attempt,) = site.query("task", task=future.task_id)["attempts_made"]
            assert attempt["outcome"] == "error"


@pytest.mark.parametrize("kind", ["ImportError", "RuntimeError"])
def test_an_mpi4py_without_its_library_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    package = tmp_path / "mpi4py"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "MPI.py").write_text(f"raise {kind}('libmpi.so.40: cannot open\\nshared object')")
    variables = {"PYTHONPATH": str(tmp_path)}
    with site_under_test(local_template(environment={"variables": variables})) as site:
        with site.session() as session:
            future = session.submit(total, 1.0)
            error = future.exception(DEADLINE_S)
            assert f"{sys.executable}, cannot load MPI ({kind}: libmpi.so.40: cannot open" in str(
                error
            )
            assert "site.yaml" in str(error)
            (attempt,) = site.query("task", task=future.task_id)["attempts_made"]
            assert attempt["outcome"] == "error"
