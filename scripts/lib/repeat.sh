# Sourced by scripts/test, after jobs.sh: tests that have failed get a second run.

# run_tests NAME [PYTEST ARGUMENT…]: run tests, and once more those that have failed; return the status
# of the last run.
run_tests() {
    local status=0 cache=$logs/$1.cache
    shift
    pytest -o cache_dir="$cache" "$@" || status=$?
    # Only then have tests failed: the others are an interrupt, an error of pytest or in its arguments.
    [ $status = 1 ] || return $status
    cp "$cache/v/cache/lastfailed" "$cache.failed" || return $status
    say "once more: the tests that failed"
    pytest -o cache_dir="$cache" "$@" --last-failed --last-failed-no-failures=none || return $?
    mv "$cache.failed" "$cache.unsteady"
}

# tell_unsteady: print which tests have passed only in their second run.
tell_unsteady() {
    local found
    for found in "$logs"/*.unsteady; do
        [ -e "$found" ] || continue
        say "failed at first, and passed once more: by a fault of the program or of the test, until it is known which"
        python -c 'import json, sys; print(*json.load(open(sys.argv[1])), sep="\n")' "$found"
    done
}
