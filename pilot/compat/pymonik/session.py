"""The instance of a program for PymoniK: a session of Pilot's, by PymoniK's names.

Invariant: the current instance is that of the innermost ``with`` block, in each thread and each
asynchronous task for itself; in a task it is one that makes children.
"""

from __future__ import annotations

import contextvars
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from pilot.client.context import context
from pilot.compat import search_directory
from pilot.compat.pymonik.current import reset_current, set_current
from pilot.compat.pymonik.endpoints import site_of
from pilot.compat.pymonik.handles import MultiResultHandle, ResultHandle
from pilot.compat.pymonik.materials import Materialize, contents_of
from pilot.compat.pymonik.options import USUAL_PARTITION, TaskOptions, of_pilot, said_by

if TYPE_CHECKING:
    from pilot.client.session import Session


class Invoked(Protocol):
    """A task, as far as an instance needs it."""

    def pilot_task(self, options: Mapping[str, Any], partition: str) -> Any: ...


@contextmanager
def worker_instance() -> Iterator[Pymonik]:
    """Have an instance for the task that runs here."""
    instance = Pymonik(is_worker=True)
    token = set_current(instance)
    try:
        yield instance
    finally:
        reset_current(token)


class Pymonik:
    """A program's session.

    Parameters
    ----------
    endpoint
        The site that names it in its file (``endpoints``); else that of ``$PILOT_SITE``, or
        ``local``.
    partition
        The name of a partition, or several, of which the first counts: a pool of the site.
    environment
        ``env_variables``: a mapping of variables that tasks have; ``pip``: distributions that must
        be installed.
    is_worker
        True inside of a task.
    task_options
        Options of its tasks.
    batch_size, disable_events_client, polling_interval, polling_batch_size, local_session
        Of no meaning here.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        partition: str | Sequence[str] = USUAL_PARTITION,
        environment: Mapping[str, Any] | None = None,
        is_worker: bool = False,
        batch_size: int = 32,
        task_options: Any = None,
        disable_events_client: bool = False,
        polling_interval: float = 1,
        polling_batch_size: int = 10,
        local_session: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.partition = [partition] if isinstance(partition, str) else list(partition)
        self.environment = dict(environment or {})
        self.is_worker = is_worker
        self.batch_size = batch_size
        first = self.partition[0] if self.partition else USUAL_PARTITION
        self.task_options = task_options or TaskOptions(partition_id=first)
        self.disable_events_client = disable_events_client
        self.polling_interval = polling_interval
        self.polling_batch_size = polling_batch_size
        self.local_session = local_session
        #: The future of a child whose result is that of the task; None: it has its own.
        self.delegated: Any = None
        self._session: Session | None = None
        self._tokens: list[contextvars.Token[Any]] = []
        #: What was uploaded, by its hash.
        self._uploaded: dict[str, ResultHandle[bytes]] = {}

    # --- the session

    def create(self) -> Pymonik:
        """Open the session, and return this instance."""
        from pilot.client.session import Session

        self._refuse_in_worker("create a session")
        if self._session is None:
            self._check_distributions()
            variables = self.environment.get("env_variables") or {}
            site = site_of(self.endpoint)
            if site is not None:
                print(f"pymonik: {self.endpoint} is site {site.name}")  # noqa: T201 - as below
            self._session = Session(
                site,
                sys_path=[search_directory()],
                variables={name: str(value) for name, value in variables.items()},
            )
            print(f"pymonik: session {self.session_id} was created")  # noqa: T201 - as PymoniK
        return self

    def close(self) -> None:
        """Take no more tasks. Those that are there go on."""
        if self._session is not None and self._session.is_open:
            self._session.shutdown(wait=False)
            print(f"pymonik: session {self.session_id} was closed")  # noqa: T201 - as PymoniK

    def cancel(self) -> None:
        """End all tasks."""
        self._opened().cancel()
        print(f"pymonik: session {self.session_id} was cancelled")  # noqa: T201 - as PymoniK

    @property
    def session_id(self) -> str:
        """The id of the session, in text."""
        return str(context().session_id if self.is_worker else self._opened().id)

    def __enter__(self) -> Pymonik:
        self.create()
        self._tokens.append(set_current(self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        reset_current(self._tokens.pop())
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.cancel()
        self.close()

    # --- tasks

    def run(
        self,
        task: Invoked,
        rows: list[tuple[Any, ...]],
        kwargs: dict[str, Any],
        said: Mapping[str, Any],
        delegate: bool,
    ) -> list[ResultHandle[Any]]:
        """Submit a task for each row of arguments.

        Raises
        ------
        RuntimeError
            It is to be delegated, and this is no task, or there is not one row.
        """
        if delegate and not (self.is_worker and len(rows) == 1):
            raise RuntimeError("delegate=True is for exactly one task, which another task invokes")
        said = {**said_by(self.task_options), **said}
        session: Any = context().session if self.is_worker else self._opened()
        options = of_pilot(said, session.site.config.pools)
        partition = said.get("partition_id") or USUAL_PARTITION
        made = task.pilot_task(options, partition)
        if kwargs:
            futures = [session.submit(made, *row, **kwargs) for row in rows]
        else:
            futures = session.submit_many(made, rows)
        if delegate:
            (self.delegated,) = futures
        number = str(session.id)
        return [ResultHandle(future, number) for future in futures]

    def register_tasks(self, tasks: Iterable[Invoked]) -> None:
        """Do nothing: functions go with the tasks that need them."""

    # --- values

    def put(self, obj: Any, name: str | None = None) -> ResultHandle[Any]:
        """Store a value for any number of tasks.

        Raises
        ------
        RuntimeError
            This is a task.
        """
        return self.put_many([obj], None if name is None else [name])[0]

    def put_many(
        self, objects: Iterable[Any], names: Sequence[str] | None = None
    ) -> MultiResultHandle[Any]:
        """Store values; see `put`.

        Raises
        ------
        ValueError
            There are not as many names as values.
        """
        self._refuse_in_worker("put values")
        values = list(objects)
        if names is not None and len(names) != len(values):
            raise ValueError(f"there are {len(values)} values and {len(names)} names")
        session = self._opened()
        # One alone is shared: nodes keep a copy.
        if len(values) == 1:
            futures = [session.put(values[0])]
        else:
            futures = session.put_many(values)
        return MultiResultHandle(ResultHandle(future, self.session_id) for future in futures)

    def upload_materialize(self, mat: Materialize, force_upload: bool = False) -> Materialize:
        """Upload a file or directory for tasks, once for the same contents; return it."""
        self._refuse_in_worker("upload")
        known = self._uploaded.get(mat.content_hash)
        if known is None or force_upload:
            known = self.put(contents_of(Path(mat.source_path)))
            self._uploaded[mat.content_hash] = known
        mat.result_id = known.result_id
        mat.contents = known.future
        return mat

    # --- parts of the above

    def _opened(self) -> Session:
        if self._session is None:
            raise RuntimeError("the session was not created: use `with Pymonik() as pymonik:`")
        return self._session

    def _refuse_in_worker(self, what: str) -> None:
        if self.is_worker:
            raise RuntimeError(f"a task cannot {what}; do it in the program")

    def _check_distributions(self) -> None:
        """Warn of distributions that are not installed: none is, on nodes that others share."""
        missing = []
        for wanted in self.environment.get("pip") or ():
            text = wanted[0] if isinstance(wanted, (tuple, list)) else str(wanted)
            name = text.split("[")[0].strip()
            for sign in "=<>!~; ":
                name = name.split(sign)[0]
            try:
                metadata.distribution(name)
            except metadata.PackageNotFoundError:
                missing.append(name)
        if missing:
            warnings.warn(
                f"not installed: {', '.join(missing)}. Nothing is installed in workers; install it "
                "into the environment of the site (environment.python of its site file)",
                stacklevel=4,
            )


def run_pymonik_worker(*_: object, **__: object) -> NoReturn:
    """Refuse to be a worker: pilots start theirs by themselves.

    Raises
    ------
    RuntimeError
        Always.
    """
    raise RuntimeError("pilots start their own workers; run the program, and nothing else")
