//! The appliance while it runs.
