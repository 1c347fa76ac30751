"""A Wasm plugin for Envoy, put together byte by byte, so that no compiler is needed: it adds a header to responses.

    python3 plugin.py OUTPUT            writes the module
    python3 plugin.py OUTPUT --broken   one that fails at every request
    python3 plugin.py OUTPUT --env      one whose header tells its only environment variable (`vmConfig.env`)

The header is `x-wasm`; its value is the configuration (`pluginConfig`, as JSON). What is written here as numbers
is the WebAssembly binary format (https://webassembly.github.io/spec/core/binary) and the ABI between proxy and plugin
(https://github.com/proxy-wasm/spec, version 0.2.1). Real plugins are written in Rust, Go or C++ with a Proxy-Wasm SDK.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

I32 = 0x7F
HEADER = b"x-wasm"
HEADER_AT = 64
CONFIG_AT, CONFIG_SIZE_AT = 16, 20
"""Where the proxy writes address and size of the configuration."""
VARIABLES_AT, ENVIRONMENT_AT = 1024, 2048
"""Where the proxy writes the addresses of environment variables, and themselves, each with a zero byte at its end."""
HEAP_AT = 4096
RESPONSE_HEADERS, PLUGIN_CONFIGURATION = 2, 7
CONTINUE = 0

UNREACHABLE, DROP, CALL, END = b"\x00", b"\x1a", b"\x10", b"\x0b"
LOCAL_GET, GLOBAL_GET, GLOBAL_SET = b"\x20", b"\x23", b"\x24"
LOAD, STORE, CONST, ADD, SUBTRACT = b"\x28\x02\x00", b"\x36\x02\x00", b"\x41", b"\x6a", b"\x6b"

# (parameters, results) of the functions that are used, by their place in the type section.
TYPES: tuple[tuple[int, int], ...] = ((5, 1), (0, 0), (1, 1), (2, 0), (2, 1), (3, 1))
WASI = "wasi_snapshot_preview1"
IMPORTS = (
    ("env", "proxy_add_header_map_value", 0),
    ("env", "proxy_get_buffer_bytes", 0),
    (WASI, "environ_sizes_get", 4),
    (WASI, "environ_get", 4),
)
ADD_HEADER, GET_BUFFER, ENVIRONMENT_SIZES, GET_ENVIRONMENT = range(4)


def unsigned(value: int) -> bytes:
    """LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def constant(value: int) -> bytes:
    """`i32.const` of a number that is not negative (signed LEB128)."""
    out = bytearray()
    while value > 0x3F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return CONST + bytes((*out, value))


def vector(items: Sequence[bytes]) -> bytes:
    return unsigned(len(items)) + b"".join(items)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return unsigned(len(data)) + data


def section(number: int, content: bytes) -> bytes:
    return bytes((number,)) + unsigned(len(content)) + content


def module(*, broken: bool = False, environment: bool = False) -> bytes:
    """The module's bytes."""
    add_header = b"".join(
        (
            constant(RESPONSE_HEADERS),
            constant(HEADER_AT),
            constant(len(HEADER)),
            constant(CONFIG_AT) + LOAD,
            constant(CONFIG_SIZE_AT) + LOAD,
            CALL + unsigned(ADD_HEADER) + DROP,
            constant(CONTINUE),
        )
    )
    read_configuration = b"".join(
        (
            constant(PLUGIN_CONFIGURATION),
            constant(0),
            LOCAL_GET + unsigned(1),  # its size
            constant(CONFIG_AT),
            constant(CONFIG_SIZE_AT),
            CALL + unsigned(GET_BUFFER) + DROP,
            constant(1),
        )
    )
    read_environment = b"".join(
        (
            constant(VARIABLES_AT) + constant(CONFIG_SIZE_AT) + CALL + unsigned(ENVIRONMENT_SIZES) + DROP,
            constant(VARIABLES_AT) + constant(ENVIRONMENT_AT) + CALL + unsigned(GET_ENVIRONMENT) + DROP,
            constant(CONFIG_AT) + constant(ENVIRONMENT_AT) + STORE,
            constant(CONFIG_SIZE_AT) + constant(CONFIG_SIZE_AT) + LOAD + constant(1) + SUBTRACT + STORE,
            constant(1),
        )
    )
    # The allocator never gives anything back: a plugin's configuration is all that it is asked to keep.
    allocate = b"".join((GLOBAL_GET + b"\x00", GLOBAL_GET + b"\x00", LOCAL_GET + b"\x00", ADD, GLOBAL_SET + b"\x00"))
    functions: tuple[tuple[str, int, bytes], ...] = (
        ("proxy_abi_version_0_2_1", 1, b""),
        ("proxy_on_memory_allocate", 2, allocate),
        ("proxy_on_context_create", 3, b""),
        ("proxy_on_vm_start", 4, constant(1)),
        ("proxy_on_configure", 4, read_environment if environment else read_configuration),
        ("proxy_on_request_headers", 5, UNREACHABLE if broken else constant(CONTINUE)),
        ("proxy_on_response_headers", 5, add_header),
        ("proxy_on_downstream_data", 5, UNREACHABLE if broken else constant(CONTINUE)),
    )
    types = [b"\x60" + vector([bytes((I32,))] * p) + vector([bytes((I32,))] * r) for p, r in TYPES]
    imports = [text(where) + text(name) + b"\x00" + unsigned(kind) for where, name, kind in IMPORTS]
    first = len(IMPORTS)
    exports = [text(name) + b"\x00" + unsigned(first + i) for i, (name, _, _) in enumerate(functions)]
    bodies = [text(unsigned(0) + code + END) for _, _, code in functions]  # no locals
    data = b"\x00" + constant(HEADER_AT) + END + text(HEADER)
    return b"".join(
        (
            b"\0asm\x01\0\0\0",
            section(1, vector(types)),
            section(2, vector(imports)),
            section(3, vector([unsigned(kind) for _, kind, _ in functions])),
            section(5, vector([b"\x00" + unsigned(2)])),  # two pages of memory
            section(6, vector([bytes((I32, 1)) + constant(HEAP_AT) + END])),
            section(7, vector([*exports, text("memory") + b"\x02\x00"])),
            section(10, vector(bodies)),
            section(11, vector([data])),
        )
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    flags = sys.argv[2:]
    Path(sys.argv[1]).write_bytes(module(broken="--broken" in flags, environment="--env" in flags))
