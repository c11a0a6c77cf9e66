"""Texts of commands, with ``{name}`` for parameters, and the shell's view of them with values.

Values go beside the text, as arguments of the shell (`CommandText.argv`): its first words assign
them to variables, which stand in the text, quoted as their place asks for. So a value is
data wherever it stands, and has no part in how the text is read. Where it cannot be data
(`pilot.client.shell_text`) the text is refused.

Two kinds of values are written into the text: ``{name:raw}``, which is shell text of the author's
own; and, where no other can stand, what a format of numbers (``{name:d}``) made, if it is a number.
"""

from __future__ import annotations

import functools
import os
import re
import string
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from pilot.client.shell_places import Place, Refusal
from pilot.client.shell_text import VALUE, places
from pilot.errors import CommandError

RAW = "raw"
SHELL = "/bin/sh"
#: Linux takes no longer argument, whatever the limit of all together.
_LONGEST_BYTES = 32 * os.sysconf("SC_PAGE_SIZE") - 1
#: The size of texts, and of numbers, up to which nobody has to look how long they are.
_SHORT, _LOW = 4096, 1 << 60
#: Widths and precisions above this are slips of the pen, which fill the memory.
_WIDEST = 1000
#: Begins each argument with a value. So none is empty, and none is the ``:`` by which the launchers
#: of MPI programs tell one program from the next.
_MARK = "="
_NAME = re.compile(r"([0-9]+|[^\W\d][\w-]*)(?=[.\[]|$)")
_NUMBER_SPEC = re.compile(r".*[deEfFgG]")
_NUMBER = re.compile(r" *[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)? *")
_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
#: Unquoted they are no words for a shell.
_KEYWORDS = frozenset(
    [
        "if",
        "then",
        "else",
        "elif",
        "fi",
        "do",
        "done",
        "case",
        "esac",
        "while",
        "until",
        "for",
        "in",
        "{",
        "}",
        "!",
    ]
)
BRACES = "a brace of the command itself is written {{ or }}"


class Field(Struct, frozen=True):
    """A place for a value."""

    #: The value to fill in: ``x``, ``x.name`` or ``x[0]``.
    name: str
    spec: str = ""
    conversion: str | None = None

    def __str__(self) -> str:
        conversion = f"!{self.conversion}" if self.conversion else ""
        return f"{{{self.name}{conversion}{':' if self.spec else ''}{self.spec}}}"

    @property
    def parameter(self) -> str:
        """The name of the parameter whose value is used."""
        return re.split(r"[.\[]", self.name, maxsplit=1)[0]

    @property
    def is_number(self) -> bool:
        """True if the formatted value is a number, or an error."""
        return _NUMBER_SPEC.fullmatch(self.spec) is not None


class _Filled(Struct, frozen=True):
    """A place with its value."""

    field: Field
    place: Place
    #: The value, or those of a list.
    words: tuple[str, ...]


