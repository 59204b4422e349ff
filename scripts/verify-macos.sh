#!/usr/bin/env bash
# A first run on a real Mac, in one command: what nobody could try anywhere else.
#
#   scripts/verify-macos.sh [REPORT]       default: verify-macos-report.txt
#
# Builds, asks the daemon what it thinks of this Mac, aims guests at every wall with a control beside each attempt, runs
# the suites, and collects what the kernel denied meanwhile. Writes nothing but the build and the report, which says at its
# end what to attach it to. Needs Rust, and better Python and Node (brew install python node). Takes some minutes.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.bash"
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

is_macos || die "this is for macOS; on Linux, the same walls are tried by: cargo test -p sandbox-executor-tests --test seatbelt"
! is_root || die "run this as an ordinary user, as the daemon is to be run"
has cargo || die "Rust is missing: https://rustup.rs"

report=${1:-verify-macos-report.txt}
started=$(date '+%Y-%m-%d %H:%M:%S')
area=$(mktemp -d) || die "no temporary directory"
listener=""
cleanup() {
    [ -z "$listener" ] || kill "$listener" 2>/dev/null
    rm -rf "$area"
}
trap cleanup EXIT
: >"$report" || die "cannot write $report"

passed=0 failed=0
note() { printf '%s\n' "$*" | tee -a "$report"; }
section() { note ""; note "=== $*"; }
# What matches what was expected, and what does not.
expect() {
    if [ "$2" = "$3" ]; then
        passed=$((passed + 1))
        note "ok      $1: $2"
    else
        failed=$((failed + 1))
        note "FAILED  $1: $2, not $3"
    fi
}

section "this Mac"
note "$(sw_vers 2>&1)"
note "$(uname -mrs)"
note "System Integrity Protection: $(csrutil status 2>&1)"
for place in /opt/homebrew /usr/local/bin/node /Library/Frameworks/Python.framework /Library/Developer/CommandLineTools; do
    [ -e "$place" ] && note "has $place"
done
# shellcheck disable=SC2012 # for people
ls -l /usr/bin/sandbox-exec 2>&1 | tee -a "$report"

section "build"
if ! cargo build --locked -p sandbox-executor 2>"$area/build.log"; then
    tail -n 40 "$area/build.log" | tee -a "$report"
    note "the build failed; attach $report to an issue"
    exit 1
fi
executor=${CARGO_TARGET_DIR:-$PWD/target}/debug/sandbox-executor
note "$("$executor" --version)"

section "doctor"
# No settings of the caller's.
doctor=$(env -i HOME="$HOME" PATH=/usr/bin:/bin CONTROL_PLANE_URL=none WORKSPACE_PATH="$area/workspaces" \
    "$executor" doctor 2>&1)
code=$?
note "$doctor"
expect "the daemon would start here (exit code of doctor)" "$code" 0

# Runs one guest and prints what it printed. $1: language; $2: code.
guest() {
    local file=$area/guest
    printf '%s' "$2" >"$file"
    env -i HOME="$HOME" PATH=/usr/bin:/bin CONTROL_PLANE_URL=none WORKSPACE_PATH="$area/workspaces" \
        "$executor" run "$file" --language "$1" --session verify 2>>"$area/guest.log"
}

section "guests"
expect "shell" "$(guest shell 'echo hello')" hello
expect "shell tools" "$(guest shell 'printf "b\na\n" | sort | head -n 1')" a
if printf '%s' "$doctor" | grep -q '^missing *python'; then
    note "no Python: its checks are left out"
else
    expect "python" "$(guest python $'def handler(event):\n    print(6 * 7)')" 42
    expect "python, standard library" "$(guest python $'import json, ssl, sqlite3, ctypes, subprocess\ndef handler(event):\n    print(subprocess.check_output(["/bin/echo", "x"], text=True).strip())')" x
    expect "python, processes" "$(guest python $'import multiprocessing as m\ndef handler(event):\n    with m.get_context("fork").Pool(2) as p:\n        print(p.map(abs, [-1, -2]))')" '[1, 2]'
fi
if printf '%s' "$doctor" | grep -q '^missing *javascript'; then
    note "no Node: its checks are left out"
else
    expect "javascript" "$(guest javascript 'exports.handler = async () => console.log(6 * 7)')" 42
    expect "javascript, modules" "$(guest javascript $'import os from "node:os";\nimport { execFileSync } from "node:child_process";\nexport const handler = () => console.log(execFileSync("/bin/echo", ["x"]).toString().trim() + typeof os.cpus().length);')" xnumber
fi

