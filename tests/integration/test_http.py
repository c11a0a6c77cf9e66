"""HTTP requests as tasks: futures in them, how many at a time, and what is shown of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.http_server import Heard, Says, Server, serving
from support.sites import SiteUnderTest, local_template, site_under_test

import pilot
from pilot import Session
from pilot.cli import cli
from pilot.workflow import load_workflow

DEADLINE_S = 30.0
SECRET = "s3cret"
#: How many requests the site lets a host have at a time.
MOST = 2


class Counter:
    """Counts the requests that are under way, and answers when as many are as may be."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.all_there = threading.Event()

    def __call__(self, asked: Heard) -> Says:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now == MOST:
                self.all_there.set()
        self.all_there.wait(DEADLINE_S)
        with self.lock:
            self.now -= 1
        return Says(200)


def answer(asked: Heard) -> Says:
    if asked.path == "/jobs":
        return Says(201, json.dumps({"id": "a/7", "sent": json.loads(asked.body)}).encode())
    if asked.path.startswith("/none"):
        return Says(404, b"nothing here")
    return Says(200, f"{asked.method} {asked.path}".encode())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(answer) as server:
        yield server


@pytest.fixture(scope="module")
def site() -> Iterator[SiteUnderTest]:
    with site_under_test(local_template(http={"per_host": {"127.0.0.1": MOST}})) as site:
        yield site


@pytest.fixture(scope="module")
def session(site: SiteUnderTest) -> Iterator[Session]:
    with site.session() as session:
        yield session


def double(number: int) -> int:
    return 2 * number


def id_of(answer: pilot.HttpResponse) -> str:
    return str(answer.json()["id"])


def test_results_go_into_requests_and_answers_into_tasks(session: Session, server: Server) -> None:
    number = session.submit(double, 21)
    job = pilot.http("POST", f"{server.url}/jobs", json={"n": [number], "m": 1})
    posted = session.submit(job)
    got = session.submit(
        pilot.http("GET", server.url + "/jobs/{id}"), id=session.submit(id_of, posted)
    )
    assert posted.result(DEADLINE_S).json()["sent"] == {"n": [42], "m": 1}
    assert got.result(DEADLINE_S).text == "GET /jobs/a%2F7"
    (asked,) = [heard for heard in server.heard if heard.path == "/jobs"]
    assert asked.headers["Idempotency-Key"]
    # An answer in JSON of another request, and many calls of one task.
    many = session.submit_many(job, [{"json": {"was": posted, "i": i}} for i in range(3)])
    sent = [each.result(DEADLINE_S).json()["sent"] for each in many]
    assert [each["i"] for each in sent] == [0, 1, 2] and sent[0]["was"]["id"] == "a/7"
    keys = {heard.headers["Idempotency-Key"] for heard in server.heard if heard.path == "/jobs"}
    assert len(keys) == 4


def test_a_failure_is_the_tasks_and_is_no_secret(
    site: SiteUnderTest, session: Session, server: Server
) -> None:
    url = f"{server.url.replace('//', f'//u:{SECRET}@')}/none/x?key={SECRET}"
    failed = session.submit(
        pilot.http("POST", url, headers={"X-Key": SECRET}, json={"password": SECRET})
    )
    error = failed.exception(DEADLINE_S)
    assert isinstance(error, pilot.HttpFailed) and error.status == 404
    assert "nothing here" in str(error) and SECRET not in f"{error}{error.__cause__}"
    for command in (
        ["task", "show", failed.task_id],
        ["task", "show", "--json", failed.task_id],
        ["task", "list"],
        ["task", "logs", failed.task_id],
        ["why", failed.task_id],
    ):
        told = CliRunner().invoke(cli, [*command, "--site", str(site.directory)])
        assert told.exit_code in (0, 8), told.output
        assert SECRET not in told.output
        if command[:2] == ["task", "show"]:
            assert "POST http://127.0.0.1" in told.output and "with headers, json" in told.output


def test_a_host_has_no_more_requests_than_the_site_says(
    site: SiteUnderTest, session: Session
) -> None:
    count = Counter()
    with serving(count) as busy:
        ask = pilot.http("GET", busy.url + "/{i}")
        futures = [session.submit(ask, i=i) for i in range(6)]
        for future in futures:
            future.result(DEADLINE_S)
    assert count.most == MOST


def test_requests_in_a_workflow_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: Session, server: Server
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.yaml").write_text(
        f"""
        parameters: {{base: "{server.url}"}}
        tasks:
          start:
            http: POST ${{base}}/jobs
            json: {{steps: 3}}
          look:
            http: GET ${{base}}/jobs/{{id}}/{{i}}
            foreach: {{i: [1, 2]}}
            with: {{id: "${{tasks.start.status}}", i: "${{i}}"}}
          told:
            run: echo ${{tasks.look[1].text}}
        results: {{sent: "${{tasks.start.json}}", told: "${{tasks.told.stdout}}"}}
        """
    )
    submitted = load_workflow(tmp_path / "w.yaml").submit(session)
    results = submitted.results()
    assert results["sent"]["sent"] == {"steps": 3}
    assert results["told"].strip() == "GET /jobs/201/2"
