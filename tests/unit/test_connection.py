"""In what order a client's messages go out, to one head and to the next."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import wait_until

from pilot.client import connection, portions
from pilot.client.callbacks import CalledBack
from pilot.client.connection import Connection
from pilot.client.submission import Submission
from pilot.errors import HeadError, PilotError, SubmissionError
from pilot.model.tasks import Environment, Function, TaskOutcome, TaskSpec
from pilot.site import Site, create_site
from pilot.version import __version__
from pilot.wire.channel import Server
from pilot.wire.discovery import HeadAddress, process_started, write_address
from pilot.wire.keys import load_keys
from pilot.wire.messages import client as m
from pilot.wire.messages.common import WHO_ARE_YOU, Welcome
from pilot.wire.messages.head import ToHead
from pilot.wire.polling import poller_of


def submission(*tasks: int) -> Submission:
    made = Submission()
    made.tasks.extend(TaskSpec(task, 1, b"") for task in tasks)
    return made


def test_neighbouring_parcels_are_one_and_nothing_overtakes_what_was_sent_before() -> None:
    between = m.Watch([1])
    merged = portions.portions(
        [(1, submission(1)), (1, submission(2)), between, (1, submission(3)), (2, submission(4))]
    )
    told = [
        (item[0], [spec.id for spec in item[1].tasks]) if isinstance(item, tuple) else item
        for item in merged
    ]
    assert told == [(1, [1, 2]), between, (1, [3]), (2, [4])]


def large(first: int, count: int, size: int) -> Submission:
    made = Submission()
    made.functions.append(Function(b"f", b"code"))
    made.tasks.extend(TaskSpec(task, 1, bytes(size)) for task in range(first, first + count))
    return made


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3000)), min_size=1, max_size=12))
def test_no_message_is_larger_than_its_bound_and_none_is_lost_or_overtaken(
    submissions: list[tuple[int, int]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portions, "FRAME", 16)
        patch.setattr(portions, "SUBMIT_BYTES", 2000)
        items: list[Any] = []
        first = 0
        for count, size in submissions:
            items.append((1, large(first, count, size)))
            first += count
        made = portions.portions(items)
        ids = []
        known = 0
        for item in made:
            assert isinstance(item, tuple)
            portion = item[1]
            known += len(portion.functions)
            assert known, "what tasks are made of comes first"
            assert 1 <= len(portion.tasks) <= 16
            size = sum(len(spec.payload) for spec in portion.tasks)
            assert size <= 2000 or len(portion.tasks) == 1
            ids += [spec.id for spec in portion.tasks]
        assert ids == list(range(first)) and known == len(submissions)


class Nobody:
    """Awaits a task, and does nothing."""

    def settle(self, outcome: TaskOutcome) -> None: ...
    def refuse(self, error: Exception) -> None: ...
    def fail(self, error: Exception) -> None: ...
    def started(self) -> None: ...
    def disown(self, error: Exception) -> None: ...


class Head:
    """What a client takes for the head of a site: it greets, hears, and says what it is told to."""

    def __init__(self, site: Site, epoch: int, database: str = "") -> None:
        self.heard: list[Any] = []
        self.greeted: list[m.ClientHello] = []
        self._epoch = epoch
        self._ending = False
        keys = load_keys(site.keys)
        self._server: Server[Any] = Server(keys, f"{site.directory}/{epoch}", ToHead, "127.0.0.1")
        self._answers: list[Any] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        pid = os.getpid()
        endpoints = self._server.endpoints
        address = HeadAddress(
            epoch, "here", pid, process_started(pid), endpoints, __version__, database=database
        )
        write_address(site.address_file, address)

    def answer(self, message: Any) -> None:
        """Say this to the client."""
        self._answers.append(message)

    def _run(self) -> None:
        poller = poller_of(*self._server.sources)
        client = b""
        while not self._ending:
            poller.poll(10)
            for peer, message in self._server.receive():
                if isinstance(message, m.ClientHello):
                    client = peer
                    self.greeted.append(message)
                    self._server.send(peer, Welcome(self._epoch, __version__))
                else:
                    self.heard.append(message)
            while self._answers:
                self._server.send(client, self._answers.pop(0))
        self._server.close()

    def end(self) -> None:
        """Be gone."""
        self._ending = True
        self._thread.join()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = create_site(tmp_path / "site", "local")
    site.prepare()
    return site


def kinds(head: Head) -> list[object]:
    """What a head has heard: the tasks of submissions, names of other messages."""
    return [
        [spec.id for spec in message.tasks] if isinstance(message, m.Submit) else type(message)
        for message in head.heard
    ]


def test_next_head_is_told_all_that_is_not_answered_in_the_same_order(site: Site) -> None:
    first = Head(site, 1)
    client = Connection(site, start=False)
    second = None
    try:
        client.submit(1, submission(1), [Nobody()])
        wait_until(lambda: len(first.heard) == 1)
        client.submit(1, submission(2), [Nobody()])
        wait_until(lambda: len(first.heard) == 2)
        client.post(lambda number: m.Cancel(number, 1, group="mine"))
        wait_until(lambda: len(first.heard) == 3)
        client.submit(1, submission(3), [Nobody()])
        wait_until(lambda: len(first.heard) == 4)
        first.answer(m.Accepted(first.heard[0].seq))
        assert not client.flush(0.0)
        wait_until(lambda: len(client._open) == 3)
        first.end()
        second = Head(site, 2)
        head = second
        wait_until(lambda: len(head.heard) == 4)
        # Task 3 was submitted after the cancellation, and is not what it was to end.
        assert kinds(head) == [[2], m.Cancel, [3], m.Watch]
        assert head.heard[3].tasks == [1]
        for message in head.heard[:3:2]:
            head.answer(m.Accepted(message.seq))
        head.answer(m.Reply(head.heard[1].request, 0))
        assert client.flush(20.0)
        wait_until(lambda: not client._open)
    finally:
        client.close()
        for each in (first, second):
            if each is not None:
                each.end()


def test_next_head_is_told_which_ids_this_client_was_given(site: Site) -> None:
    first = Head(site, 1)
    client = Connection(site, start=False)
    second = None
    try:
        numbers = client.numbers(3, 3 << 32 | 1, 4)
        assert numbers.take(3) == [3 << 32 | n for n in (1, 2, 3)]
        wait_until(lambda: len(first.heard) == 1)
        assert isinstance(first.heard[0], m.Reserve) and first.heard[0].count == 8
        first.answer(m.Reply(first.heard[0].request, [3 << 32 | 9, 8]))
        wait_until(lambda: bool(client._blocks))
        numbers.take(6)
        wait_until(lambda: len(first.heard) == 2)
        first.end()
        head = second = Head(site, 2)
        wait_until(lambda: len(head.heard) == 1)
        assert first.greeted[0].blocks == []
        assert second.greeted[0].blocks == [(3 << 32 | 9, 8)]
        # What was asked for and not given is asked for again; what follows in a row is one row.
        head.answer(m.Reply(head.heard[0].request, [3 << 32 | 17, 16]))
        wait_until(lambda: client._blocks == [(3 << 32 | 9, 24)])
        assert numbers.take(19) == [3 << 32 | n for n in range(14, 33)]
    finally:
        client.close()
        for each in (first, second):
            if each is not None:
                each.end()


class Settles(Nobody):
    """Settles a future when the task has ended."""

    def __init__(self) -> None:
        self.future: CalledBack[str] = CalledBack()

    def settle(self, outcome: TaskOutcome) -> None:
        self.future.set_result(outcome.state)


def test_callback_that_waits_holds_up_callbacks_and_nothing_else(site: Site) -> None:
    head = Head(site, 1)
    client = Connection(site, start=False)
    numbers = client.numbers(3, 3 << 32 | 1, 2)
    order: list[Any] = []

    def submit(_: object) -> None:
        order.append("begins")
        order.extend(numbers.take(5))

    first, second = Settles(), Settles()
    first.future.add_done_callback(submit)
    second.future.add_done_callback(lambda _: order.append("next"))
    try:
        client.submit(3, submission(1, 2), [first, second])
        wait_until(lambda: len(head.heard) == 1)
        head.answer(m.Outcomes([TaskOutcome(1, "COMPLETED")]))
        wait_until(lambda: len(head.heard) == 2)
        # While the callback waits, another task's end is known; its callback comes after.
        head.answer(m.Outcomes([TaskOutcome(2, "COMPLETED")]))
        assert second.future.result(20) == "COMPLETED"
        assert order == ["begins"]
        head.answer(m.Reply(head.heard[1].request, [3 << 32 | 3, 8]))
        wait_until(lambda: "next" in order)
        assert order == ["begins", *(3 << 32 | n for n in range(1, 6)), "next"]
    finally:
        client.close()
        head.end()


def test_message_that_cannot_be_sent_is_refused_to_who_makes_it(site: Site) -> None:
    head = Head(site, 1)
    client = Connection(site, start=False)
    innocent = Settles()
    try:
        client.submit(3, submission(1), [innocent])
        for arguments, words in (
            ({"name": "m\udcfcller"}, "bytes that are no UTF-8"),
            ({"limit": 10**20}, "64 bits"),
            ({"name": lambda: 1}, "a function cannot be sent"),
        ):
            with pytest.raises(PilotError, match=words):
                client.request(lambda n, a=arguments: m.Query(n, "tasks", a))  # type: ignore[misc]  # it has a default
        with pytest.raises(PilotError, match="name: Expected `str`, got `int`"):
            client.request(lambda n: m.OpenSession(n, 3, Environment("/")))  # type: ignore[arg-type]  # no text
        told = client.post(lambda n: m.Query(n, "tasks", {"limit": np.int64(5), "at": Path("/x")}))
        wait_until(lambda: len(head.heard) == 2)
        assert head.heard[1].arguments == {"limit": 5, "at": "/x"}
        head.answer(m.Reply(head.heard[1].request, 7))
        head.answer(m.Outcomes([TaskOutcome(1, "COMPLETED")]))
        assert told.result(20) == 7 and innocent.future.result(20) == "COMPLETED"
    finally:
        client.close()
        head.end()


class GivenUp(Settles):
    def refuse(self, error: Exception) -> None:
        self.future.set_exception(error)

    fail = refuse


class Fate:
    """Notes in which way a task was given up."""

    def __init__(self) -> None:
        self.given_up: concurrent.futures.Future[str] = concurrent.futures.Future()

    def settle(self, outcome: TaskOutcome) -> None: ...
    def started(self) -> None: ...
    def disown(self, error: Exception) -> None: ...

    def refuse(self, _: Exception) -> None:
        self.given_up.set_result("refused")

    def fail(self, _: Exception) -> None:
        self.given_up.set_result("lost")


def test_what_the_head_refused_is_told_from_what_is_lost(site: Site) -> None:
    head = Head(site, 1)
    client = Connection(site, start=False)
    refused, lost = Fate(), Fate()
    try:
        for task, fate in ((1, refused), (2, lost)):
            wanted = Submission()
            wanted.tasks.append(TaskSpec(task, 1, b""))
            client.submit(3, wanted, [fate])
        wait_until(lambda: sum(len(message.tasks) for message in head.heard) == 2)
        head.answer(m.Accepted(head.heard[0].seq, [(1, "no")]))
        assert refused.given_up.result(20) == "refused"
    finally:
        client.close()
        head.end()
    assert lost.given_up.result(20) == "lost"


def test_submission_that_cannot_be_encoded_fails_alone(site: Site) -> None:
    head = Head(site, 1)
    client = Connection(site, start=False)
    bad, good = GivenUp(), Settles()
    wrong = Submission()
    wrong.tasks.append(TaskSpec(1, 1, object()))  # type: ignore[arg-type]  # not bytes
    try:
        client.submit(3, wrong, [bad])
        with pytest.raises(SubmissionError, match="cannot be sent"):
            bad.future.result(20)
        client.submit(3, submission(2), [good])
        wait_until(lambda: len(head.heard) == 1)
        head.answer(m.Accepted(head.heard[0].seq))
        assert client.flush(20)
        head.answer(m.Outcomes([TaskOutcome(2, "COMPLETED")]))
        assert good.future.result(20) == "COMPLETED"
    finally:
        client.close()
        head.end()


def test_head_that_is_silent_is_asked_and_then_told_of(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "PING_S", 0.2)
    monkeypatch.setattr(connection, "SILENT_S", 0.5)
    head = Head(site, 1)
    client = Connection(site, start=False)
    try:
        client.submit(3, submission(1), [Nobody()])
        with pytest.raises(HeadError, match=r"\(pid \d+ on here\) does not answer"):
            client.flush()
        with pytest.raises(HeadError, match=r"is it stopped\? Nothing was submitted"):
            client.numbers(3, 3 << 32 | 1, 1).take(5)
        wait_until(lambda: "has not answered for" in caplog.text)
        pings = [message for message in head.heard if isinstance(message, m.Query)]
        assert len(pings) == 1
        # It was only slow.
        head.answer(m.Reply(pings[0].request, {}))
        head.answer(m.Accepted(head.heard[0].seq))
        assert client.flush(20)
        wait_until(lambda: client.silence() < 0.5)
    finally:
        client.close()
        head.end()


def test_head_that_cannot_write_is_told_of_once_until_it_can(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "PING_S", 0.1)
    monkeypatch.setattr(connection, "TROUBLE_S", 0.1)
    head = Head(site, 1)
    client = Connection(site, start=False)

    answered: list[m.Query] = []

    def open_queries() -> list[m.Query]:
        queries = [message for message in head.heard if isinstance(message, m.Query)]
        return queries[len(answered) :]

    def answer(trouble: str, count: int) -> None:
        """Answer as many further questions."""
        for _ in range(count):
            query = wait_until(open_queries)[0]
            answered.append(query)
            head.answer(m.Reply(query.request, {"unwritten": trouble}))

    try:
        client.submit(3, submission(1), [Nobody()])
        answer("disk full", 2)
        wait_until(lambda: "cannot write its database: disk full" in caplog.text)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waits = pool.submit(client.flush_or_trouble)

            def has_given_up() -> bool:
                if open_queries():
                    answer("disk full", 1)
                return waits.done()

            wait_until(has_given_up)
            waits.result()
        assert caplog.text.count("cannot write") == 1
        answer("", 2)
        answer("disk full", 2)
        wait_until(lambda: caplog.text.count("cannot write") == 2)
    finally:
        client.close()
        head.end()


def test_another_database_in_its_place_ends_the_connection(site: Site) -> None:
    first = Head(site, 1, database="one")
    client = Connection(site, start=False)
    second = None
    awaited = GivenUp()
    try:
        assert client.database == "one"
        client.submit(3, submission(1), [awaited])
        wait_until(lambda: len(first.heard) == 1)
        first.end()
        second = Head(site, 2, database="two")
        with pytest.raises(HeadError, match="has another database now"):
            awaited.future.result(20)
        with pytest.raises(HeadError, match="has another database now"):
            client.post(lambda n: m.Query(n, "head"))
    finally:
        client.close()
        for each in (first, second):
            if each is not None:
                each.end()


def test_forked_copy_has_no_connection(site: Site) -> None:
    head = Head(site, 1)
    client = Connection(site, start=False)
    awaited = GivenUp()
    awaited.disown = awaited.fail
    try:
        client.submit(3, submission(1), [awaited])
        asked = client.post(lambda n: m.Query(n, "head"))
        with client._lock:  # as another thread may at that moment
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    for call in (
                        client.flush,
                        asked.result,
                        awaited.future.result,
                        lambda: client.request(lambda n: m.Query(n, "head")),
                        lambda: client.submit(3, submission(2), [awaited]),
                        lambda: client.watch({5: awaited}),
                    ):
                        with pytest.raises(PilotError, match=f"belongs to process {os.getppid()}"):
                            call()
                    client.close()
                    status = 0
                finally:
                    os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        wait_until(lambda: len(head.heard) == 2)
        head.answer(m.Reply(head.heard[1].request, 7))
        assert asked.result(20) == 7 and not client.owner
    finally:
        client.close()
        head.end()


class Explanation:
    """What is told of one task."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.outcome: TaskOutcome | None = None

    def settle(self, outcome: TaskOutcome) -> None:
        self.outcome = outcome

    def refuse(self, error: Exception) -> None:
        self.error = error

    fail = refuse

    def started(self) -> None: ...
    def disown(self, error: Exception) -> None: ...


