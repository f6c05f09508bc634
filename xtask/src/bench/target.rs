//! The front end alone: protocol and SCSI layers before memory, or before nothing, beside tgt before the same. What is
//! behind a LUN of the product is not measured here, and the product cannot make such a LUN.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::client::{self, Case, qemu_bench};
use super::report::{Machine, median, ratio};
use crate::boxes::{self, Backing, Process, Served, cpu_us};
use crate::process::{cargo, output, root, run as run_command, target_dir};
use crate::setup;

/// Size of the disks in memory.
const DISK_MIB: u64 = 512;

/// Who is measured.
struct Contenders {
    tgt_null: Served,
    own_null: Served,
    tgt_ram: Served,
    own_ram: Served,
    _processes: Vec<Process>,
}

/// One row: rates of tgt and of the product, run by run, and CPU time of each for one operation in microseconds.
struct Row {
    what: &'static str,
    wanted: Option<f64>,
    tgt: Vec<f64>,
    own: Vec<f64>,
    cpu: (Vec<f64>, Vec<f64>),
}

/// Reads a second and CPU microseconds of the target for one of them, with and without both digests.
#[derive(Default)]
struct Both {
    on: Vec<(f64, f64)>,
    off: Vec<(f64, f64)>,
}

pub(super) fn run(args: &[String]) -> Result<()> {
    let (runs, secs) = match args {
        [] => (5, 2.0),
        [quick] if quick == "--quick" => (2, 1.0),
        _ => bail!("usage: cargo xtask bench target [--quick]"),
    };
    setup::ensure()?;
    let example = ["build", "--release", "--locked", "--package", "reprise-iscsi", "--example", "memory_target"];
    run_command(&mut cargo(&example))?;
    let client = ["build", "--release", "--locked", "--package", "reprise-testkit", "--example", "digest_rate"];
    run_command(&mut cargo(&client))?;
    let machine = Machine::look(&root())?;
    let contenders = start()?;
    let null = [&contenders.tgt_null, &contenders.own_null];
    let ram = [&contenders.tgt_ram, &contenders.own_ram];
    let perf = |depth| move |served: &Served| client::iscsi_perf(served, depth, secs);
    let mut rows = vec![
        row("null LUN, 4 KiB random read, QD32, one session", Some(1.3), runs, null, perf(32))?,
        row("null LUN, the same, four sessions together", None, runs, null, |s| four(s, secs))?,
        row("RAM, 4 KiB random read, QD1", Some(1.0), runs, ram, perf(1))?,
        row("RAM, 4 KiB random read, QD32", None, runs, ram, perf(32))?,
    ];
    for (what, wanted, writes) in
        [("RAM, 128 KiB write, QD8", Some(1.7), true), ("RAM, 128 KiB read, QD8", None, false)]
    {
        let case = Case { writes, random: false, bytes: 128 << 10, depth: 8 };
        let count = if runs > 2 { 20_000 } else { 4_000 };
        rows.push(row(what, wanted, runs, ram, |s| Ok(qemu_bench(s, case, None, count)?.per_sec))?);
    }
    let digest =
        row("RAM, 4 KiB sequential read, QD32, CRC32C over headers", None, runs, ram, |s| qemu_digest(s, true))?;
    let plain = row("the same without", None, runs, ram, |s| qemu_digest(s, false))?;
    let mut both = Both::default();
    for _ in 0..runs {
        both.on.push(both_digests(&contenders.own_ram, true)?);
        both.off.push(both_digests(&contenders.own_ram, false)?);
    }
    let idle = idle(&contenders.own_ram)?;
    let page = page(&machine, &rows, (&digest, &plain), &both, idle);
    print!("{page}");
    let out = root().join("docs/benchmarks-target.md");
    std::fs::write(&out, page).with_context(|| format!("write {}", out.display()))
}

fn start() -> Result<Contenders> {
    let dir = std::path::PathBuf::from("/dev/shm").join(format!("reprise-bench-{}", std::process::id()));
    let binary = target_dir().join("release/examples/memory_target");
    let (a, tgt_null) = boxes::tgt(&dir.join("tgt-null"), 0, Backing::Null)?;
    let (b, own_null) = boxes::memory_target(&binary, &dir.join("own-null"), DISK_MIB, true)?;
    let (c, tgt_ram) = boxes::tgt(&dir.join("tgt-ram"), DISK_MIB << 20, Backing::Cached)?;
    let (d, own_ram) = boxes::memory_target(&binary, &dir.join("own-ram"), DISK_MIB, false)?;
    // The processes hold what they opened; nothing is left behind in memory.
    std::fs::remove_dir_all(&dir)?;
    Ok(Contenders { tgt_null, own_null, tgt_ram, own_ram, _processes: vec![a, b, c, d] })
}

/// tgt and the product in turn.
fn row(
    what: &'static str,
    wanted: Option<f64>,
    runs: usize,
    [tgt, own]: [&Served; 2],
    measure: impl Fn(&Served) -> Result<f64>,
) -> Result<Row> {
    let mut row = Row { what, wanted, tgt: Vec::new(), own: Vec::new(), cpu: (Vec::new(), Vec::new()) };
    for _ in 0..runs {
        for (served, rates, cpu) in [(tgt, &mut row.tgt, &mut row.cpu.0), (own, &mut row.own, &mut row.cpu.1)] {
            let (before, start) = (cpu_us(served.pid)?, std::time::Instant::now());
            let rate = measure(served)?;
            // Login and logout are in the time, which makes the CPU time of an operation a little too small.
            let ops = rate * start.elapsed().as_secs_f64();
            rates.push(rate);
            cpu.push((cpu_us(served.pid)? - before) / ops.max(1.0));
        }
    }
    println!("{what}: {:.0} against {:.0}", median(row.own.iter().copied()), median(row.tgt.iter().copied()));
    Ok(row)
}

