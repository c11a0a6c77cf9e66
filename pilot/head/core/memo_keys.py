"""The key under which the results of a task are found again. Pure.

A task's key is made of the key of its function (`Template.cache`, see
`pilot.client.caching.keys`), of its arguments, and of the digests of its inputs. The results of a
task with a key have digests that derive from it: so its dependents have the same keys in every run,
however large the results are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from pilot.model.tasks import TaskSpec, Template
from pilot.model.values import Value

_SIZE = 16


def base(template: Template, spec: TaskSpec) -> bytes:
    """Return the part of a key that is known when the task is submitted."""
    digest = hashlib.blake2b(template.cache, digest_size=_SIZE)
    digest.update(spec.digest or spec.payload)
    return digest.digest()


def key(start: bytes, inputs: Iterable[Value]) -> bytes:
    """Return the key of a task, from its `base` and its inputs in their order."""
    digest = hashlib.blake2b(start, digest_size=_SIZE)
    for value in inputs:
        digest.update(_digest(value))
    return digest.digest()


def marked(values: tuple[Value, ...], memo: bytes) -> tuple[Value, ...]:
    """Return the results of a task with this key; files get digests that derive from the key."""
    if all(value.is_inline for value in values):
        return values
    return tuple(
        value
        if value.is_inline or value.digest
        else msgspec.structs.replace(value, digest=key(memo + b"%d" % index, ()))
        for index, value in enumerate(values)
    )


def _digest(value: Value) -> bytes:
    if value.digest:
        return value.digest
    # What is in a file and came of a task without a key has nothing but its place.
    content = value.payload if value.is_inline else f"{value.path}:{value.name}".encode()
    return hashlib.blake2b(content, digest_size=_SIZE).digest()
