# Shared by the scripts of this project: `source` it, do not run it.
# These scripts stay within bash 3.2, the version that macOS ships.
# shellcheck shell=bash
umask 022

# Exit code of a stage that could not run here; its last line of output says why.
# (77 is what Automake's test drivers use for the same thing.)
readonly NOT_RUN=77

heading() { printf '\n=== %s\n' "$*"; }
say() { printf '%s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Ends a stage that cannot run on this host. Not for failures: a check that ran and failed must exit with 1.
not_run() {
    printf 'not run: %s\n' "$*"
    exit "$NOT_RUN"
}

is_root() { [ "$(id -u)" -eq 0 ]; }
is_macos() { [ "$(uname -s)" = Darwin ]; }
has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if is_root; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        die "this needs root: $*"
    fi
}

# Are all of the named Debian packages installed?
has_debian_packages() {
    local package
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || return 1
    done
}

# Installs those of the named Debian packages that are missing. Package lists are refreshed only when the first
# attempt fails (an empty or outdated list), because that is the slow part.
apt_install() {
    local package missing=()
    for package in "$@"; do
        has_debian_packages "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing with apt-get: ${missing[*]}"
    # Somebody else who installs is waited for: a host may do so by itself.
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends
        -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "${missing[@]}")
    as_root "${install[@]}" >/dev/null 2>&1 && return 0
    as_root apt-get update -qq
    as_root "${install[@]}" >/dev/null
}

# For stages: the named packages are needed, and a stage changes the host only where it is root already.
need_debian_packages() {
    has apt-get || not_run "needs $*, installed by apt-get, which this host lacks"
    local package
    for package in "$@"; do
        has_debian_packages "$package" && continue
        is_root || not_run "needs the Debian package $package, and installing it needs root"
    done
    apt_install "$@"
}

# From here on no warning of our crates passes, where Cargo compiles them; with `clippy`, Clippy looks at them as well: one pass
# instead of two. Not by RUSTFLAGS, which count for dependencies as well: those are then compiled once for all stages.
deny_warnings() {
    RUSTC_WORKSPACE_WRAPPER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/deny-warnings${1:+-$1}
    export RUSTC_WORKSPACE_WRAPPER
}

# For stages that run what was compiled: target/bundle is there afterwards. Under scripts/test it is there already.
need_build() { [ -n "${SANDBOX_EXECUTOR_BUILT-}" ] || "$(dirname "${BASH_SOURCE[0]}")/../ci/build"; }

# For whoever boots the virtual machine of tests/vm.
need_virtual_machine() {
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || not_run "the virtual machine is built for, and from, x86-64 Linux"
    is_root || not_run "building the image of the virtual machine needs root"
    need_debian_packages qemu-system-x86 mmdebstrap e2fsprogs
}

# Makes a Python environment for a tool, in a directory below target: this installs nothing for the user.
make_venv() {
    has python3 || not_run "needs python3"
    # Debian keeps the part that makes environments in a package of its own.
    python3 -c 'import ensurepip' 2>/dev/null || need_debian_packages python3-venv
    python3 -m venv "$1"
}
