"""Pictures of samples, where matplotlib is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.measure import cumulative


def why_not() -> str:
    """Why no pictures can be made; empty where they can."""
    if importlib.util.find_spec("matplotlib") is None:
        return "matplotlib is not installed; pip install matplotlib"
    return ""


def latencies(samples: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Distributions of latencies: one picture for each size of batch, one line for each system.

    Parameters
    ----------
    samples
        Size of the batch → system → latencies in seconds.
    path
        The file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(samples), figsize=(4.2 * len(samples), 3.6), sharey=True, squeeze=False
    )
    for ax, (size, systems) in zip(axes[0], samples.items(), strict=True):
        for name, values in systems.items():
            points = cumulative([1e3 * value for value in values])
            ax.step(*zip(*points, strict=True), where="post", label=name)
        ax.set_xscale("log")
        ax.set_title(f"batch of {size}")
        ax.set_xlabel("latency, ms")
        ax.grid(visible=True, which="both", alpha=0.2)
    axes[0][0].set_ylabel("share of batches")
    axes[0][-1].legend(loc="lower right", fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
