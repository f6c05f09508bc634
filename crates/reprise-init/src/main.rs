//! The first process of the appliance.
#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    reprise_init::main()
}
