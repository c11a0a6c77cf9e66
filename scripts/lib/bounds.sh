# Sourced by scripts/test, after jobs.sh and repeat.sh: that the bounds of dependencies in setup.cfg are true.

# Tests that need neither a cluster nor an MPI.
bounds_tests=(tests/unit tests/integration/test_session.py)

# Of the tests of MPI, where one can be had for that Python, some of each kind: each world takes its time.
mpi_tests='body_runs or context_of_a_rank or depend_on or gets_its_rows or one_array_again
    or parts_of_all_ranks or mpi_program or several_programs or one_rank_raises'

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
    PATH=$place/bin:$PATH run_tests "$name" -q --hypothesis-profile=few "${bounds_tests[@]}"
    # Apart from the others: its oldest release has no wheels.
    if ! "$place/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: mpi4py mpich \
        >"$logs/$name-mpi.pip" 2>&1; then
        printf 'no tests of MPI: it is not to be had here for this Python: %s\n' \
            "$(grep ERROR "$logs/$name-mpi.pip" | tail -1)"
        return
    fi
    PATH=$place/bin:$PATH run_tests "$name-mpi" -q -k "${mpi_tests//$'\n'/ }" tests/integration/test_mpi.py
}

# require NAME [OPTION]: write what setup.cfg requires of packages for $logs/NAME, for pip.
require() {
    "$venv/bin/python" scripts/lib/lowest.py "${@:2}" setup.cfg dev | grep -v "$checkers" >"$logs/$1"
}

# The two beside each other. Not where a failure is looked at (`if`, `||`): bash would go on after
# one in here, and the tests would find the checkout in place of the wheel.
start_bounds() {
    local pythons
    mapfile -t pythons < <(list_pythons)
    oldest=${pythons[0]} newest=${pythons[-1]} is_newest=
    own=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [ "${newest%% *}" != "$own" ] || is_newest=yes
    "$venv/bin/pip" wheel --quiet --disable-pip-version-check --no-deps -w "$logs" "$checkout"
    rm -rf "$checkout/build"
    wheel=$(echo "$logs"/*.whl)
    require lowest
    require newest --newest

    start_job lowest test_with lowest "${oldest#* }" -r "$logs/lowest" matplotlib
    [ "$is_newest" ] || start_job newest test_with newest "${newest#* }" -r "$logs/newest" matplotlib
}

# tell_bounds: wait for their ends, print what they printed, and return their status.
tell_bounds() {
    local status=0
    say "the lowest versions that setup.cfg allows, on Python ${oldest%% *}"
    tell_job lowest || status=$?
    say "the newest versions, on Python ${newest%% *}"
    if [ "$is_newest" ]; then
        printf 'skipped: the tests above ran on Python %s, the newest that is here\n' "$own"
    else
        tell_job newest || status=$?
    fi
    return "$status"
}