def test_submission_that_the_head_cannot_read_fails_and_no_other(site: Site) -> None:
    head = Head(site, 1)
    client = Connection(site, start=False)
    try:
        bad, good = Explanation(), Explanation()
        client.submit(1, submission(1), [bad])
        wait_until(lambda: len(head.heard) == 1)
        client.submit(1, submission(2), [good])
        wait_until(lambda: len(head.heard) == 2)
        head.answer(m.Reply(head.heard[0].seq, error="the head cannot read this Submit"))
        head.answer(m.Accepted(head.heard[1].seq))
        assert client.flush(20.0)
        assert isinstance(bad.error, SubmissionError) and "cannot read" in str(bad.error)
        head.answer(m.Outcomes([TaskOutcome(2, "COMPLETED")]))
        wait_until(lambda: good.outcome is not None)
    finally:
        client.close()
        head.end()


def test_client_goes_on_after_what_it_cannot_read(site: Site) -> None:
    head = Head(site, 1)
    client = Connection(site, start=False)
    try:
        told = Explanation()
        client.submit(1, submission(1), [told])
        asked = client.post(lambda number: m.Query(number, "q"))
        wait_until(lambda: len(head.heard) == 2)
        head.answer(m.Accepted(head.heard[0].seq))
        head.answer(Strange("Reply", head.heard[1].request, None, 5))  # its error is no text
        with pytest.raises(PilotError, match="the head's answer cannot be read"):
            asked.result(20.0)
        head.answer(Strange("Outcomes", 7))  # that of the task, perhaps
        wait_until(lambda: isinstance(head.heard[-1], m.Watch))
        assert head.heard[-1].tasks == [1]
        head.answer(m.Outcomes([TaskOutcome(1, "COMPLETED")]))
        wait_until(lambda: told.outcome is not None)
    finally:
        client.close()
        head.end()


