"""In what order a client's messages go out."""

from __future__ import annotations

from pilot.submission import Parcel
from pilot.wire import connection
from pilot.wire import messages as m


def parcel(*tasks: int) -> Parcel:
    made = Parcel()
    made.tasks.extend(m.TaskSpec(task, 1, b"") for task in tasks)
    return made


def test_neighbouring_parcels_are_one_and_nothing_overtakes_what_was_sent_before() -> None:
    between = m.Watch([1])
    merged = connection._merge(
        [(1, parcel(1)), (1, parcel(2)), between, (1, parcel(3)), (2, parcel(4))]
    )
    told = [
        (item[0], [spec.id for spec in item[1].tasks]) if isinstance(item, tuple) else item
        for item in merged
    ]
    assert told == [(1, [1, 2]), between, (1, [3]), (2, [4])]
