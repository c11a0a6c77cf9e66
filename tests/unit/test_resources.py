"""Amounts and lengths of time as people write them, and what fits where."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.scheduler.amounts import MOST, UNIT, amount_text, check_name, parse_amount
from pilot.scheduler.resources import (
    NodeShape,
    Resources,
    Supply,
    common_shape,
    needs,
    node_shape,
    nodes_needed,
    parse_duration_s,
    parse_memory_mib,
    ranks_of_indices,
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
def test_memory(text: Any, mib: int) -> None:
    assert parse_memory_mib(text) == mib


@pytest.mark.parametrize("text", ["much", "-1G", "4X", "", "G", True, None, -1])
def test_no_memory(text: Any) -> None:
    with pytest.raises(ValueError):
        parse_memory_mib(text)


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
def test_duration(text: Any, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["soon", "-5s", "5 weeks", "", "1:2:3:4", True, None, -1])
def test_no_duration(text: Any) -> None:
    with pytest.raises(ValueError):
        parse_duration_s(text)


random_needs = st.builds(
    needs,
    st.integers(1, 8),
    memory_mib=st.integers(0, 4000),
    gpus=st.integers(0, 2),
    ranks=st.integers(1, 12),
    ranks_per_node=st.integers(0, 4),
    named=st.fixed_dictionaries({}, optional={"space": st.integers(1, 3 * UNIT)}),
)
random_shapes = st.builds(
    node_shape,
    st.integers(1, 32),
    st.integers(0, 16000),
    st.integers(0, 4),
    st.just((Supply("space", 7 * UNIT),)),
)


@given(random_needs, random_shapes)
def test_nodes_needed_are_enough_and_not_too_many(need: Resources, shape: NodeShape) -> None:
    per_node = ranks_that_fit(need, shape)
    nodes = nodes_needed(need, shape)
    if nodes is None:
        assert per_node < max(1, need.ranks_per_node)
        return
    on_each = need.ranks_per_node or per_node
    assert on_each <= per_node
    assert nodes * on_each >= need.ranks > (nodes - 1) * on_each


@given(random_needs, random_shapes)
def test_what_fits_does_not_exceed_the_node_and_is_all_that_fits(
    need: Resources, shape: NodeShape
) -> None:
    def holds(ranks: int) -> bool:
        there = {supply.name: supply.amount for supply in shape.named}
        there.setdefault("memory", 10**12)  # it is not counted
        return ranks * need.cores <= shape.cores and all(
            ranks * amount <= there.get(name, 0) for name, amount in need.named
        )

    fit = ranks_that_fit(need, shape)
    assert holds(fit) and not holds(fit + 1)


@given(st.lists(st.integers(0, UNIT), max_size=4), st.integers(1, 3 * UNIT))
def test_parts_of_things_that_are_told_apart(free: list[int], amount: int) -> None:
    fit = ranks_of_indices(free, amount)
    if amount > UNIT and amount % UNIT:
        assert fit == 0  # whole ones, or a part of one
    elif amount >= UNIT:
        assert fit == free.count(UNIT) * UNIT // amount
    else:
        assert fit == sum(left // amount for left in free)


def test_memory_that_is_not_counted_limits_nothing() -> None:
    assert nodes_needed(needs(memory_mib=10**9), NodeShape(1)) == 1
    assert nodes_needed(needs(gpus=1), NodeShape(1)) is None


def test_equal_needs_are_alike_in_whatever_order_they_are_given() -> None:
    one = needs(named={"fpga": UNIT, "space": UNIT, "none": 0})
    other = needs(named={"space": UNIT, "fpga": UNIT})
    assert one == other and hash(one) == hash(other)


def test_what_is_of_the_site_is_the_whole_task_s() -> None:
    need = needs(named={"matlab": UNIT, "space": 2 * UNIT}, ranks=4).with_site({"matlab"})
    assert (need.named, need.site) == ((("space", 2 * UNIT),), (("matlab", UNIT),))
    assert need.with_site({"matlab"}) is need
    assert need.amounts == {"cores": 1, "space": 2, "matlab": 1}
    assert str(need) == "4 ranks, each 1 core, 2 space; 1 matlab for all"


def test_nodes_of_different_shapes_have_in_common_what_each_has() -> None:
    large = node_shape(8, 4000, 4, [Supply("space", 9 * UNIT)])
    small = node_shape(4, 8000, 2)
    common = common_shape([large, small])
    assert common == node_shape(4, 4000, 2)
    assert common_shape([large, large]) is large
    assert common_shape([]) == NodeShape(1)


def test_words() -> None:
    assert str(Resources()) == "1 core"
    assert str(needs(2, memory_mib=100, gpus=1)) == "2 cores, 100 MiB, 1 GPU"
    assert str(needs(named={"fpga": UNIT, "share": UNIT // 2})) == "1 core, 1 fpga, 0.5 share"
    assert str(Resources(ranks=4, ranks_per_node=2)) == "4 ranks, 2 per node, each 1 core"
    assert str(node_shape(2, 100, 1)) == "2 cores, 1 GPU, 100 MiB"


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


# --- amounts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (1, UNIT),
        (0, 0),
        (0.5, UNIT // 2),
        ("0.25", UNIT // 4),
        (0.1 + 0.2, 3 * UNIT // 10),
        ("1e-4", 1),
        (Fraction(1, 4), UNIT // 4),
        (Decimal("2.5"), 5 * UNIT // 2),
        (np.int32(3), 3 * UNIT),
        ((1 << 31) - 1, ((1 << 31) - 1) * UNIT),
    ],
)
def test_amount(given: object, parts: int) -> None:
    assert parse_amount(given) == parts


@pytest.mark.parametrize(
    "given",
    [
        *(-1, "-1", 0.00001, "0.00001", 1 / 3, True, None, "", "many", "nan", "inf"),
        *(math.nan, math.inf, 1 << 31, 10**5000, "1e400", "9" * 5000, [1]),
    ],
    ids=lambda given: f"{type(given).__name__}",
)
def test_no_amount(given: object) -> None:
    with pytest.raises(ValueError, match="amount") as error:
        parse_amount(given)
    assert len(str(error.value)) < 200


@given(st.integers(0, MOST * UNIT))
def test_an_amount_is_read_back(parts: int) -> None:
    text = amount_text("space", parts)
    assert text.endswith(" space")
    assert parse_amount(text.removesuffix(" space")) == parts


@pytest.mark.parametrize("name", ["cores", "memory", "gpus"])
def test_names_with_a_key_of_their_own(name: str) -> None:
    with pytest.raises(ValueError, match="has a key of its own"):
        check_name(name)


@pytest.mark.parametrize("name", ["", "MATLAB", "2d", "a-b", "a b", "ä", 7, "x" * 65])
def test_no_names(name: object) -> None:
    with pytest.raises(ValueError, match="not a valid name of a resource; use small letters"):
        check_name(name)
