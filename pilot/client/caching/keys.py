"""Cache keys: digests by which a task's results are found again in a later run.

Only tasks with ``cache=True`` have them. Their results depend on the function and on what it
refers to (`pilot.client.caching.code_fingerprint`), on the arguments, and on files.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pilot.client.command import CommandResult, ShellCommand
from pilot.client.task import Task
from pilot.data.file_stamps import DIGEST_BYTES, file_digest
from pilot.model.tasks import FileStamp
from pilot.texts import encodable

#: Opcodes for names of functions and classes, and for sets, whose order differs from run to run. A
#: pickle without these bytes says the same in every run.
_MORE_THAN_DATA = (
    pickle.STACK_GLOBAL,
    pickle.EMPTY_SET,
    pickle.FROZENSET,
)


def source_digest(task: Task[..., Any], ranks: int) -> bytes:
    """Return the digest of everything that a task's results depend on, except its arguments.

    Parameters
    ----------
    task
        The task.
    ranks
        The number of MPI ranks.

    Raises
    ------
    SubmissionError
        Something that the function uses has no digest.
    """
    from pilot.client.caching.code_fingerprint import Digest

    digest = Digest(task.__name__)
    digest.add(task.function)
    digest.note(task.kind, task.task_options.return_count, task.task_options.return_names, ranks)
    options = task.task_options
    if options.environment or options.container:
        digest.note(repr(sorted((options.environment or {}).items())), repr(options.container))
    return digest.result()


def call_digest(
    task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], payload: bytes
) -> bytes:
    """Return the digest of a call's arguments, and of the input files of a command.

    Parameters
    ----------
    task
        The task that is called. The contents of a command's input files count, as far as these are
        there already. Others are made by tasks whose results the call gets.
    args, kwargs
        The arguments.
    payload
        All arguments, encoded.

    Raises
    ------
    SubmissionError
        An argument has no digest.
    """
    if any(opcode in payload for opcode in _MORE_THAN_DATA):
        from pilot.client.caching.code_fingerprint import Digest

        arguments = Digest(task.__name__)
        arguments.add_arguments(args, kwargs)
        payload = arguments.result()
    digest = hashlib.blake2b(payload, digest_size=DIGEST_BYTES)
    for path in _input_files(task.function, kwargs):
        digest.update(file_digest(path) if path.is_file() else b"-")
    return digest.digest()


def _input_files(function: object, kwargs: Mapping[str, Any]) -> list[Path]:
    if not isinstance(function, ShellCommand):
        return []
    given = (kwargs.get(name) for name in function.inputs)
    names = [name for name in given if isinstance(name, (str, os.PathLike))]
    if function.stdin and "{" not in function.stdin:
        names.append(function.stdin)
    return [Path(function.cwd or ".", name) for name in names]


def with_digests(result: CommandResult, of_contents: bool) -> CommandResult:
    """Return a command's result with the digests of its output files, for tasks that use it.

    Parameters
    ----------
    result
        The command's result.
    of_contents
        Read the files; otherwise their sizes and times count.
    """
    digests = {
        name: file_digest(path).hex()
        if of_contents
        else "{0.st_size}-{0.st_mtime_ns}".format(path.stat())
        for name, path in result.outputs.items()
    }
    return replace(result, digests=digests)


def stamps(result: object) -> tuple[FileStamp, ...]:
    """Return the output files of a command with their current sizes and times."""
    if not isinstance(result, CommandResult):
        return ()
    found = ((path, path.stat()) for path in result.outputs.values())
    # A name that is no UTF-8 cannot travel: what stands for it is never found, and the task runs.
    return tuple(FileStamp(encodable(str(path)), s.st_size, s.st_mtime_ns) for path, s in found)
