"""The pictures: small SVG files of what W2 and CURVES found, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pictures import legend, panels, plain_numbers, prepare, save, style

from bench.measure import percentile

#: A distribution is drawn through so many points.
POINTS = 100
Points = Sequence[Sequence[float]]


def draw(data: Mapping[str, Any], directory: Path) -> list[Path]:
    """Draw all pictures for which there are figures.

    Parameters
    ----------
    data
        The raw data of a run: what ``W2`` and ``CURVES`` found.
    directory
        Where the files go; it is made.

    Returns
    -------
    list[Path]
        The files.
    """
    prepare()
    directory.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Callable[[], Any]] = {}
    if "W2" in data:
        pictures["latency"] = lambda: _latency(data["W2"])
    if "CURVES" in data:
        curves = data["CURVES"]
        pictures["length"] = lambda: _length(curves["lengths"])
        pictures["executors"] = lambda: _executors(curves["executors"])
        pictures["waiting"] = lambda: _waiting(curves["waiting"])
    written = []
    for name, picture in pictures.items():
        path = directory / f"{name}.svg"
        save(picture(), path)
        written.append(path)
    return written


def _latency(samples: Mapping[str, Mapping[str, Sequence[float]]]) -> Any:
    """Draw distributions: a panel for each size of batch, a line for each contender."""
    figure, axes = panels(len(samples))
    for ax, (size, systems) in zip(axes, samples.items(), strict=True):
        for number, (name, values) in enumerate(systems.items()):
            percents = [100 * index / POINTS for index in range(POINTS + 1)]
            found = [1e3 * percentile(values, percent) for percent in percents]
            ax.plot(found, [percent / 100 for percent in percents], label=name, **style(number))
        ax.set(xscale="log", title=f"batch of {size}", xlabel="latency, ms")
        plain_numbers(ax.xaxis, (1, 2, 5))
    axes[0].set_ylabel("share of batches")
    legend(figure, axes[0])
    return figure


def _length(curves: Mapping[str, Points]) -> Any:
    """Draw throughput: a line for each contender, and the ideal."""
    figure, (ax,) = panels(1)
    _lines(ax, ((name, points) for name, points in curves.items() if name != "ideal"), 1e3)
    lengths, rates = _columns(curves["ideal"])
    ax.plot([1e3 * length for length in lengths], rates, ":", color="grey", label="no overhead")
    ax.set(xscale="log", yscale="log", xlabel="length of a task, ms", ylabel="tasks/s")
    for axis in (ax.xaxis, ax.yaxis):
        plain_numbers(axis, (1,))
    legend(figure, ax)
    return figure


def _executors(curves: Mapping[str, Mapping[str, Points]]) -> Any:
    """Draw efficiency: a panel for each length of tasks, a line for each contender."""
    figure, axes = panels(len(curves))
    for ax, (length, systems) in zip(axes, curves.items(), strict=True):
        _lines(ax, systems.items())
        ax.set(title=f"tasks of {length}", xlabel="executors", ylim=(0, 1.05))
        ax.set_xscale("log", base=2)
        counts = sorted({x for points in systems.values() for x, _ in points})
        ax.set_xticks(counts, [f"{count}" for count in counts])
    axes[0].set_ylabel("share of time that executors are busy")
    legend(figure, axes[0])
    return figure


def _waiting(curves: Mapping[str, Mapping[str, Points]]) -> Any:
    """Draw overhead: a panel for each awaited thing, lines for elapsed and the head's processor
    time."""
    figure, axes = panels(len(curves))
    for ax, (reason, measures) in zip(axes, curves.items(), strict=True):
        _lines(ax, measures.items())
        ax.set(title=f"they wait for a {reason}", xlabel="waiting tasks")
        ax.set_xscale("symlog", linthresh=1000)
        counts = sorted({x for points in measures.values() for x, _ in points})
        ax.set_xticks(counts, [f"{count:,}" for count in counts])
        ax.set_ylim(bottom=0)
    axes[0].set_ylabel("µs for each task beside them")
    legend(figure, axes[0])
    return figure


def _lines(ax: Any, curves: Iterable[tuple[str, Points]], factor: float = 1) -> None:
    for number, (name, points) in enumerate(curves):
        xs, ys = _columns(points)
        ax.plot([factor * x for x in xs], ys, marker="o", ms=3, label=name, **style(number))


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
