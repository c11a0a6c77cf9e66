# Sourced by scripts/test: that the bounds of dependencies in setup.cfg are true.

# Tests that need neither a cluster nor an MPI.
bounds_tests=(tests/unit tests/integration/test_session.py)

# What the tests of examples/ need is taken as it comes: the oldest matplotlib does not bear with the
# newest of what it needs itself.

# What no test imports.
checkers='^mypy\|^ruff\|^types-'

# Print "VERSION PROGRAM" for each Python that Pilot runs on and that can make environments, the
# oldest first.
list_pythons() {
    local python
    for python in "$venv/bin/python" python3 python3.{10..20} "$HOME"/.pyenv/versions/*/bin/python3; do
        python=$(command -v "$python") || continue
        "$python" -c 'import ensurepip, sys, venv; assert sys.version_info >= (3, 10)
print("%d.%d" % sys.version_info[:2], sys.executable)' 2>/dev/null || true
    done | sort -t . -k 1,1n -k 2,2n -u
}

# test_with NAME PYTHON [PIP ARGUMENTS]: run them in an environment of their own.
test_with() {
    local name=$1 python=$2 place=$venv/$1 log
    shift 2
    log=$(mktemp)
    "$python" -m venv --clear "$place"
    # Wheels only: who has to compile numpy does not learn about Pilot from it.
    if ! "$place/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "$@" \
        >"$log" 2>&1; then
        printf 'skipped: these versions are not to be had here: %s\n' "$(grep ERROR "$log" | tail -1)"
        rm -f "$log"
        return
    fi
    rm -f "$log"
    "$place/bin/pip" install --quiet --disable-pip-version-check --no-deps "$checkout"
    rm -rf "$checkout/build"
    PATH=$place/bin:$PATH "$place/bin/pytest" -q -p no:cacheprovider "${bounds_tests[@]}"
}

test_bounds() {
    local pythons oldest newest own lowest newest_versions
    mapfile -t pythons < <(list_pythons)
    oldest=${pythons[0]} newest=${pythons[-1]}
    own=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

    say "the lowest versions that setup.cfg allows, on Python ${oldest%% *}"
    lowest=$(mktemp)
    "$venv/bin/python" scripts/lib/lowest.py setup.cfg dev | grep -v "$checkers" >"$lowest"
    test_with lowest "${oldest#* }" -r "$lowest" matplotlib
    rm -f "$lowest"

    say "the newest versions, on Python ${newest%% *}"
    if [ "${newest%% *}" = "$own" ]; then
        printf 'skipped: the tests above ran on Python %s, the newest that is here\n' "$own"
    else
        newest_versions=$(mktemp)
        "$venv/bin/python" scripts/lib/lowest.py --newest setup.cfg dev |
            grep -v "$checkers" >"$newest_versions"
        test_with newest "${newest#* }" -r "$newest_versions" matplotlib
        rm -f "$newest_versions"
    fi
}
