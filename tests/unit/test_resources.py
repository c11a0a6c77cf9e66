"""Amounts and lengths of time as people write them, and what fits where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.scheduler.resources import (
    NodeShape,
    Resources,
    nodes_needed,
    parse_duration_s,
    parse_memory_mib,
    ranks_that_fit,
)


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        (512, 512),
        (0.5, 1),
        ("4G", 4096),
        ("4g", 4096),
        ("4 GiB", 4096),
        ("512M", 512),
        ("512", 512),
        ("1.5G", 1536),
        ("1K", 1),
        ("2T", 2 * 1024**2),
    ],
)
def test_memory(text: object, mib: int) -> None:
    assert parse_memory_mib(text) == mib  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["much", "-1G", "4X", "", "G", True, None, -1])
def test_no_memory(text: object) -> None:
    with pytest.raises(ValueError):
        parse_memory_mib(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90.0),
        (0.5, 0.5),
        ("90s", 90.0),
        ("90", 90.0),
        ("100ms", 0.1),
        ("10m", 600.0),
        ("10min", 600.0),
        ("1.5h", 5400.0),
        ("2d", 172800.0),
        ("10:00", 600.0),
        ("1:30:00", 5400.0),
        ("1-12", 129600.0),
        ("1-12:30", 131400.0),
        ("1-12:30:15", 131415.0),
    ],
)
def test_duration(text: object, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["soon", "-5s", "5 weeks", "", "1:2:3:4", True, None, -1])
def test_no_duration(text: object) -> None:
    with pytest.raises(ValueError):
        parse_duration_s(text)  # type: ignore[arg-type]


needs = st.builds(
    Resources,
    cores=st.integers(1, 8),
    memory_mib=st.integers(0, 4000),
    gpus=st.integers(0, 2),
    ranks=st.integers(1, 12),
    ranks_per_node=st.integers(0, 4),
)
shapes = st.builds(
    NodeShape,
    cores=st.integers(1, 32),
    memory_mib=st.integers(0, 16000),
    gpus=st.integers(0, 4),
)


@given(needs, shapes)
def test_nodes_needed_are_enough_and_not_too_many(need: Resources, shape: NodeShape) -> None:
    per_node = ranks_that_fit(need, shape.cores, shape.memory_mib or None, shape.gpus)
    nodes = nodes_needed(need, shape)
    if nodes is None:
        assert per_node < max(1, need.ranks_per_node)
        return
    on_each = need.ranks_per_node or per_node
    assert on_each <= per_node
    assert nodes * on_each >= need.ranks > (nodes - 1) * on_each


@given(needs, shapes)
def test_what_fits_does_not_exceed_the_node(need: Resources, shape: NodeShape) -> None:
    fit = ranks_that_fit(need, shape.cores, shape.memory_mib or None, shape.gpus)
    assert fit * need.cores <= shape.cores
    assert fit * need.gpus <= shape.gpus
    if shape.memory_mib:
        assert fit * need.memory_mib <= shape.memory_mib


def test_memory_that_is_not_counted_limits_nothing() -> None:
    assert nodes_needed(Resources(memory_mib=10**9), NodeShape(1)) == 1


def test_words() -> None:
    assert str(Resources()) == "1 core"
    assert str(Resources(2, 100, 1)) == "2 cores, 100 MiB, 1 GPU"
    assert str(Resources(ranks=4, ranks_per_node=2)) == "4 ranks, 2 per node, each 1 core"


HUGE = ["9" * 30, "9" * 5000, f"{'9' * 5000}.5", 10**30, 10**5000, 1e300]


@pytest.mark.parametrize("amount", HUGE, ids=lambda amount: f"{type(amount).__name__}")
def test_no_more_memory_than_there_can_be(amount: str | int | float) -> None:
    with pytest.raises(ValueError, match=r"more memory than there is|so many digits") as error:
        parse_memory_mib(amount)
    assert len(str(error.value)) < 200
    assert parse_memory_mib("2000T") == 2000 << 20


@pytest.mark.parametrize(
    "time",
    [*HUGE, f"{'9' * 5000}d", f"1d{'9' * 5000}h", f"{'9' * 5000}-1", f"1:{'9' * 5000}"],
    ids=lambda time: f"{type(time).__name__}",
)
def test_nothing_lasts_for_ever(time: str | int | float) -> None:
    with pytest.raises(ValueError, match=r"is too long|so many digits") as error:
        parse_duration_s(time)
    assert len(str(error.value)) < 200
    assert parse_duration_s("9999999d") == 9999999 * 86400
