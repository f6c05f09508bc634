//! Machines in QEMU: hosts that use a pair of boxes, and boxes that start from the appliance's image.
//!
//! `machines guest --reprise BINARY [OPTIONS]` and `machines appliance [OPTIONS]`; `--help` behind either lists the options. The
//! last line says `guest: N passed, N failed, ...` or `appliance: N passed, N failed, ...`.
#![forbid(unsafe_code)]

mod appliance;
mod guest;

use std::process::ExitCode;

use xtask::{boxes, cpio, debian, image, process};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (what, outcome) = match args.split_first() {
        Some((what, rest)) if what == "guest" => (what, guest::run(rest)),
        Some((what, rest)) if what == "appliance" => (what, appliance::run(rest)),
        _ => {
            eprintln!("machines: name what is to run, guest or appliance");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("machines {what}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
