# Short names for `cargo xtask`.

# Set up, then all tests
test *ARGS:
    cargo xtask test {{ARGS}}

# The appliance's disk image
image *ARGS:
    cargo xtask image {{ARGS}}

# A pair on this machine that shows what it does
demo *ARGS:
    cargo xtask demo {{ARGS}}

# Measure against tgt, write docs/benchmarks.md
bench *ARGS:
    cargo xtask bench {{ARGS}}

# fmt, clippy, docs: warnings are errors
lint:
    cargo xtask lint

# What has to hold before a change lands
ci:
    .ci/run

fmt:
    cargo fmt --all

# The appliance's image in QEMU: starts and faults
appliance-test *ARGS:
    cargo xtask appliance-test {{ARGS}}
