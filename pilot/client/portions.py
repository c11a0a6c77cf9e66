"""Submissions as messages of a size that suits the head: neighbours joined, large ones split.

Invariants
----------
- Nothing overtakes what was submitted before it.
- New functions and templates go with a submission's first part.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from pilot.client.submission import Submission
from pilot.limits import SUBMIT_BYTES
from pilot.model.tasks import TaskSpec

#: Tasks in one message.
FRAME = 5000
#: The size of a task, and of a template, in a message without its payload, about, in bytes.
TASK_BYTES, TEMPLATE_BYTES = 64, 512

#: Something to be sent: a message, or a submission with its session.
Item: TypeAlias = "msgspec.Struct | tuple[int, Submission]"


def size_of(submission: Submission) -> int:
    """Return about how many bytes a submission takes in a message."""
    return _size_introduced(submission) + sum(map(_size, submission.tasks))


def portions(items: list[Item]) -> list[Item]:
    """Cut submissions into messages, each of `FRAME` tasks and `SUBMIT_BYTES` at most:
    join neighbouring ones of the same session, and split large ones.

    New functions and templates go with a submission's first part. One task, or function, may be
    larger.
    """
    made: list[Item] = []
    size = 0
    for item in items:
        if not isinstance(item, tuple):
            made.append(item)
            continue
        session, submission = item
        before = made[-1] if made else None
        introduced = _size_introduced(submission)
        if len(submission.tasks) == 1:
            sizes = [_size(submission.tasks[0])]
        else:
            sizes = [_size(spec) for spec in submission.tasks]
        total = introduced + sum(sizes)
        if (
            isinstance(before, tuple)
            and before[0] == session
            and len(before[1].tasks) + len(sizes) <= FRAME
            and size + total <= SUBMIT_BYTES
        ):
            before[1].functions.extend(submission.functions)
            before[1].templates.extend(submission.templates)
            before[1].tasks.extend(submission.tasks)
            size += total
        elif len(sizes) <= FRAME and total <= SUBMIT_BYTES:
            made.append(item)
            size = total
        else:
            parts = _parts(submission, introduced, sizes)
            made.extend((session, part) for part in parts)
            size = SUBMIT_BYTES  # the last part is left as it is
    return made


def _parts(submission: Submission, size: int, sizes: list[int]) -> list[Submission]:
    """Split a submission; the first part, which begins with `size`, has what is introduced."""
    part = Submission()
    part.functions, part.templates = submission.functions, submission.templates
    parts = [part]
    for spec, more in zip(submission.tasks, sizes, strict=True):
        if part.tasks and (len(part.tasks) >= FRAME or size + more > SUBMIT_BYTES):
            part, size = Submission(), 0
            parts.append(part)
        part.tasks.append(spec)
        size += more
    return parts


def _size(spec: TaskSpec) -> int:
    """Return about how many bytes a task takes in a message."""
    try:
        size = TASK_BYTES + len(spec.payload) + 16 * len(spec.inputs) + 9 * len(spec.after)
        if spec.values:
            size += sum(len(value.payload) for value in spec.values)
    except TypeError:
        return TASK_BYTES  # it cannot be sent, which is told then
    return size


def _size_introduced(submission: Submission) -> int:
    """Return about how many bytes functions and templates take in a message."""
    if not (submission.functions or submission.templates):
        return 0
    try:
        return sum(len(one.payload) for one in submission.functions) + sum(
            TEMPLATE_BYTES + len(one.default) for one in submission.templates
        )
    except TypeError:
        return TEMPLATE_BYTES
