"""Placements as text, and the pictures that are drawn of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from pilot.cli.gantt import Bar, picture
from pilot.scheduler.amounts import UNIT
from pilot.scheduler.placement import NodeAllocation, Portion
from pilot.scheduler.placement_text import placement_text, read_placement

SVG = "{http://www.w3.org/2000/svg}"


def share(node: str, *cores: int, gpus: tuple[str, ...] = ()) -> NodeAllocation:
    named = (Portion("gpus", UNIT, len(gpus), gpus),) if gpus else ()
    return NodeAllocation(node, 1, cores, (Portion("memory", 5 * UNIT), *named))


def test_placements_in_words() -> None:
    assert placement_text([share("n1", 0, 1, 2, 3)]) == "n1:0-3"
    assert placement_text([share("n1", 4, 0, 2, 1)]) == "n1:0-2,4"
    assert placement_text([share("n1")]) == "n1:"
    both = [share("n1", 0, gpus=("GPU-a", "1")), share("n2", 0, gpus=("GPU-a", "1"))]
    assert placement_text([*both, share("n3", 7)]) == "n1,n2:0;gpus=GPU-a,1 n3:7"


@given(
    st.dictionaries(
        st.sampled_from(["n1", "n2", "node-3.cluster", "x"]),
        st.tuples(st.sets(st.integers(0, 300)), st.sets(st.sampled_from(["0", "1", "MIG-a/b:1"]))),
        min_size=1,
    )
)
def test_what_is_written_can_be_read(wanted: dict[str, tuple[set[int], set[str]]]) -> None:
    shares = [
        share(node, *sorted(cores), gpus=tuple(sorted(gpus)))
        for node, (cores, gpus) in wanted.items()
    ]
    read = {
        p.node: (set(p.cores), set(p.indices.get("gpus", ())))
        for p in read_placement(placement_text(shares))
    }
    assert read == wanted


def test_a_picture_has_a_bar_for_each_run_of_rows() -> None:
    bars = [
        Bar("1.1", "gang", 0.0, 10.0, "n1,n2:0-3"),
        Bar("1.2", "with <a> & gpu", 10.0, 12.5, "n10:0,2;gpus=1"),
    ]
    root = ET.fromstring(picture(bars))
    titled = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    # The eight cores of the first two nodes are below each other; core 1 of n10 is idle.
    assert len(titled) == 1 + 2
    height = float(titled[0].attrib["height"])
    assert height > 7 * float(titled[1].attrib["height"])
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert [text for text in texts if text in ("n1", "n2", "n10")] == ["n1", "n2", "n10"]
    assert {"gang", "with <a> & gpu", "10 s"} <= set(texts)
