"""Checks that a file is a Mach-O executable as macOS starts it: `inspect_macho.py FILE ARCHITECTURE MACOS`, where the last
is the version of macOS on which it must start, and on every later one.

The format: <mach-o/loader.h>. What cannot be understood is a failure.
"""

import struct
import sys

MAGIC_64, EXECUTE = 0xFEEDFACF, 2
ARCHITECTURES = {"aarch64": 0x0100000C, "x86_64": 0x01000007}
LOAD_DYLIB, CODE_SIGNATURE, BUILD_VERSION = 0xC, 0x1D, 0x32
# Where the system's own libraries are, on every Mac.
SYSTEM = ("/usr/lib/", "/System/Library/")


def commands(data, count):
    """Every load command: its kind and its bytes."""
    at = 32
    for _ in range(count):
        kind, size = struct.unpack_from("<II", data, at)
        yield kind, data[at : at + size]
        at += size


def main(path, architecture, oldest):
    with open(path, "rb") as file:
        data = file.read()
    magic, cpu, _, kind, count = struct.unpack_from("<IIIII", data)
    if (magic, kind) != (MAGIC_64, EXECUTE):
        sys.exit(f"{path}: not a 64-bit Mach-O executable")
    if cpu != ARCHITECTURES[architecture]:
        sys.exit(f"{path}: not for {architecture}: {cpu:#x}")
    libraries, signed, minimum = [], False, None
    for kind, body in commands(data, count):
        if kind == LOAD_DYLIB:
            (name,) = struct.unpack_from("<I", body, 8)
            libraries.append(body[name:].split(b"\0")[0].decode())
        elif kind == CODE_SIGNATURE:
            signed = True
        elif kind == BUILD_VERSION:
            (version,) = struct.unpack_from("<I", body, 12)
            minimum = (version >> 16, version >> 8 & 0xFF)
    foreign = [name for name in libraries if not name.startswith(SYSTEM)]
    if foreign:
        sys.exit(f"{path}: needs libraries that no Mac has: {foreign}")
    if architecture == "aarch64" and not signed:
        sys.exit(f"{path}: not signed")
    if minimum is None or minimum > tuple(map(int, oldest.split("."))):
        sys.exit(f"{path}: needs macOS {minimum}, later than {oldest}")
    since = ".".join(map(str, minimum))
    print(f"{path}: {architecture}, macOS {since} and later, {len(data) >> 10} KiB, {', '.join(libraries)}")


main(*sys.argv[1:])
