# Sourced by the scripts beside it: commands that run beside each other, each told as a whole.

# Where what the jobs print is kept; removed by end_jobs.
logs=
# Each job's process, by its name.
declare -A jobs_started=()

# start_job NAME COMMAND [ARGUMENT…]: run it beside everything else; what it prints is kept.
start_job() {
    local name=$1
    shift
    [ -n "$logs" ] || logs=$(mktemp -d)
    set -m # as jobs, they hear Ctrl-C, and what they start does
    "$@" >"$logs/$name.told" 2>&1 </dev/null &
    set +m
    jobs_started[$name]=$!
}

# tell_job NAME: wait for its end, print what it printed, and return its status.
tell_job() {
    local status=0
    wait "${jobs_started[$1]}" || status=$?
    unset "jobs_started[$1]"
    cat "$logs/$1.told"
    return "$status"
}

# End what still runs, as Ctrl-C does it: each job is a process group of its own.
end_jobs() {
    local name
    for name in "${!jobs_started[@]}"; do
        kill -INT -- "-${jobs_started[$name]}" 2>/dev/null && wait "${jobs_started[$name]}" || true
        # A run that is ended early has said in there what it had found.
        cat "$logs/$name.told"
    done
    rm -rf "$logs"
}
