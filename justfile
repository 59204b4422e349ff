# Shortcuts for daily work; each recipe is one line that can be typed without `just`.

# List the recipes.
default:
    @just --list

# Everything that continuous integration runs.
test:
    scripts/test

# The part of it that needs no virtual machine and no other platform.
quick:
    scripts/test quick

# Install what is missing, build, start the daemon and send it a first request.
quickstart:
    scripts/quickstart

# Measure on this machine what runs cost, piece by piece and whole, beside bare Bubblewrap.
bench *arguments:
    scripts/bench {{ arguments }}

# What an absent or slow control plane costs runs, and how fast output reaches its reader.
bench-control-plane:
    cargo bench --locked -p sandbox-executor-tests --bench control_plane

# Link the executables for macOS, from Linux.
dist-macos:
    scripts/dist-macos

fmt:
    cargo fmt --all

lint:
    cargo clippy --workspace --all-targets --all-features --locked -- -D warnings

# Build the container image, run it in three ways and run the suites inside of it (Podman, root).
test-image:
    scripts/test-image

# Bring up control plane and executor with Compose and follow a run (needs the image).
test-compose:
    scripts/test-compose

# Build the Debian package and look at it (cargo-deb).
test-package:
    scripts/test-package

# What docs/scaling.md is computed from.
capacity:
    scripts/measure-capacity

# Look for broken promises with libFuzzer: one target, or all of them.
fuzz TARGET="all" SECONDS="60":
    scripts/fuzz {{TARGET}} {{SECONDS}}

# Run the hostile corpus in every place of this host and write docs/hostile-corpus.md (root).
corpus:
    scripts/corpus

# Real workloads between all walls: CPython's own tests, numpy, pandas, matplotlib, Node's modules.
workloads:
    scripts/ci/workloads
