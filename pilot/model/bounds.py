"""Bounds of numbers in messages: within what the database and the clocks can take; and of paths.

What is outside is refused where a message is decoded, so that nothing behind that has to look.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from msgspec import Meta, MsgspecError

#: Ids, ordinals, sizes and counts.
Number: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
#: 64 bits, as many as msgpack has: it is compared, and neither a column nor computed with.
Checksum: TypeAlias = Annotated[int, Meta(ge=0)]
#: A number that may be negative as well.
Signed: TypeAlias = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
#: Numbers of heads; one more of them than there can ever be is still a number.
Epoch: TypeAlias = Annotated[int, Meta(ge=0, le=10**15)]
#: How many of something the head makes for a task.
Few: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]
#: Moments and lengths of time; no NaN, which compares with nothing and which SQLite takes for none.
Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=1e12)]
#: Like `Seconds`, of a clock that may be ahead.
SignedSeconds: TypeAlias = Annotated[float, Meta(ge=-1e12, le=1e12)]
#: Shares beside others.
Weight: TypeAlias = Annotated[float, Meta(gt=0.0, le=1e9)]

_SEGMENT, _LONGEST = r"^results/[^/.\0][^/\0]*/[^/.\0][^/\0]*\.h5\Z", 1000
#: The path of a segment under the site directory, and under the store of a node: it leads nowhere
#: else, whoever has sent it. Files of this name are copied and removed.
SegmentPath: TypeAlias = Annotated[str, Meta(pattern=_SEGMENT, max_length=_LONGEST)]


def is_segment_path(path: str) -> bool:
    """Tell whether a path is a `SegmentPath`.

    Paths of values are checked where files are removed, and not where they
    are decoded: there are too many.
    """
    return len(path) <= _LONGEST and re.match(_SEGMENT, path) is not None


#: The errors of decoding bytes that are no message: for texts that are no UTF-8, and for data that
#: are nested too deeply, msgspec has none of its own.
UNREADABLE: tuple[type[Exception], ...] = (MsgspecError, ValueError, RecursionError)
