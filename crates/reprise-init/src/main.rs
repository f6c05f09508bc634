//! The first process of the appliance.

fn main() -> anyhow::Result<()> {
    reprise_init::main()
}