class Strange(msgspec.Struct, array_like=True):
    """What is no message."""

    kind: str
    first: Any
    second: Any = None
    third: Any = None


def test_client_whose_connection_ends_comes_again(site: Site) -> None:
    """As where it has not read for long, and the head has broken it off."""
    head = Head(site, 1)
    client = Connection(site, start=False)
    try:
        told = Explanation()
        client.submit(1, submission(1), [told])
        wait_until(lambda: len(head.heard) == 1)
        head.answer(m.Accepted(head.heard[0].seq))
        assert client.flush(20.0)
        for stream in list(head._server._local._peers.values()):
            stream.break_off()
        wait_until(lambda: isinstance(head.heard[-1], m.Watch))
        head.answer(m.Outcomes([TaskOutcome(1, "COMPLETED")]))
        wait_until(lambda: told.outcome is not None)
        assert told.error is None
    finally:
        client.close()
        head.end()


def test_a_head_that_accepts_nothing_is_sent_no_more_than_it_can_keep(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk is full; when it is not any more, all comes, and in its order."""
    monkeypatch.setattr(connection, "UNACCEPTED_BYTES", 50_000)
    monkeypatch.setattr(portions, "SUBMIT_BYTES", 10_000)
    first = Head(site, 1)
    client = Connection(site, start=False)
    second = None
    try:
        for n in range(100):
            client.submit(1, large(n, 1, 5000), [Nobody()])
        with pytest.raises(concurrent.futures.TimeoutError):
            client.post(lambda number: m.Cancel(number, 1)).result(0.5)
        kept = sum(len(spec.payload) for submit in first.heard for spec in submit.tasks)
        assert 50_000 <= kept <= 70_000
        assert not client.flush(0.1)
        first.end()
        second = Head(site, 2)
        wait_until(lambda: second is not None and bool(second.heard))
        told = 0

        def accept() -> bool:
            nonlocal told
            for message in second.heard[told:]:
                told += 1
                if isinstance(message, m.Submit):
                    second.answer(m.Accepted(message.seq, []))
            return any(isinstance(message, m.Cancel) for message in second.heard)

        wait_until(accept)
        ids = [
            s.id for submit in second.heard if isinstance(submit, m.Submit) for s in submit.tasks
        ]
        assert ids == list(range(100)) and isinstance(second.heard[-1], m.Cancel)
        assert client.flush(20)
        assert client._unaccepted_bytes == 0 and not client._sizes
    finally:
        client.close()
        for head in (first, second):
            if head is not None:
                head.end()


def test_a_client_that_was_forgotten_greets_again_and_asks_for_what_it_awaits(site: Site) -> None:
    head = Head(site, 1)
    client = Connection(site, start=False)
    try:
        client.submit(1, submission(1, 2), [Nobody(), Nobody()])
        wait_until(lambda: len(head.heard) == 1)
        head.answer(m.Accepted(head.heard[0].seq, []))
        wait_until(lambda: not client._open)
        client.submit(1, submission(3), [Nobody()])
        wait_until(lambda: len(head.heard) == 2)
        head.answer(Welcome(1, __version__, WHO_ARE_YOU))
        wait_until(lambda: len(head.greeted) == 2 and len(head.heard) == 3)
        assert head.heard[-1] == m.Watch([1, 2]), "of 3 the head does not know yet"
    finally:
        client.close()
        head.end()


def test_a_client_says_each_minute_that_it_lives(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ALIVE_S", 0.5)
    head = Head(site, 1)
    client = Connection(site, start=False)
    try:
        wait_until(lambda: head.heard.count(m.Watch([])) >= 2)
    finally:
        client.close()
        head.end()
