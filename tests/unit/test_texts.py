"""Texts are made fit for messages and terminals, whatever they hold."""

from hypothesis import given
from hypothesis import strategies as st

from pilot.texts import encodable, printable, shortened

#: Any character, lone surrogates too.
TEXTS = st.text(st.characters(exclude_categories=()))


@given(TEXTS)
def test_encodable_texts_can_be_encoded_and_others_stay(text: str) -> None:
    encodable(text).encode()
    assert encodable(encodable(text)) == encodable(text)


def test_a_latin_1_file_name_shows_its_byte() -> None:
    assert encodable("caf\udce9") == r"caf\udce9"
    assert encodable("café") == "café"


@given(TEXTS, st.integers(100, 300))
def test_shortened_texts_keep_the_limit(text: str, limit: int) -> None:
    assert len(shortened(text, limit).encode()) <= limit
    if len(encodable(text).encode()) <= limit:
        assert shortened(text, limit) == encodable(text)


def test_shortened_texts_keep_beginning_and_end_and_tell_how_much_is_gone() -> None:
    text = shortened("begin" + "x" * 1_000_000 + "end", 200)
    assert text.startswith("begin") and text.endswith("end")
    assert "characters left out" in text


@given(TEXTS)
def test_printable_texts_are_one_line_without_control_characters(text: str) -> None:
    assert printable(text).isprintable()


def test_escapes_show_what_they_were() -> None:
    assert printable("a\nb\x1b[2J\udcfc") == r"a\nb\x1b[2J\udcfc"
    assert printable("grün → 100%") == "grün → 100%"
