# Sourced by scripts/test: that the bounds of dependencies in setup.cfg are true.

# Tests that need neither a cluster nor an MPI.
bounds_tests=(tests/unit tests/integration/test_session.py)

# What the tests of examples/ need is taken as it comes: the oldest matplotlib does not bear with the
# newest of what it needs itself.

# What no test imports.
checkers='^mypy\|^ruff\|^types-'

# For what is printed meanwhile; removed in the end.
logs=

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
    local name=$1 python=$2 place=$venv/$1
    shift 2
    "$python" -m venv --clear "$place"
    # Wheels only: who has to compile numpy does not learn about Pilot from it.
    if ! "$place/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "$@" \
        >"$logs/$name.pip" 2>&1; then
        printf 'skipped: these versions are not to be had here: %s\n' \
            "$(grep ERROR "$logs/$name.pip" | tail -1)"
        return
    fi
    "$place/bin/pip" install --quiet --disable-pip-version-check --no-deps "$wheel"
    PATH=$place/bin:$PATH "$place/bin/pytest" -q -p no:cacheprovider "${bounds_tests[@]}"
}

# require NAME [OPTION]: write what setup.cfg requires of packages for $logs/NAME, for pip.
require() {
    "$venv/bin/python" scripts/lib/lowest.py "${@:2}" setup.cfg dev | grep -v "$checkers" >"$logs/$1"
}

# End what still runs, as Ctrl-C does it: each job is a process group of its own.
end_bounds() {
    local job
    for job in $(jobs -p); do
        kill -INT -- "-$job" 2>/dev/null && wait "$job" || true
    done
    rm -rf "$logs"
}

# The two beside each other, each told as a whole: what they print does not mix.
test_bounds() {
    local pythons oldest newest own wheel status=0 lowest_job newest_job=
    logs=$(mktemp -d)
    mapfile -t pythons < <(list_pythons)
    oldest=${pythons[0]} newest=${pythons[-1]}
    own=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$venv/bin/pip" wheel --quiet --disable-pip-version-check --no-deps -w "$logs" "$checkout"
    rm -rf "$checkout/build"
    wheel=$(echo "$logs"/*.whl)
    require lowest
    require newest --newest

    set -m # as jobs, they hear Ctrl-C, and what they start does
    test_with lowest "${oldest#* }" -r "$logs/lowest" matplotlib >"$logs/lowest.told" 2>&1 </dev/null &
    lowest_job=$!
    if [ "${newest%% *}" != "$own" ]; then
        test_with newest "${newest#* }" -r "$logs/newest" matplotlib \
            >"$logs/newest.told" 2>&1 </dev/null &
        newest_job=$!
    fi
    set +m

    say "the lowest versions that setup.cfg allows, on Python ${oldest%% *}"
    wait "$lowest_job" || status=$?
    cat "$logs/lowest.told"
    say "the newest versions, on Python ${newest%% *}"
    if [ -z "$newest_job" ]; then
        printf 'skipped: the tests above ran on Python %s, the newest that is here\n' "$own"
    else
        wait "$newest_job" || status=$?
        cat "$logs/newest.told"
    fi
    return "$status"
}