/// Four `iscsi-perf` at a time: the sum of their rates.
fn four(served: &Served, secs: f64) -> Result<f64> {
    std::thread::scope(|scope| {
        let each: Vec<_> = (0..4).map(|_| scope.spawn(|| client::iscsi_perf(served, 8, secs))).collect();
        each.into_iter().map(|one| one.join().unwrap_or_else(|_| bail!("a client has panicked"))).sum()
    })
}

/// `qemu-img bench` with or without header digests.
fn qemu_digest(served: &Served, digest: bool) -> Result<f64> {
    let mut parts = served.url.trim_start_matches("iscsi://").split('/');
    let (portal, iqn, lun) = (parts.next(), parts.next(), parts.next());
    let (portal, iqn, lun) = (portal.context("address")?, iqn.context("IQN")?, lun.context("LUN")?);
    let digest = if digest { "crc32c" } else { "none" };
    let image = format!(
        "driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={portal},file.target={iqn},file.lun={lun},\
         file.header-digest={digest}"
    );
    let mut command = Command::new("timeout");
    command.args(["180", "qemu-img", "bench", "--image-opts", "-t", "none", "-c", "60000", "-d", "32", "-s", "4096"]);
    let said = output(command.arg(image))?;
    let secs = said.lines().find_map(|l| l.strip_prefix("Run completed in ")?.split(' ').next()?.parse::<f64>().ok());
    Ok(60_000.0 / secs.context("qemu-img bench says no time")?)
}

/// The project's own initiator, since neither libiscsi nor QEMU has data digests.
fn both_digests(served: &Served, on: bool) -> Result<(f64, f64)> {
    const COUNT: u64 = 60_000;
    let mut parts = served.url.trim_start_matches("iscsi://").split('/');
    let (portal, iqn, lun) = (parts.next(), parts.next(), parts.next());
    let mut command = Command::new("timeout");
    command.arg("180").arg(target_dir().join("release/examples/digest_rate"));
    command.args([portal.context("address")?, iqn.context("IQN")?, lun.context("LUN")?, &COUNT.to_string(), "32"]);
    let before = cpu_us(served.pid)?;
    let said = output(command.arg(if on { "on" } else { "off" }))?;
    let rate = said.trim().parse::<f64>().context("digest_rate says no rate")?;
    Ok((rate, (cpu_us(served.pid)? - before) / COUNT as f64))
}

/// Percent of a processor that the target takes with nobody at work, over five seconds.
fn idle(served: &Served) -> Result<f64> {
    let before = cpu_us(served.pid)?;
    std::thread::sleep(std::time::Duration::from_secs(5));
    Ok((cpu_us(served.pid)? - before) / 5e6 * 100.0)
}

fn page(machine: &Machine, rows: &[Row], (digest, plain): (&Row, &Row), both: &Both, idle: f64) -> String {
    let mut page = String::from(
        "# Benchmarks of the front end\n\nWritten by `cargo xtask bench target`; do not edit. `reprise-iscsi` and \
         `reprise-scsi` behind a socket of their own (the example `memory_target`, a thread a connection), before memory \
         or nothing, and tgt before the same. The product cannot make such a LUN: its disks are in `benchmarks.md`. Both \
         are measured in turn with the same client, which shares the machine's processors.\n\n",
    );
    // Writing to a String does not fail.
    let _ = machine.table(&mut page);
    page.push_str(
        "\n| | tgt | reprise | ratio | wanted | CPU of an operation, tgt / reprise |\n|---|---|---|---|---|---|\n",
    );
    let of = |values: &[f64]| median(values.iter().copied());
    let rate = |of: &[(f64, f64)]| median(of.iter().map(|b| b.0));
    for row in rows.iter().chain([digest, plain]) {
        let wanted = row.wanted.map_or("-".to_owned(), |w| {
            format!("{w}{}", if of(&row.own) >= w * of(&row.tgt) { "" } else { ", **missed**" })
        });
        let _ = writeln!(
            page,
            "| {} | {:.0} /s | {:.0} /s | {} | {wanted} | {:.1} / {:.1} us |",
            row.what,
            of(&row.tgt),
            of(&row.own),
            ratio(of(&row.own), of(&row.tgt)),
            of(&row.cpu.0),
            of(&row.cpu.1)
        );
    }
    if let [one, four, ..] = rows {
        let _ = writeln!(
            page,
            "\nFour sessions against one: {} (wanted 0.95). tgt: {}.",
            ratio(of(&four.own), of(&one.own)),
            ratio(of(&four.tgt), of(&one.tgt))
        );
    }
    let _ = writeln!(
        page,
        "Header digests keep {} of the rate. Both digests keep {} of it (wanted 0.90), by the project's own initiator, which \
         computes them on the same processors; the target takes {:.1} instead of {:.1} us for a read. Idle: {idle:.2} % of a \
         processor (wanted under 1).",
        ratio(of(&digest.own), of(&plain.own)),
        ratio(rate(&both.on), rate(&both.off)),
        median(both.on.iter().map(|b| b.1)),
        median(both.off.iter().map(|b| b.1)),
    );
    page
}
