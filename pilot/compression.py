"""The compression of large results, as it is written: ``none``, or ``gzip`` with a level.

It is HDF5's own (shuffle and deflate), which every HDF5 tool reads; others, such as ``lzf``, need
plugins where they are read.
"""

from __future__ import annotations

NONE = "none"
_USUAL = 4
_MOST = 9


def parse_compression(given: object) -> int:
    """Return the level of a compression: 0 for ``none``, 1 to 9 for ``gzip:1`` to ``gzip:9``.

    Raises
    ------
    ValueError
        It is neither; the message says what there is.
    """
    if given == NONE:
        return 0
    if isinstance(given, str):
        name, colon, level = given.partition(":")
        if name == "gzip" and not colon:
            return _USUAL
        if name == "gzip" and level in "123456789" and len(level) == 1:
            return int(level)
    hint = "; lzf is read by h5py alone, not by other HDF5 tools" if given == "lzf" else ""
    raise ValueError(
        f"{given!r:.40} is no compression: give none, gzip (which is gzip:{_USUAL}), or gzip:1 "
        f"(fast) to gzip:{_MOST} (small){hint}"
    )


def compression_text(level: int) -> str:
    """Return a compression as it is written."""
    return f"gzip:{level}" if level else NONE