section "walls, each with a control: the same attempt outside of the sandbox"
secret=$HOME/.sandbox-executor-verify-$$
echo secret >"$secret"
# shellcheck disable=SC2016 # expanded by the guest
attempts='
try() { if "${@:2}" >/dev/null 2>&1; then echo "$1=can"; else echo "$1=cannot"; fi; }
write() { echo x >>"$1"; }
try read-home cat "$SECRET"
try list-home ls "$(dirname "$SECRET")"
try write-home write "$SECRET"
try read-other-name cat "/System/Volumes/Data$SECRET"
try read-tmp ls /private/tmp
try write-tmp write "/private/tmp/sandbox-executor-verify-$$"
try connect-tcp /usr/bin/nc -z -w 2 127.0.0.1 "$PORT"
try resolve /usr/bin/dscacheutil -q host -a name localhost
try apple-event /usr/bin/osascript -e "tell application \"Finder\" to get name"
try open-application /usr/bin/open -g -a Calculator
try launchd-job /bin/launchctl list
try keychain /usr/bin/security list-keychains
try preferences /usr/bin/defaults read -g
try clipboard /usr/bin/pbpaste
try signal-others kill -0 "$VICTIM"
try processes /bin/ps -A
try run-from-workspace "$PWD/program"
rm -f "/private/tmp/sandbox-executor-verify-$$"
'
# Something to connect to: the system's Python is a stand-in on a Mac without developer tools, nc is always there.
port=$((20000 + RANDOM % 20000))
nc -lk 127.0.0.1 "$port" >/dev/null 2>&1 &
listener=$!
sleep 1
# shellcheck disable=SC2016 # expanded by the guest
setup='cp /bin/echo "$PWD/program"; chmod +x "$PWD/program"'
variables="SECRET='$secret' PORT=$port VICTIM=$$"
mkdir "$area/outside"
outside=$(cd "$area/outside" && env -i HOME="$HOME" PATH=/usr/bin:/bin /bin/bash -c "$variables; $setup; $attempts" 2>/dev/null)
inside=$(guest shell "$variables; $setup; $attempts")
for name in read-home list-home write-home read-other-name read-tmp write-tmp connect-tcp apple-event open-application \
    launchd-job keychain preferences signal-others processes run-from-workspace; do
    control=$(printf '%s\n' "$outside" | sed -n "s/^$name=//p")
    found=$(printf '%s\n' "$inside" | sed -n "s/^$name=//p")
    if [ "$control" != can ]; then
        # Consent that was not given, a headless Mac: the denial would prove nothing.
        note "        $name: $found, and outside as well: $control"
    fi
    expect "$name" "$found" cannot
done
for name in resolve clipboard; do
    note "        $name: $(printf '%s\n' "$inside" | sed -n "s/^$name=//p") (outside: $(printf '%s\n' "$outside" | sed -n "s/^$name=//p"))"
done
rm -f "$secret"

section "ends"
marker="86400.$$"
guest shell "sleep $marker & echo started" >/dev/null
expect "a child in the background is dead" "$(pgrep -f "sleep $marker" | wc -l | tr -d ' ')" 0
guest shell "(sleep $marker &) ; sleep 1" >/dev/null
expect "an orphan is dead" "$(pgrep -f "sleep $marker" | wc -l | tr -d ' ')" 0
pkill -f "sleep $marker"
left=$(find "${TMPDIR:-/tmp}" -maxdepth 1 -name 'sandbox-runs-*' | wc -l | tr -d ' ')
expect "no directory of a run is left" "$left" 0

section "suites"
for suite in contract seatbelt; do
    filter=""
    [ "$suite" != contract ] || filter=seatbelt
    # shellcheck disable=SC2086 # no filter is no word
    if cargo test --locked -p sandbox-executor-tests --test "$suite" $filter >"$area/suite.log" 2>&1; then
        expect "suite $suite" passed passed
    else
        expect "suite $suite" failed passed
        tail -n 60 "$area/suite.log" >>"$report"
    fi
done

section "a run, timed (milliseconds)"
for language in shell python javascript; do
    case $language in
    shell) code='true' ;;
    python) code='def handler(event): return 1' ;;
    javascript) code='exports.handler = () => 1' ;;
    esac
    begin=$(perl -MTime::HiRes=time -e 'printf "%d", time * 1000')
    for _ in 1 2 3; do guest "$language" "$code" >/dev/null; done
    end=$(perl -MTime::HiRes=time -e 'printf "%d", time * 1000')
    note "$language, with the start of the executor and its probe: $(((end - begin) / 3))"
done

section "what guests and their interpreters said on stderr"
tail -n 60 "$area/guest.log" >>"$report"

section "what the kernel denied (a line that an interpreter needs is a bug of the profile)"
log show --start "$started" --style compact --predicate 'sender == "Sandbox" AND eventMessage CONTAINS "deny"' 2>&1 |
    sed -n 's/^.*Sandbox: //p' | sed 's/([0-9]*)//' | sort | uniq -c | sort -rn | head -n 80 >>"$report"

section "verdict"
note "$passed as expected, $failed not"
note "attach $report to an issue named \"macOS: $(sw_vers -productVersion), $(uname -m)\""
[ "$failed" -eq 0 ]