class CommandText:
    """A text with parameters, parsed. `command_text` makes each once.

    Raises
    ------
    CommandError
        The braces of the text are not valid.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if VALUE in text:
            raise self._error("it has a NUL character")
        #: The texts between, before and after the fields.
        self._literals: list[str] = []
        self.fields: list[Field] = []
        try:
            self._parse()
        except ValueError as error:
            raise self._error(f"{error}; {BRACES}") from None
        self._has_raw = any(field.spec == RAW for field in self.fields)

    def _parse(self) -> None:
        counted = 0
        pending = ""
        for literal, name, spec, conversion in string.Formatter().parse(self.text):
            pending += literal
            if name is None:
                continue
            if not name:
                name, counted = str(counted), counted + 1
            if not _NAME.match(name):
                raise ValueError(f"{{{name}}} names no parameter")
            field = Field(name, spec or "", conversion)
            for inner, inner_name, inner_spec, _ in string.Formatter().parse(field.spec):
                _check_width(inner)
                if inner_name == "" or inner_spec:
                    raise ValueError(f"the format in {field} is no plain one")
            if conversion not in (None, "r", "s", "a"):
                raise ValueError(f"there is no conversion {conversion!r} in {field}")
            self._literals.append(pending)
            self.fields.append(field)
            pending = ""
        self._literals.append(pending)

    def parameters(self) -> Iterator[str]:
        """Yield each parameter that must be given, as often as it occurs in the text."""
        for field in self.fields:
            yield field.parameter
            for _, name, _, _ in string.Formatter().parse(field.spec):
                if name:
                    yield Field(name).parameter

    def refusals(self) -> Iterator[tuple[Field, Refusal]]:
        """Yield the fields in which no value is allowed, and why.

        The text after ``{…:raw}`` depends on its value, and is checked when that is known.
        """
        fixed = self.fields
        if self._has_raw:
            fixed = fixed[: [field.spec for field in fixed].index(RAW)]
        text = VALUE.join(self._literals[: len(fixed) + 1])
        for field, place in zip(fixed, places(text), strict=True):
            if isinstance(place, Refusal) and not (place.takes_number and field.is_number):
                yield field, place

    def check(self) -> None:
        """Check that values are allowed in the places of all parameters.

        Raises
        ------
        CommandError
            A parameter is in a place where no value is allowed.
        """
        for field, refusal in self.refusals():
            raise self._refused(field, refusal)

    # --- with values

    def check_values(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check that the values suffice for the text, and are allowed in their places.

        Raises
        ------
        CommandError
            A value is missing, or is not allowed in its place.
        """
        names = self._takes_words
        if names is not None and all(n in kwargs and _is_word(kwargs[n]) for n in names):
            return
        for _ in self._filled(args, kwargs):
            pass

    @functools.cached_property
    def _takes_words(self) -> tuple[str, ...] | None:
        """The names of the fields if one plain word may stand in each of them, otherwise None."""
        if any(field.spec or field.conversion for field in self.fields):
            return None
        if any(isinstance(place, Refusal) for place in self._places):
            return None
        return tuple(field.name for field in self.fields)

    def argv(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
        """Return the words that run the text with these values.

        Raises
        ------
        CommandError
            A value is missing, or is not allowed in its place.
        """
        values: list[str] = []
        text = []
        for piece in self._filled(args, kwargs):
            if isinstance(piece, str):
                text.append(piece)
                continue
            first = len(values) + 1
            if piece.place is Place.WORDS:
                values += piece.words
                text.append(" ".join(f'"${{_pilot_{n}}}"' for n in range(first, len(values) + 1)))
            else:
                values.append(" ".join(piece.words))
                quote = '"' if piece.place is Place.WORD else ""
                text.append(f"{quote}${{_pilot_{first}}}{quote}")
        # The text sees no arguments, as if it had been called without.
        given = " ".join(f"_pilot_{n}=${{{n}#{_MARK}}}" for n in range(1, len(values) + 1))
        script = (f"{given}; set --; " if values else "") + "".join(text)
        if len(os.fsencode(script)) > _LONGEST_BYTES:
            raise self._error(
                f"with its values it is longer than the {_LONGEST_BYTES} bytes that a shell can be "
                "given; write what is long to a file, and name the file"
            )
        shell = [SHELL, "-c", script]
        return [*shell, SHELL, *(_MARK + value for value in values)] if values else shell

    def line(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the text as one would type it, with these values.

        Raises
        ------
        CommandError
            A value is missing, or is not allowed in its place.
        """
        return "".join(
            piece if isinstance(piece, str) else _typed(piece)
            for piece in self._filled(args, kwargs)
        )

    def plain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the text with the values as they are, for texts that no shell reads: file names.

        Raises
        ------
        CommandError
            A value is missing, or has no such form.
        """
        values = [" ".join(self._words(field, args, kwargs)[0]) for field in self.fields]
        return "".join(self._mixed(values))

    def _mixed(self, values: list[str]) -> Iterator[str]:
        for literal, value in zip(self._literals, values, strict=False):
            yield literal
            yield value
        yield self._literals[-1]

    def _filled(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[str | _Filled]:
        found = [self._words(field, args, kwargs) for field in self.fields]
        if self._has_raw:
            # How the rest is read depends on what this is.
            shown = [
                " ".join(words) if field.spec == RAW else VALUE
                for field, (words, _) in zip(self.fields, found, strict=True)
            ]
            where = iter(places("".join(self._mixed(shown))))
        else:
            where = iter(self._places)
        for literal, field, (words, is_list) in zip(
            self._literals, self.fields, found, strict=False
        ):
            yield literal
            if field.spec == RAW:
                yield " ".join(words)
                continue
            place = next(where)
            if isinstance(place, Refusal):
                if not (place.takes_number and field.is_number):
                    raise self._refused(field, place)
                yield " ".join(self._numbers(field, words))
            elif is_list and place is Place.WORD:
                raise self._error(
                    f"{field} is a list, and stands where there can be one word only (a part of a "
                    "word, a variable's value, a file's name); as words of its own it stands "
                    "between blanks, as one text in double quotes"
                )
            else:
                yield _Filled(field, place, words)
        yield self._literals[-1]

    @functools.cached_property
    def _places(self) -> tuple[Place | Refusal, ...]:
        return places(VALUE.join(self._literals))

    def _words(
        self, field: Field, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[str, ...], bool]:
        """Return a field's value as texts, and whether it is a list."""
        formatter = string.Formatter()
        try:
            if field.name in kwargs and not field.spec:
                value, spec = kwargs[field.name], ""
            else:
                value, _ = formatter.get_field(field.name, args, kwargs)
                spec = formatter.vformat(field.spec, args, kwargs)
        except (KeyError, IndexError) as error:
            parameter = str(error).strip("'") if isinstance(error, KeyError) else field.parameter
            raise self._missing(field, parameter, args, kwargs) from None
        except Exception as error:
            raise self._error(f"{field}: {error}") from None
        try:
            _check_width(spec)
            value = formatter.convert_field(value, field.conversion)
            is_list = isinstance(value, (list, tuple))
            words = tuple(
                format(item, spec) if spec and spec != RAW else str(item)
                for item in (value if is_list else (value,))
            )
        except Exception as error:
            if field.is_number and isinstance(value, str):
                raise self._error(
                    f"{field} is {_shortly(value)}, a text; only a number can stand there"
                ) from None
            raise self._error(f"{field} is {_shortly(value)}: {error}") from None
        for word in words:
            self._check_word(field, word)
        return words, is_list

    def _check_word(self, field: Field, word: str) -> None:
        if VALUE in word:
            raise self._error(
                f"the value of {field} has a NUL character, which no command can get: "
                "write it to a file, and name the file"
            )
        try:
            size = len(os.fsencode(word))
        except UnicodeEncodeError:
            raise self._error(
                f"the value of {field} has a character that cannot be encoded: {_shortly(word)}"
            ) from None
        if size + len(_MARK) > _LONGEST_BYTES:
            raise self._error(
                f"the value of {field} has {size} bytes; a command can be given "
                f"{_LONGEST_BYTES - len(_MARK)}: write it to a file, and name the file"
            )

    def _numbers(self, field: Field, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not _NUMBER.fullmatch(word):
                raise self._error(f"{field} is {_shortly(word)}; only a number can stand there")
        return words

    def _missing(
        self, field: Field, parameter: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> CommandError:
        if field.parameter in kwargs or (field.parameter.isdigit() and args):
            return self._error(f"{field}: there is no {parameter} in it")
        given = ", ".join(name for name in kwargs if not name.startswith("_"))
        return self._error(
            f"it needs a parameter {field.parameter!r}; call submit({field.parameter}=…)"
            + (f", given are {given}" if given else "")
            + f"; {BRACES}"
        )

    def _refused(self, field: Field, refusal: Refusal) -> CommandError:
        told = f"{field} {refusal.reason}{remedies(field, refusal)}"
        if not refusal.takes_number:
            return self._error(told)
        return self._error(f"{told}; {BRACES}")

    def _error(self, told: str) -> CommandError:
        shown = self.text if len(self.text) <= 100 else f"{self.text[:99]}…"
        return CommandError(told, shown)


@functools.lru_cache(maxsize=512)
def command_text(text: str) -> CommandText:
    """Parse a text; each only once.

    Raises
    ------
    CommandError
        The braces of the text are not valid.
    """
    return CommandText(text)


def remedies(field: Field, refusal: Refusal) -> str:
    """Return advice on what else to write where a value is not allowed."""
    if not refusal.takes_number:
        return ""
    return (
        f". A number can stand there as {{{field.name}:d}} or {{{field.name}:g}}, "
        f"shell text of your own as {{{field.name}:{RAW}}}"
    )


def quoted(word: str) -> str:
    """Return a word as one types it in a shell, quoted where necessary."""
    if _PLAIN.fullmatch(word) and word not in _KEYWORDS:
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"


def _typed(filled: _Filled) -> str:
    if filled.place in (Place.WORDS, Place.WORD):
        return " ".join(map(quoted, filled.words))
    special = r'([\\$`"])' if filled.place is Place.QUOTED else r"([\\$`])"
    return re.sub(special, r"\\\1", " ".join(filled.words))


def _is_word(value: object) -> bool:
    """Tell at a glance whether a value is surely one that a command can get."""
    if type(value) is str:
        return len(value) <= _SHORT and value.isascii() and VALUE not in value
    return type(value) is float or (type(value) is int and -_LOW <= value <= _LOW)


def _check_width(spec: str) -> None:
    for number in re.findall(r"[0-9]+", spec):
        if len(number) > 9 or int(number) > _WIDEST:
            raise ValueError(f"the format {_shortly(spec)} is wider than {_WIDEST}")


def _shortly(value: object) -> str:
    """Return a value for a message: at most some hundred characters."""
    if not isinstance(value, (str, int, float)):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) > _LOW:
        return "a number of very many digits"  # which Python may not even write
    shown = repr(value[:100] if isinstance(value, str) else value)
    return shown if len(shown) <= 110 else f"{shown[:100]}…"
