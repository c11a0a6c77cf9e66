"""Values in shell texts: in every place they arrive as they are, or are refused.

The shells of this machine run what is made of the texts: `sh`, and where it is there `bash`, which
is `sh` on most clusters.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import pilot
from pilot.client.command_text import CommandText
from pilot.errors import CommandError

SHELLS = [["/bin/sh"], *([["bash", "--posix"]] if shutil.which("bash") else [])]
#: What the markers of the texts below run, if anything does.
MARK = "INJECTED"
EVIL = [
    f"$(touch {MARK})",
    f"`touch {MARK}`",
    f"; touch {MARK}; ",
    f"'; touch {MARK}; '",
    f'"; touch {MARK}; "',
    f"\ntouch {MARK}\n",
    f"a[$(touch {MARK})]",
    f")touch {MARK}",
    f"}}; touch {MARK}; #",
    f"\\$(touch {MARK})",
    f"x\nEND\ntouch {MARK}\n",
]


@pytest.fixture(params=SHELLS, ids=lambda shell: Path(shell[0]).name)
def shell(request: pytest.FixtureRequest) -> list[str]:
    found: list[str] = request.param
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def output(shell: list[str], argv: list[str], where: Path) -> bytes:
    """What a shell writes; it is given what `argv` has behind its own name."""
    done = subprocess.run(
        [*shell, *argv[1:]],
        cwd=where,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "V": "a variable"},
    )
    return done.stdout


TAKEN = [
    # (the text, what it writes: with X for the value)
    ("printf '[%s]' {x}", "[X]"),
    ("printf '[%s]' a{x}b", "[aXb]"),
    ("printf '[%s]' --size={x}", "[--size=X]"),
    ("""printf '[%s]' "{x}" """, "[X]"),
    ("""printf '[%s]' "the scanner said: {x}!" """, "[the scanner said: X!]"),
    ("""printf '[%s]' 'a b'{x}"c d" """, "[a bXc d]"),
    ("""printf '[%s]' "$(printf '<%s>' {x})" """, "[<X>]"),
    ("""printf '[%s]' "$(printf '<%s>' "$(printf '%s.' "{x}")")" """, "[<X.>]"),
    ("A={x}; printf '[%s]' \"$A\"", "[X]"),
    ("A='b 'c{x}d; printf '[%s]' \"$A\"", "[b cXd]"),
    ("export A={x}; printenv A | tr -d '\\n'", None),
    ("f() {{ printf '[%s]' {x} \"$1\"; }}; f y", "[X][y]"),
    ("set -- p q; shift; printf '[%s]' {x} \"$@\"", "[X][q]"),
    ("for i in {x} z; do printf '[%s]' \"$i\"; done", "[X][z]"),
    ("case {x} in y) printf no;; {x}) printf yes;; esac", "yes"),
    ("case y{x} in (\"y{x}\") printf '[%s]' {x};; esac; printf '[%s]' {x}", "[X][X]"),
    (
        "printf '[%s]' \"$(case a in b) printf 1;; (a) printf '%s.' {x};; esac)\" \"{x}\"",
        "[X.][X]",
    ),
    ("if test {x} = {x}; then printf '[%s]' {x}; fi", "[X]"),
    ("{{ printf '[%s]' {x}; }}", "[X]"),
    ("(printf '[%s]' {x})", "[X]"),
    ("true && \\\nprintf '[%s]' \\\n   {x}", "[X]"),
    ("# it's (a comment\nprintf '[%s]' {x}", "[X]"),
    ("printf '[%s]' 'it is #1 \"(' {x} # `", '[it is #1 "(][X]'),
    ("printf '[%s]' ${{V:-none}} {x}", "[a][variable][X]"),
    ("printf '[%s]' \"${{V:-none}} {x}\"", "[a variable X]"),
    ("printf '[%s]' $((1 + (2 * 3))) {x}", "[7][X]"),
    ("printf '[%s]' `printf y` {x}", "[y][X]"),
    ('printf \'[%s]\' "\\${x} \\"{x}\\""', '[$X "X"]'),
    ("cat <<END\n<{x}> '{x}' \"{x}\" $V\nEND\nprintf '[%s]' {x}", "<X> 'X' \"X\" a variable\n[X]"),
    ("cat <<-END\n\t<{x}>\n\tEND\n", "<X>\n"),
    ("cat <<'END'\n${{it's\nEND\nprintf '[%s]' {x}", "${it's\n[X]"),
    ('sh -c \'printf "[%s]" "$1"\' sh {x}', "[X]"),
    ("printf '[%s]' {x} | sh -c cat", "[X]"),
    ("echo 'cat' > o; printf '[%s]' {x} | sh o", "[X]"),
    ("false || printf '[%s]' {x} && sh -c : && printf y | sh -c cat", "[X]y"),
    ("A={x}; echo printf 12 | sh; printf '[%s]' \"$A\"", "12[X]"),
    ("export A=\"$(printf '%s.' {x})\"; printf '[%s]' \"$A\" | cat", "[X.]"),
    ('sh -euo noglob -c \'printf "[%s]" "$1"\' sh {x}', "[X]"),
    ("IFS=/; set -f; printf '[%s]' {x} \"{x}\"", "[X][X]"),
    ("set -eu; printf '[%s]' {x}", "[X]"),
]


@pytest.mark.parametrize(("text", "written"), TAKEN, ids=[text for text, _ in TAKEN])
def test_values_arrive_as_they_are(
    shell: list[str], place: Path, text: str, written: str | None
) -> None:
    for value in [*EVIL[:8], "", "a b  c", "*", "&1", "a'b", "\\", "é"]:
        got = output(shell, CommandText(text).argv((), {"x": value}), place)
        if written is None:
            assert got == value.replace("\n", "").encode()
        else:
            assert got == written.replace("X", value).encode()
        assert not (place / MARK).exists()


@given(
    text=st.sampled_from([text for text, written in TAKEN if written is not None]),
    value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
    | st.text("$`'\"\\(){}[];&|<>*?~#! \n\tab", max_size=30),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_arrives_as_it_is(tmp_path: Path, text: str, value: str) -> None:
    # A command's output ends with no line break in $(…): the author's own doing.
    written = dict(TAKEN)[text]
    assert written is not None
    for shell in SHELLS:
        got = output(shell, CommandText(text).argv((), {"x": value}), tmp_path)
        assert got == written.replace("X", value).encode()


REFUSED = [
    ("echo '{x}'", "single quotes"),
    ("sh -c 'echo {x}'", "a shell runs as shell text again"),
    ("awk '{{print {x}}}'", "single quotes"),
    ("echo $'{x}'", r"\$'…'"),
    ('echo $"{x}"', r"\$'…'"),
    ("echo $(( {x} ))", "arithmetic"),
    ("(( {x} ))", "arithmetic"),
    ("let n={x}", "arithmetic"),
    ("[[ {x} -eq 1 ]]", r"\[\[ … \]\]"),
    ("time [[ {x} ]]", r"\[\[ … \]\]"),
    ("a[{x}]=1", "subscript"),
    ("echo \\{x}", "backslash"),
    ('echo "\\{x}"', "backslash"),
    ("echo ${x}", "behind a '\\$'"),
    ('echo "${x}"', "behind a '\\$'"),
    ("echo a # {x}", "comment"),
    ("echo `echo {x}`", "backquotes"),
    ('echo "`echo {x}`"', "backquotes"),
    ("echo ${{V:-{x}}}", r"\$\{…\}"),
    ('echo "${{V:-{x}}}"', r"\$\{…\}"),
    ("cat <<'END'\n{x}\nEND", "whose delimiter is quoted"),
    ("cat <<\\END\n{x}\nEND", "whose delimiter is quoted"),
    ("cat <<END\n`x` {x}\nEND", "here-document with"),
    ("cat <<END\n$(echo {x})\nEND", "here-document with"),
    ("cat <<{x}\nEND", "word that ends a here-document"),
    ("sh <<END\necho {x}\nEND", "runs it as shell text"),
    ("cat <<END | bash\necho {x}\nEND", "runs it as shell text"),
    ("ssh node <<END\necho {x}\nEND", "runs it as shell text"),
    ("echo >&{x}", "number of a descriptor"),
    ("eval {x}", "'eval' runs as shell text again"),
    ("eval 'echo' \"{x}\"", "'eval' runs as shell text again"),
    ("command eval {x}", "'eval' runs as shell text again"),
    ("A={x} eval {x}", "'eval' runs as shell text again"),
    ("f() {{ eval {x}; }}", "'eval' runs as shell text again"),
    ('trap "rm {x}" EXIT', "'trap' runs as shell text again"),
    ('sh -c "echo {x}"', "a shell runs as shell text again"),
    ("find . -exec bash -ec \"echo {x}\" ';'", "a shell runs as shell text again"),
    ("$V/bin/sh $V -c {x}", "a shell runs as shell text again"),
    ("sh -c $W {x}", "a shell runs as shell text again"),
    ('"$V"eval {x}', "'eval' runs as shell text again"),
    ("bash -o pipefail -lc {x}", "a shell runs as shell text again"),
    ('bash -euo pipefail -c "echo {x}"', "a shell runs as shell text again"),
    ("bash -oe pipefail +O extglob -c {x}", "a shell runs as shell text again"),
    ('bash -c "$(echo {x})"', "a shell runs as shell text again"),
    ('eval "$(echo "{x}")"', "'eval' runs as shell text again"),
    ('script -qc "{x}" /dev/null', "a shell runs as shell text again"),
    ('su "--command={x}" me', "a shell runs as shell text again"),
    ("su --command {x} me", "a shell runs as shell text again"),
    ("su me -c{x}", "a shell runs as shell text again"),
    ("su -c {x}", "a shell runs as shell text again"),
    ("ssh -p 22 node ls {x}", "other machine's shell"),
    ('sbatch --wrap="echo {x}"', "batch job's shell"),
    ('sbatch "--wrap=echo {x}"', "batch job's shell"),
    ('bash <<< "{x}"', "in the input of a shell"),
    ('cat <<< "{x}" | bash', "in the input of a shell"),
    ('. /dev/stdin <<< "{x}"', "in the input of a shell"),
    ("source <(echo {x})", "in the input of a shell"),
    ("sh <(echo {x})", "in the input of a shell"),
    ("echo {x} | sh", "in the input of a shell"),
    ("echo {x} | tr a b | env bash -es - y", "in the input of a shell"),
    ("echo {x} |\n  bash -eo pipefail", "in the input of a shell"),
    ("(echo {x}; echo) | sh", "in the input of a shell"),
    ("{{ echo {x}; echo; }} | sh", "in the input of a shell"),
    ("for i in a; do echo {x}; done | sh", "in the input of a shell"),
    ("echo {x} | sbatch", "in the input of a shell"),
    ("cat <<END |\n{x}\nEND\nbash", "ends with a pipe"),
    ("BASH_ENV={x} bash a.sh", "name of a variable"),
    ("printf -v{x} y", "name of a variable"),
    ('unset "$(echo {x})"', "name of a variable"),
    ("unset {x}", "name of a variable"),
    ("read {x}", "name of a variable"),
    ("export {x}", "name of a variable"),
    ("printf -v {x} y", "name of a variable"),
    ("RANDOM={x}", "name of a variable"),
    ("PS4={x}", "name of a variable"),
    ("declare -i n; n={x}", "different ways"),
    ("echo $[ {x} ]", "different ways"),
    ('echo "${{V#\'}}" {x}', "different ways"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=[text for text, _ in REFUSED])
def test_places_where_no_value_can_stand(text: str, reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        pilot.shell(text)
    with pytest.raises(CommandError, match=reason):
        CommandText(text).argv((), {"x": "v"})


#: Pieces of shell texts, between dots, for texts that nobody would write.
_SOUP = r"""printf '[%s]' {x} ·printf '[%s]' "{x}" ·printf '[%s]' "a {x}" {x}b ·{x}·"{x}"· ·
·;·&&·|·(·)·$(·"$(·`·"·'·\·\
·#· # ·${{V:-·${{V#·}}·$((·))·((·{{ ·; }}·$'·$"·$V·"$V"·$#·case a in a) ·case {x} in ·;;· esac ·
if true; then · fi ·f() ·f;·for i in ·; do ·; done ·w={x} ·w="{x}"·"$w"·a[·]=·=·!·*·<<E
·<<'E'
·<<-E
·
E
·	E
·{x}
·E·cat ·> o·<·>&·eval ·sh -c ·sh -c '·[ ·] ·[[ ·]] ·trap ·unset ·test ·command ·bash ·
set -- a b;·shift;·&>·<(·in ·--·-v ·-c ·true"""
PIECES = st.sampled_from(_SOUP.split("·"))


@given(st.lists(PIECES, min_size=2, max_size=12).map("".join), st.sampled_from(EVIL))
def test_in_any_text_a_value_is_like_a_plain_word(text: str, value: str) -> None:
    assume("{x}" in text)
    try:
        command = CommandText(text)
        command.check()
    except CommandError:
        return
    for shell in SHELLS:
        with tempfile.TemporaryDirectory() as name:
            where = Path(name)
            plain = output(shell, command.argv((), {"x": "QqQ"}), where)
            evil = output(shell, command.argv((), {"x": value}), where)
            assert not (where / MARK).exists()
        # The order of two processes, and what an unquoted $(…) takes apart, are the author's doing.
        expected = plain.replace(b"QqQ", value.encode())
        assert sorted(evil.translate(None, b"[] \n")) == sorted(expected.translate(None, b"[] \n"))


@given(
    text=st.sampled_from([text for text, _ in TAKEN]),
    value=st.text("$`'\"\\(){}[];&|<>*?~#! \n\tab=", max_size=20),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_shown_is_what_one_would_type(tmp_path: Path, text: str, value: str) -> None:
    assume("END" not in text or "\t" not in value)
    command = CommandText(text)
    typed = ["sh", "-c", command.line((), {"x": value})]
    given_ = command.argv((), {"x": value})
    assert output(["/bin/sh"], typed, tmp_path) == output(["/bin/sh"], given_, tmp_path)


def test_a_value_is_not_in_the_text(place: Path) -> None:
    argv = CommandText('prog {x} "{x}"').argv((), {"x": "the value"})
    assert argv[:2] == ["/bin/sh", "-c"] and "the value" not in argv[2]
    assert CommandText("prog").argv((), {}) == ["/bin/sh", "-c", "prog"]


@pytest.mark.parametrize("value", ["", ":", "-n"])
def test_no_launcher_of_mpi_programs_sees_a_word_of_its_own(value: str) -> None:
    argv = CommandText("prog {x}").argv((), {"x": value})
    assert all(word not in ("", ":", "-n") for word in argv[3:])


def test_lists(shell: list[str], place: Path) -> None:
    words = {"x": ["a b", "", "$c"], "none": []}
    for text, written in (
        ("printf '[%s]' {x} {none}", "[a b][][$c]"),
        ("for i in {none}; do echo; done; printf '[%s]' \"<{x}>\"", "[<a b  $c>]"),
        ("cat <<E\n{x}\nE", "a b  $c\n"),
    ):
        assert output(shell, CommandText(text).argv((), words), place) == written.encode()
    for text in ("A={x}", "echo a > {x}", "echo --names={x}", "case {x} in a) ;; esac"):
        CommandText(text).check()
        with pytest.raises(CommandError, match=r"\{x\} is a list"):
            CommandText(text).argv((), words)


def test_files_of_any_name(shell: list[str], place: Path) -> None:
    for name in ("-n", "&1", "a b", "$(x)", "1", "*"):
        output(shell, CommandText("echo here > {x}; cat < {x}").argv((), {"x": name}), place)
        assert (place / name).read_text() == "here\n"


def test_numbers_can_stand_nearly_everywhere(shell: list[str], place: Path) -> None:
    text = "echo $(( {n:d} * 2 )); awk 'BEGIN {{print 2 * {x:.2f}}}'; sh -c \"echo {n:d}\""
    pilot.shell(text)
    got = output(shell, CommandText(text).argv((), {"n": 21, "x": 0.5}), place)
    assert got.split() == [b"42", b"1", b"21"]
    for value in ("1", float("inf"), float("nan"), [1, "$(x)"]):
        with pytest.raises(CommandError, match=r"\{x:g\}"):
            CommandText("echo '{x:g}'").argv((), {"x": value})

    class Odd(int):
        def __format__(self, spec: str) -> str:
            return "$(touch x)"

    with pytest.raises(CommandError, match="only a number can stand there"):
        CommandText("echo '{x:d}'").argv((), {"x": Odd()})


def test_raw_text_is_shell_text(shell: list[str], place: Path) -> None:
    text = CommandText("{a:raw}; printf '[%s]' {b:raw} '{c:raw}' {d}")
    got = output(shell, text.argv((), {"a": "A=b", "b": '"$A"', "c": "c d", "d": "$A"}), place)
    assert got == b"[b][c d][$A]"
    # How it is read behind depends on the raw text, and is looked at with it.
    text = CommandText("{a:raw} {x}")
    text.check()
    assert output(shell, text.argv((), {"a": "printf %s", "x": "$V"}), place) == b"$V"
    with pytest.raises(CommandError, match="single quotes"):
        text.argv((), {"a": "echo '", "x": "v"})
    with pytest.raises(CommandError, match="single quotes"):
        CommandText("echo '{x}' {a:raw}").check()


def test_bytes_of_file_names(shell: list[str], place: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xff")
    got = output(shell, CommandText("printf %s {x}").argv((), {"x": name}), place)
    assert got == b"caf\xe9 \xff"


@pytest.mark.parametrize(
    ("text", "kwargs", "told"),
    [
        ("a {x}", {"x": "b\0c"}, "NUL character"),
        ("a {x}", {"x": "\ud800"}, "cannot be encoded"),
        ("a {x}", {"x": "x" * 40 * os.sysconf("SC_PAGE_SIZE")}, "write it to a file"),
        ("a {x}", {"x": ["x"] * 20000}, "a shell can be given"),
        ("a {x}", {"y": 1}, r"needs a parameter 'x'; call submit\(x=…\), given are y"),
        ("a {x.y}", {"x": 1}, "no attribute 'y'"),
        ("a {x[1]}", {"x": {}}, "there is no 1 in it"),
        ("a {x:d}", {"x": "1"}, r"\{x:d\} is '1', a text; only a number can stand there"),
        ("a {x:{w}}", {"x": 1, "w": 2_000_000_000}, "wider than 1000"),
    ],
)
def test_values_that_cannot_be_given(text: str, kwargs: dict[str, object], told: str) -> None:
    with pytest.raises(CommandError, match=told):
        CommandText(text).argv((), kwargs)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a {x", "expected '}' .*; a brace of the command itself is written {{ or }}"),
        ("awk '{print $1}'", r"\{print \$1\} names no parameter; a brace"),
        ("a }", "Single '}'"),
        ("a {x:>2000000000}", "wider than 1000"),
        ("a {x!y}", "no conversion 'y'"),
        ("a {.x}", "names no parameter"),
        ("a \0", "NUL"),
    ],
)
def test_texts_that_mean_nothing(text: str, told: str) -> None:
    with pytest.raises(CommandError, match=told):
        pilot.shell(text)


def test_nothing_is_too_deep_or_too_long() -> None:
    for text in ("$(" * 5000 + "{x}", '"$(' * 5000, "(" * 100_000 + "{x}", "{x} '" * 20_000):
        with pytest.raises(CommandError):
            CommandText(f"{text} '{{x}}'").check()


def test_braces_of_a_program_in_quotes_are_told_how_to_be_written() -> None:
    with pytest.raises(CommandError, match=r"written \{\{ or \}\}"):
        pilot.shell("awk '{print}' {a}")


VALUES = (
    st.text()
    | st.text("ab \0\udce9é", max_size=5)
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none()
    | st.lists(st.text("ab\0", max_size=2), max_size=2)
    | st.sampled_from(["a" * 5000, "a" * 200_000, 10**5000])
)


@given(
    st.sampled_from(
        ["echo {x} {y}", "echo a{x} {y}", "echo {x:d} {y}", "echo {x!r}", "echo '{x}'"]
    ),
    st.dictionaries(st.sampled_from("xy"), VALUES),
)
def test_values_that_are_seen_at_a_glance_are_those_that_can_be_given(
    text: str, values: dict[str, object]
) -> None:
    command = CommandText(text)

    def told(check: Callable[[], object]) -> str:
        try:
            check()
        except CommandError as error:
            return str(error)
        return ""

    assert told(lambda: command.check_values((), values)) == told(
        lambda: list(command._filled((), values))
    )
