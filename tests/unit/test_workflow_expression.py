"""The language inside ``${…}``: what it takes apart, what it refuses, and that it never crashes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.workflow.expression import (
    Attribute,
    Escaped,
    ExpressionError,
    Reference,
    Selection,
    Subscript,
    parse,
    parse_reference,
    unparse,
)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", ()),
        ("plain $HOME and $$", ("plain $HOME and $$",)),
        ("${runs}", (Reference("runs"),)),
        ("a ${b}c", ("a ", Reference("b"), "c")),
        ("${a}${b}", (Reference("a"), Reference("b"))),
        ("$${HOME}/x", (Escaped("HOME"), "/x")),
        ("$$${HOME}", ("$", Escaped("HOME"))),
        ("$${A:-x}${b}", (Escaped("A:-x"), Reference("b"))),
        ("${ tasks.a . }", None),
        ("${tasks.a-b[3].x}", (
            Reference("tasks", (Attribute("a-b"), Subscript(3), Attribute("x"))),
        )),
        ("${a[-1]}", (Reference("a", (Subscript(-1),)),)),
        ("${a[ index ]}", (Reference("a", (Subscript(Reference("index")),)),)),
        ("${a['b c']}", (Reference("a", (Subscript("b c"),)),)),
        ('${a["b\'c"]}', (Reference("a", (Subscript("b'c"),)),)),
        ("${a[b[c.d]]}", (
            Reference("a", (
                Subscript(Reference("b", (Subscript(Reference("c", (Attribute("d"),))),))),
            )),
        )),
        ("${a[x=0.5, y=y, z='w']}", (
            Reference("a", (Selection((("x", 0.5), ("y", Reference("y")), ("z", "w"))),)),
        )),
        ("${a[x=1e-3]}", (Reference("a", (Selection((("x", 1e-3),)),)),)),
    ],
)  # fmt: skip
def test_texts_are_taken_apart(text: str, pieces: Any) -> None:
    if pieces is None:
        with pytest.raises(ExpressionError):
            parse(text)
        return
    assert parse(text) == pieces
    assert parse(unparse(pieces)) == pieces


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${", "'${' is no reference: expected a name at its end"),
        ("x ${a", "'${a' is no reference: expected '}' at its end"),
        ("${}", "'${}' is no reference: expected a name before '}'"),
        ("${1}", "'${1}' is no reference: expected a name before '1}'"),
        ("${a.}", "'${a.}' is no reference: expected a name before '}'"),
        ("${a + 1}", "'${a + 1}' is no reference: expected '}' before '+ 1}'"),
        ("${a[}", "'${a[}' is no reference: expected a number, a name or a quoted text before '}'"),
        ("${a[1.5]}", "'${a[1.5]}' is no reference: expected a whole number before this"),
        ("${a['x]}", 'expected the closing quote of this text before "\'x]}"'),
        ("${a[x=]}", "'${a[x=]}' is no reference: expected a value before ']}'"),
        ("${a[x=1,]}", "'${a[x=1,]}' is no reference: expected a name before ']}'"),
        ("${a[1]", "'${a[1]' is no reference: expected '}' at its end"),
        ("${a[99999999999999999999]}", "expected a number, a name or a quoted text"),
        ("${a()}", "'${a()}' is no reference: expected '}' before '()}'"),
        ("$${HOME", "'$${HOME' is not closed; add '}'"),
        ("${" + "a[" * 50 + "1" + "]" * 50 + "}", "expected fewer brackets inside brackets"),
    ],
)
def test_what_is_no_reference_is_told(text: str, message: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        parse(text)
    assert message in str(raised.value)


def test_a_reference_alone() -> None:
    assert parse_reference("a[1]") == Reference("a", (Subscript(1),))
    with pytest.raises(ExpressionError, match=r"expected '\.' or '\['"):
        parse_reference("a b")
    with pytest.raises(ExpressionError, match="expected a name"):
        parse_reference("")


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True)
quoted = st.text(max_size=8).filter(lambda text: not ("'" in text and '"' in text))
whole = st.integers(-(10**15), 10**15)
real = st.floats(-1e30, 1e30).filter(lambda x: math.isfinite(x) and (x == 0 or abs(x) > 1e-30))


def references(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Reference]:
    steps = st.one_of(
        st.builds(Attribute, names),
        st.builds(Subscript, whole | quoted | inner),
        st.lists(st.tuples(names, whole | real | quoted | inner), min_size=1, max_size=3).map(
            lambda where: Selection(tuple(where))
        ),
    )
    return st.builds(Reference, names, st.lists(steps, max_size=4).map(tuple))


reference = st.recursive(st.builds(Reference, names), references, max_leaves=6)
pieces = st.lists(
    st.one_of(
        st.text(min_size=1, max_size=8).filter(lambda text: "$" not in text),
        st.builds(Escaped, st.text(max_size=8).filter(lambda text: "}" not in text)),
        reference,
    ),
    max_size=5,
)


@given(pieces)
def test_what_is_written_is_read_back(parts: list[Any]) -> None:
    merged: list[Any] = []
    for part in parts:  # two texts side by side are one
        if merged and isinstance(part, str) and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    assert parse(unparse(tuple(merged))) == tuple(merged)


@given(st.text(st.sampled_from("${}[]().'\"=,-+ab1e \n$"), max_size=40) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parsed = parse(text)
    except ExpressionError:
        return
    assert parse(unparse(parsed)) == parsed
    if not any(isinstance(piece, Reference) for piece in parsed):
        assert unparse(parsed) == text
