//! Every tester starts, and says what it holds when it is asked for what it does not have.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::process::Command;

fn check(tester: &str, args: &[&str], says: &str) {
    let out = Command::new(tester).args(args).output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success() && text.contains(says), "{tester} {args:?}: {text}");
}

#[test]
fn a_tester_names_its_parts() {
    check(env!("CARGO_BIN_EXE_e2e"), &["--only", "nothing"], "kill-and-cut");
    let machines = env!("CARGO_BIN_EXE_machines");
    check(machines, &["guest", "--only", "nothing"], "multipath");
    check(machines, &["appliance", "--only", "nothing"], "secure-boot");
}
