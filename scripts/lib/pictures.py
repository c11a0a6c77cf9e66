"""The common ground of pictures: small SVG files, drawn by matplotlib where it is installed."""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: A number with more digits after its point than are of use.
_LONG = re.compile(r"(\d\.\d\d)\d+")


def why_not() -> str:
    """Return the reason why no pictures can be made; empty if they can."""
    if importlib.util.find_spec("matplotlib") is None:
        return "matplotlib is not installed; pip install matplotlib"
    return ""


def prepare() -> None:
    """Have text stay text, and the same figures give the same file."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "pilot", "font.size": 9})


def save(figure: Any, path: Path) -> None:
    """Write a figure; a hundredth of a point is as exact as anybody sees."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    path.write_text(_LONG.sub(r"\1", text.getvalue()))


def panels(
    count: int,
    width: float = 0.0,
    height: float = 3.0,
    down: bool = False,
    one_scale: bool = True,
) -> tuple[Any, Sequence[Any]]:
    """Return a figure, and its axes.

    Parameters
    ----------
    count
        The number of panels.
    width, height
        Those of the whole figure, in inches; a width of 0: by their number.
    down
        True: below each other, with one x axis; otherwise beside each other.
    one_scale
        True: panels beside each other have one y axis.
    """
    from matplotlib.figure import Figure

    width = width or (3.4 * count if count > 1 else 5.0)
    figure = Figure(figsize=(width, height), layout="constrained")
    rows, columns = (count, 1) if down else (1, count)
    axes = list(
        figure.subplots(
            rows, columns, sharex=down, sharey=one_scale and not down, squeeze=False
        ).flat
    )
    for ax in axes:
        ax.grid(visible=True, alpha=0.25)
    return figure, axes


def plain_numbers(axis: Any, steps: Sequence[int]) -> None:
    """Mark these steps of each decade, with plain numbers instead of powers."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def style(number: int) -> dict[str, Any]:
    """Return the style of a line; that of Pilot, the first one, stands out."""
    return {"lw": 2.2 if number == 0 else 1.2, "color": f"C{number}"}


def legend(figure: Any, ax: Any) -> None:
    """Draw the legend of the panels' lines below them."""
    handles, names = ax.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize="small")
