# Sourced by the scripts beside it: a virtual environment that has this checkout installed.
#
# The package is installed as users have it (a copy, not a link to the checkout), and in a place that
# the nodes of the virtual cluster see: they have a /tmp of their own.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# Print a Python that is new enough.
find_python() {
    local python
    for python in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10; do
        if command -v "$python" >/dev/null &&
            "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    if can_install; then
        install_packages python3 python3-venv >&2 && command -v python3 && return
    fi
    die "Python 3.10 or newer is needed, and python3 is not; install it, or set PYTHON"
}

can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# Install distribution packages that are missing; what apt says is shown if it fails.
install_packages() {
    local package log missing=()
    for package in "$@"; do
        dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    say "installing packages: ${missing[*]}"
    log=$(mktemp)
    if ! {
        apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
    } >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        die "the packages ${missing[*]} cannot be installed (see above)"
    fi
    rm -f "$log"
}

# has_venv PYTHON: whether it can make virtual environments; Debian has that in a package of its own.
has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# make_environment EXTRAS: sets $venv, puts its programs first on the PATH.
make_environment() {
    local python extras=$1
    python=$(find_python)
    venv=${PILOT_VENV:-$checkout/.venv}
    case $venv in
        /tmp/* | /dev/shm/*)
            venv=${HOME:-/root}/.cache/pilot/venv-$(printf %s "$checkout" | cksum | cut -d' ' -f1) ;;
    esac
    if ! [ -x "$venv/bin/pip" ]; then
        say "making a virtual environment in $venv"
        mkdir -p "$(dirname "$venv")"
        if ! has_venv "$python"; then
            can_install || die "$python has no venv module; install the package python3-venv"
            install_packages python3-venv
        fi
        "$python" -m venv --clear "$venv"
    fi
    say "installing Pilot [$extras]"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "$checkout[$extras]"
    # Again without its dependencies: the same version number does not mean the same checkout.
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall "$checkout"
    rm -rf "$checkout/build"
    export PATH="$venv/bin:$PATH"
}
