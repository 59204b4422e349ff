# Sourced by what the virtual machine runs (passes, corpus): makes of it a host as systemd leaves one, with a cgroup of root's and
# one that an ordinary user owns.
#
# The kernel puts no processes beside child groups that have controllers ("no internal processes", cgroups(7)), so
# everything that runs now moves to a leaf of its own, and each suite gets a fresh group (in-cgroup).
# shellcheck shell=bash
set -uo pipefail
bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cgroups=/sys/fs/cgroup
user=1000

prepare() {
    set -e
    # The original path, for what Cargo wrote into the executables at compile time.
    local original
    original=$(cat "$bundle/original-path")
    mkdir -p "$(dirname "$original")"
    ln -s "$bundle/source" "$original"
    # A private home above it would keep the ordinary user out.
    local ancestor=$original
    while ancestor=$(dirname "$ancestor") && [ "$ancestor" != / ]; do
        chmod a+x "$ancestor"
    done

    mkdir "$cgroups/init"
    while read -r pid; do
        # Kernel threads cannot be moved.
        echo "$pid" >"$cgroups/init/cgroup.procs" 2>/dev/null || true
    done <"$cgroups/cgroup.procs"
    echo "+memory +pids +cpu +io" >"$cgroups/cgroup.subtree_control"

    mkdir "$cgroups/root" "$cgroups/user"
    echo "+memory +pids +cpu +io" >"$cgroups/root/cgroup.subtree_control"
    echo "+memory +pids +cpu +io" >"$cgroups/user/cgroup.subtree_control"
    # What cgroups(7) tells to hand over, "Delegation": the directory and these files, nothing else.
    chown "$user:$user" "$cgroups/user" "$cgroups/user/cgroup.procs" "$cgroups/user/cgroup.threads" \
        "$cgroups/user/cgroup.subtree_control"

    echo "user:x:$user:$user::/home/user:/bin/bash" >>/etc/passwd
    echo "user:x:$user:" >>/etc/group
    mkdir -p /home
    install -d -o "$user" -g "$user" -m 700 /home/user
}

(prepare) || {
    echo "VM-VERDICT the machine could not be prepared"
    exit 1
}
echo "kernel $(uname -r), $(bwrap --version), controllers: $(cat "$cgroups/user/cgroup.controllers")"

# The console is a serial line that somebody reads in a log: no colours.
export RUST_TEST_THREADS=2 RUST_BACKTRACE=1 TERM=dumb
# Elsewhere a host without usable cgroups is a case that tests accept. Here it would be a fault, and this says so (tests/tests/support).
export SANDBOX_EXECUTOR_EXPECT_CGROUP=1

# Runs the bundle's suites as root, and as the user: each in a fresh group.
suites_as_root() { "$bundle/run-suites" "$bundle/in-cgroup" "$cgroups/root" 0; }
suites_as_user() { "$bundle/run-suites" "$bundle/in-cgroup" "$cgroups/user" "$user"; }
