# Which toolchain can build for macOS on this host: `source` it after common.bash and call `find_macos_toolchain`.
# shellcheck shell=bash

readonly MACOS_TARGETS="aarch64-apple-darwin x86_64-apple-darwin"
# Where rustup cannot give the standard library for macOS: Debian's Rust, with the library's sources.
readonly DEBIAN_RUST="rustc-web cargo-web rust-web-src rust-web-clippy"

has_macos_targets() {
    local target installed
    installed=$(rustup target list --installed)
    for target in $MACOS_TARGETS; do
        case $'\n'$installed$'\n' in *$'\n'"$target"$'\n'*) ;; *) return 1 ;; esac
    done
}

# The pinned toolchain with the standard library of both targets, where rustup has it or can fetch it: a network that has it not may
# let it try for minutes. Otherwise Debian's, where it is new enough, and BUILD_STD says what Cargo must be told.
find_macos_toolchain() {
    BUILD_STD=()
    # shellcheck disable=SC2086 # two words are meant
    if has rustup && { has_macos_targets || timeout 120 rustup target add $MACOS_TARGETS; }; then
        return
    fi
    # shellcheck disable=SC2086 # four words are meant
    need_debian_packages $DEBIAN_RUST
    local needed found
    needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    found=$(/usr/bin/rustc --version | cut -d ' ' -f 2)
    [ "$(printf '%s\n' "$needed" "$found" | sort -V | head -n 1)" = "$needed" ] ||
        not_run "rustup offers no standard library for macOS here, and Debian's Rust is $found: $needed is needed"
    say "rustup offers no standard library for macOS here: building it from the sources of Debian's Rust $found"
    # -Zbuild-std is unstable, hence RUSTC_BOOTSTRAP. The tools are named in full, or rustup's proxies would be called.
    export RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc CARGO=/usr/bin/cargo
    # Read by who sources this.
    # shellcheck disable=SC2034
    BUILD_STD=(-Zbuild-std)
}
