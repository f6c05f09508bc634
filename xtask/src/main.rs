//! `cargo xtask ...`: set-up, tests, demo and benchmarks.
//!
//! It starts cargo and the programs of the project and counts what they say.
#![forbid(unsafe_code)]

mod api_tester;
mod bench;
mod checks;
mod demo;
mod fuzz;
mod lint;
mod sim;
mod test;
mod testers;

use std::process::ExitCode;

use xtask::{boxes, image, process, setup};

const USAGE: &str = "\
cargo xtask COMMAND

  setup                          install what the others need (Debian, as root), or say what is missing
  test [--only STEP[,STEP]]      all tests; --long has the full depth, --list says what both hold, --help the rest
  api-test [--seed N]            requests from the OpenAPI document, right and wrong ones, by schemathesis
  guest-test [--short]           the Linux kernel's initiator against a pair, in a QEMU guest; --help lists the options
  image [OPTIONS]                the appliance's disk image; --help lists the options
  appliance-test [--short]       the image in QEMU: BIOS, UEFI, Secure Boot, faults; --help lists the options
  demo [--image FILE] [--stay]   start a pair on this machine, copy a disk image onto it, cut, kill, compare
  bench [OPTIONS]                measure against tgt and write docs/benchmarks.md; --help lists the options
  sim OPTIONS [--patch FILE]     a pair in a simulator; --help lists the options; a patch goes to a scratch copy
  fuzz [--long]                  every decoder for some seconds, as in `test`
  lint                           fmt, clippy and docs, warnings as errors
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let outcome = match command {
        "setup" => setup::run(),
        "test" => test::run(rest),
        "api-test" => api_tester::run(rest),
        "guest-test" => testers::guest(rest),
        "image" => image::run(rest),
        "appliance-test" => testers::appliance(rest),
        "demo" => demo::run(rest),
        "bench" => bench::run(rest),
        "sim" => sim::run(rest),
        "fuzz" => test::run(&[&["--only".to_owned(), "fuzz".to_owned()], rest].concat()),
        "lint" => lint::run(),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprint!("unknown command {other:?}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {command}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
