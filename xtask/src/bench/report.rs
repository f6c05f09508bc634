//! The page that the benchmark writes.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::client::{Case, Latency, Sample};
use super::link::{Drain, Restart};
use super::shaped::Shaped;
use super::trace::{Replayed, SPEEDUP};
use super::{CONTENDERS, Contender, Memory, Options, Row};
use crate::process::{output, root};

/// Above this the machine had other things to do, and the page says so.
const LOAD_QUIET_MAX: f64 = 1.5;
const MIB: f64 = 1_048_576.0;

/// What was measured with.
pub(super) struct Machine {
    load: f64,
    facts: Vec<(&'static str, String)>,
}

impl Machine {
    pub(super) fn look(dir: &Path) -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("read {path}"));
        let said = |program: &str, args: &[&str]| -> Result<String> {
            let text = output(Command::new(program).args(args).current_dir(root()))?;
            Ok(text.lines().next_back().unwrap_or_default().trim().to_owned())
        };
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|l| l.starts_with(name)).and_then(|l| l.split_once(':'));
            line.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
        };
        let load: f64 = read("/proc/loadavg")?.split(' ').next().unwrap_or_default().parse()?;
        let cpu = read("/proc/cpuinfo")?;
        let cores = cpu.lines().filter(|l| l.starts_with("processor")).count();
        let changed = !output(Command::new("git").args(["status", "--porcelain", "--", "crates"]).current_dir(root()))?
            .is_empty();
        let commit = said("git", &["rev-parse", "--short", "HEAD"])?;
        let dir = dir.to_string_lossy();
        let facts = vec![
            ("date", said("date", &["-u", "+%Y-%m-%d %H:%M UTC"])?),
            ("commit", if changed { format!("{commit}, with changes in crates/") } else { commit }),
            ("kernel", said("uname", &["-srm"])?),
            ("processor", format!("{cores} x {}", field(&cpu, "model name"))),
            ("memory", field(&read("/proc/meminfo")?, "MemTotal")),
            ("file system of the disks", said("df", &["--output=fstype,source", &dir])?),
            ("client", said("sh", &["-c", "qemu-img --version | head -1"])?),
            ("tgt", said("sh", &["-c", "dpkg-query -W -f '${Version}' tgt 2>/dev/null || echo unknown"])?),
        ];
        Ok(Self { load, facts })
    }

    /// What was measured on.
    pub(super) fn table(&self, page: &mut String) -> std::fmt::Result {
        writeln!(page, "| machine | |\n|---|---|")?;
        for (name, value) in &self.facts {
            writeln!(page, "| {name} | {value} |")?;
        }
        writeln!(page, "| load at the start | {} |", self.load)
    }
}

/// Everything that was measured.
pub(super) struct Found {
    pub(super) rows: Vec<Row>,
    /// Reads per second by `iscsi-perf`: tgt, alone, mirrored, and so on for each run.
    pub(super) perf: Vec<f64>,
    pub(super) memory: Memory,
    /// With the mirror attached, and paused.
    pub(super) paused: (Vec<Latency>, Vec<Latency>),
    pub(super) random: Drain,
    pub(super) real: Drain,
    pub(super) zstd_alone: Option<f64>,
    pub(super) replayed: Option<Replayed>,
    pub(super) restart: Restart,
    pub(super) shaped: Vec<Shaped>,
}

/// Median of some figures; 0 of none.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or(0.0);
    match values.len() {
        len if len > 0 && len % 2 == 0 => values.get(len / 2 - 1).map_or(upper, |lower| (lower + upper) / 2.0),
        _ => upper,
    }
}

fn rate(row: &Row, contender: Contender) -> f64 {
    median(samples(row, contender).iter().map(|s| s.per_sec))
}

fn samples(row: &Row, contender: Contender) -> &[Sample] {
    row.samples.get(contender.column()).map_or(&[], Vec::as_slice)
}

/// One contender in one row: the median and the spread.
fn cell(row: &Row, contender: Contender) -> String {
    let rates: Vec<f64> = samples(row, contender).iter().map(|s| s.per_sec).collect();
    if rates.is_empty() {
        return "-".to_owned();
    }
    let (least, most) = rates.iter().fold((f64::MAX, 0_f64), |(a, b), r| (a.min(*r), b.max(*r)));
    format!("**{:.0}** ({least:.0}-{most:.0})", rate(row, contender))
}

pub(super) fn ratio(over: f64, under: f64) -> String {
    if under > 0.0 && over > 0.0 { format!("{:.2}", over / under) } else { "-".to_owned() }
}

/// A row for the terminal, while the others are still to come.
pub(super) fn line(row: &Row) -> String {
    let shown = |c: Contender| format!("{} {:.0}", c.name(), rate(row, c));
    let all: Vec<String> = CONTENDERS.into_iter().filter(|c| c.takes(row.case)).map(shown).collect();
    format!("{}: {}", row.case.name(), all.join("; "))
}

/// A target of the design beside what was found.
struct Target {
    what: &'static str,
    wanted: String,
    found: String,
    /// None where the measurement is too small to say.
    met: Option<bool>,
}

impl Target {
    /// So many times what tgt does, at least.
    fn against(found: &Found, case: Case, flush: Option<u32>, what: &'static str, factor: f64) -> Self {
        let row = found.rows.iter().find(|r| r.case == case);
        let of = |contender| row.map_or(0.0, |r| rate(r, contender));
        let (ours, tgt) = (of(Contender::Mirrored), of(Contender::Tgt(flush)));
        Self {
            what,
            wanted: format!(">= {factor} x {}", Contender::Tgt(flush).name()),
            found: format!("{} x ({ours:.0} against {tgt:.0} per second)", ratio(ours, tgt)),
            met: Some(tgt > 0.0 && ours >= factor * tgt),
        }
    }
}

fn targets(found: &Found) -> Vec<Target> {
    let write = |random, bytes, depth| Case { writes: true, random, bytes, depth };
    let read = Case { writes: false, random: true, bytes: 4096, depth: 32 };
    let (up, down) = paused_p99(found);
    let restart = &found.restart;
    let mut all = vec![
        Target::against(found, write(true, 4096, 32), Some(32), "durable 4 KiB random write, QD32, mirrored", 1.15),
        Target::against(found, write(true, 4096, 1), Some(1), "durable 4 KiB random write, QD1, mirrored", 1.2),
        Target::against(found, write(false, 1 << 20, 8), None, "durable 1 MiB sequential write, QD8, mirrored", 0.9),
        Target::against(found, read, None, "4 KiB random read, QD32, mirrored", 1.0),
        Target {
            what: "host latency with nothing sent (mirror paused), p99",
            wanted: "<= 1.10 x attached".to_owned(),
            found: format!("{} x ({down:.0} against {up:.0} us)", ratio(down, up)),
            met: Some(down > 0.0 && down <= 1.10 * up),
        },
        Target {
            what: "restart with a full journal to the first read",
            wanted: "<= 2 s with 50 GiB".to_owned(),
            found: format!("{:.2} s with {:.2} GiB only", restart.secs, restart.journal_bytes as f64 / MIB / 1024.0),
            met: if restart.secs > 2.0 { Some(false) } else { (restart.journal_bytes >= 50 << 30).then_some(true) },
        },
    ];
    if let Some(alone) = found.zstd_alone {
        let drained = found.real.mib_per_sec();
        all.push(Target {
            what: "drain of compressible data",
            wanted: ">= 0.85 x zstd -1 alone".to_owned(),
            found: format!("{} x ({drained:.0} against {alone:.0} MiB/s)", ratio(drained, alone)),
            met: Some(drained >= 0.85 * alone),
        });
    }
    let worst = found.shaped.iter().map(Shaped::used).fold(f64::INFINITY, f64::min);
    all.push(Target {
        what: "shaped link, 256 kbit/s to 1 Gbit/s, no delay, by frames",
        wanted: ">= 95 % of the rate".to_owned(),
        found: format!("{:.1} % where it is least", worst * 100.0),
        met: Some(worst >= 0.95),
    });
    if let Some(trace) = &found.replayed {
        let (p50, p99) = (trace.lag_ms(50), trace.lag_ms(99));
        all.push(Target {
            what: "lag (RPO) on a link that keeps up, trace replayed",
            wanted: "p50 100 ms, p99 1 s".to_owned(),
            found: format!("p50 {p50:.0} ms, p99 {p99:.0} ms"),
            met: Some(p50 <= 100.0 && p99 <= 1000.0),
        });
    }
    all
}

fn paused_p99(found: &Found) -> (f64, f64) {
    let p99 = |of: &[Latency]| median(of.iter().map(|l| l.p99_us));
    (p99(&found.paused.0), p99(&found.paused.1))
}

/// The whole page.
pub(super) fn page(machine: &Machine, options: &Options, found: &Found) -> String {
    let mut page = String::new();
    // Writing to a String does not fail.
    let _ = write_page(&mut page, machine, options, found);
    page
}

fn write_page(page: &mut String, machine: &Machine, options: &Options, found: &Found) -> std::fmt::Result {
    writeln!(
        page,
        "# Benchmarks\n\nWritten by `cargo xtask bench{}`; do not edit.\n",
        if options.quick { " --quick" } else { "" }
    )?;
    if machine.load > LOAD_QUIET_MAX {
        let load = machine.load;
        writeln!(
            page,
            "**The machine had other work: its load was {load} at the start. Take these figures as rough.**\n"
        )?;
    }
    machine.table(page)?;
    writeln!(page, "\n## Targets\n\n| what | wanted | found | |\n|---|---|---|---|")?;
    for target in targets(found) {
        let met = match target.met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not shown",
        };
        writeln!(page, "| {} | {} | {} | {met} |", target.what, target.wanted, target.found)?;
    }
    page.push_str(WHERE_TIME_GOES);
    let odd = |r: &&Row| rate(r, Contender::Alone) < 0.5 * rate(r, Contender::Mirrored);
    let odd: Vec<String> = found.rows.iter().filter(odd).map(|r| r.case.name()).collect();
    if !odd.is_empty() {
        let rows = odd.join("; ");
        writeln!(page, "\nA box alone did less than half of what a mirrored one did, for a reason not known: {rows}.")?;
    }
    write_rows(page, found)?;
    let of = |column: usize| median(found.perf.iter().skip(column).step_by(3).copied());
    let (tgt, alone, mirrored) = (of(0), of(1), of(2));
    writeln!(
        page,
        "\n`iscsi-perf`, 4 KiB random read, QD32: tgt {tgt:.0}, a box alone {alone:.0} ({} x), mirrored {mirrored:.0} ({} x).",
        ratio(alone, tgt),
        ratio(mirrored, tgt)
    )?;
    write_pair(page, found)?;
    write_link(page, found)?;
    writeln!(page, "{}", how(options))
}

fn write_rows(page: &mut String, found: &Found) -> std::fmt::Result {
    let names: Vec<String> = CONTENDERS.into_iter().map(Contender::name).collect();
    writeln!(page, "\n## Operations per second\n\nMedian, and the least and the most of the runs.\n")?;
    let rule = |page: &mut String, columns: usize| writeln!(page, "|{}", "---|".repeat(columns));
    writeln!(page, "| | {} |", names.join(" | "))?;
    rule(page, names.len() + 1)?;
    for row in &found.rows {
        let cells: Vec<String> = CONTENDERS.into_iter().map(|c| cell(row, c)).collect();
        writeln!(page, "| {} | {} |", row.case.name(), cells.join(" | "))?;
    }
    let tgts = [Contender::Tgt(None), Contender::Tgt(Some(32)), Contender::Tgt(Some(1))];
    writeln!(page, "\n## reprise / tgt\n\nThe mirrored box, and in brackets the box alone, divided by tgt.\n")?;
    writeln!(page, "| | {} |", tgts.map(Contender::name).join(" | "))?;
    rule(page, tgts.len() + 1)?;
    for row in &found.rows {
        let (mirrored, alone) = (rate(row, Contender::Mirrored), rate(row, Contender::Alone));
        let cells = tgts.map(|t| match rate(row, t) {
            under if under > 0.0 => format!("{} ({})", ratio(mirrored, under), ratio(alone, under)),
            _ => "-".to_owned(),
        });
        writeln!(page, "| {} | {} |", row.case.name(), cells.join(" | "))?;
    }
    writeln!(
        page,
        "\n## CPU time for one operation, microseconds\n\nUser and system time of the daemon: `tgtd`, or the box that serves \
         the volume. For writes it includes what the box does after the answer: the home, and sending to the mirror.\n"
    )?;
    writeln!(page, "| | {} |", names.join(" | "))?;
    rule(page, names.len() + 1)?;
    for row in &found.rows {
        let cells = CONTENDERS.map(|c| match samples(row, c) {
            [] => "-".to_owned(),
            some => format!("{:.1}", median(some.iter().map(|s| s.cpu_us))),
        });
        writeln!(page, "| {} | {} |", row.case.name(), cells.join(" | "))?;
    }
    Ok(())
}

fn write_link(page: &mut String, found: &Found) -> std::fmt::Result {
    if let Some(trace) = &found.replayed {
        let wire = trace.wire_bytes as f64 / trace.number("written_bytes").max(1.0);
        writeln!(
            page,
            "\n## A recorded trace\n\nTwo hours of one virtual machine's disk, replayed {SPEEDUP} times as fast, addresses wrapped to \
             the volume, pages that compress to about half: {:.0} writes ({:.0} MiB) and {:.0} reads in {:.0} s.\n",
            trace.number("writes"),
            trace.number("written_bytes") / MIB,
            trace.number("reads"),
            trace.number("secs"),
        )?;
        writeln!(page, "| | p50 | p99 |\n|---|---|---|")?;
        for (name, p50, p99) in [("write", "write_p50_us", "write_p99_us"), ("read", "read_p50_us", "read_p99_us")] {
            writeln!(page, "| {name}, us | {:.0} | {:.0} |", trace.number(p50), trace.number(p99))?;
        }
        writeln!(page, "| lag of the mirror, ms | {:.0} | {:.0} |", trace.lag_ms(50), trace.lag_ms(99))?;
        writeln!(page, "\nBytes on the wire per byte written: {wire:.3}.")?;
    }
    writeln!(
        page,
        "\n## A shaped link\n\nTwo network namespaces, HTB on the source's end, a queue of 200 ms, no added delay, no loss. A backlog of \
         random bytes that the rate takes 10 s for (512 MiB at most).\n"
    )?;
    writeln!(
        page,
        "| rate | backlog, KiB | seconds | used by frames | used by payload | heartbeat round trip at most, ms |"
    )?;
    writeln!(page, "|---|---|---|---|---|---|")?;
    for at in &found.shaped {
        let rate = at.bits_per_sec as f64;
        writeln!(
            page,
            "| {} kbit/s | {} | {:.1} | {:.1} % | {:.1} % | {:.0} |",
            at.bits_per_sec / 1000,
            at.payload_bytes >> 10,
            at.secs,
            at.used() * 100.0,
            at.payload_bytes as f64 * 800.0 / at.secs / rate,
            at.rtt_ms_max
        )?;
    }
    Ok(())
}

fn write_pair(page: &mut String, found: &Found) -> std::fmt::Result {
    let memory = &found.memory;
    writeln!(
        page,
        "\n## Memory\n\nResident after all rows, MiB: tgt {}, a box alone {}, the source of a pair {}, its mirror {}.",
        memory.tgt >> 10,
        memory.alone >> 10,
        memory.source >> 10,
        memory.mirror >> 10
    )?;
    writeln!(
        page,
        "\n## The host while nothing is sent\n\n4 KiB random writes, QD8, microseconds; `reprise mirror pause` in place of a cut link.\n"
    )?;
    writeln!(page, "| | p50 | p99 | writes per second |\n|---|---|---|---|")?;
    for (name, of) in [("attached", &found.paused.0), ("paused", &found.paused.1)] {
        let of = |value: fn(&Latency) -> f64| median(of.iter().map(value));
        writeln!(page, "| {name} | {:.0} | {:.0} | {:.0} |", of(|l| l.p50_us), of(|l| l.p99_us), of(|l| l.per_sec))?;
    }
    writeln!(
        page,
        "\n## Drain of a backlog, link on loopback\n\n| data | backlog, MiB | MiB/s | bytes on the wire per byte of payload |\n|---|---|---|---|"
    )?;
    for (name, drain) in [("random bytes", &found.random), ("files of /usr/lib", &found.real)] {
        let wire = drain.wire_bytes as f64 / drain.payload_bytes.max(1) as f64;
        writeln!(
            page,
            "| {name} | {:.0} | {:.0} | {wire:.3} |",
            drain.payload_bytes as f64 / MIB,
            drain.mib_per_sec()
        )?;
    }
    if let Some(alone) = found.zstd_alone {
        writeln!(page, "\nOne thread of `zstd -1` alone takes the same files at {alone:.0} MiB/s.")?;
    }
    let restart = &found.restart;
    writeln!(
        page,
        "\n## Restart\n\nThe source is killed with {:.0} MiB in its journal that the mirror has not had, in records of 4 KiB and \
         1 MiB. From the start of the process to the end of the first read over iSCSI, login included: {:.2} s. By then the \
         process had read {:.1} MiB and held {} MiB of memory.",
        restart.journal_bytes as f64 / MIB,
        restart.secs,
        restart.read_bytes as f64 / MIB,
        restart.rss_kib >> 10
    )
}

const WHERE_TIME_GOES: &str = "
### Where the time goes

From a profile taken by hand (`perf record -a -g` on the pair of `reprise demo --stay`), not by this run: of commit 7b730c4 on 2 cores.

*Small writes, mirrored* (4 KiB random, QD32, 22,000 per second). Of the two processors the source's group
thread takes 27 %, `qemu-img` 16 %, the mirror's group thread 15 %, the link threads of both (zstd, TLS) 11 %, kernel workers 3 %; 26 %
are idle. One write costs the source 24 us and the mirror 15 us of processor time, `tgtd` 25 us. Of the source's group thread 45 % are in
the kernel (submitting to the disk 26 %, receiving from the socket 13 %), the rest is flat: allocator 8 %, CRC32C 4 %, index and maps
5 %, clock 2.5 %. So on this machine the mirror's share is missing to the source and the client; a box alone, which is what a source with its
mirror elsewhere comes near, does about what tgt does, with every write durable. The idle quarter is waiting: the journal has
one write in flight, a write that comes meanwhile waits for two, and the disk serves two journals and two homes.

*QD1, mirrored*: each write waits for one durable write of the journal, beside the mirror's on the same disk and processors.

*Large writes, mirrored*: each byte is written four times to the one disk (journal and home of both boxes), twice by a box alone.

*Reads at QD32*: a read costs 12 us of the box's one thread, `tgtd` 29 us spread over its threads.

*Drain of compressible data*: one thread compresses, as `zstd -1` does, and encrypts and sends as well; the mirror decompresses, writes
its journal and its home on the same processors.

*1 Gbit/s*: both boxes, TLS and HTB share the two processors.
";

fn how(options: &Options) -> String {
    format!(
        "
## How it was measured

* All run on one machine, on one file system: `tgtd` with a file of 1 GiB that was written fully and is opened with O_DIRECT, a
  box alone, and a pair (`reprise demo --stay`). Both boxes of the pair share processors and disk with the client: with the
  mirror on a machine of its own its writes would cost the source nothing.
* Before the first row each volume of a box is written three times over, so that its home is a file that was written, as
  tgt's is.
* The client is `qemu-img bench` (libiscsi), cache mode `none`. Random addresses are a walk in steps of 158 MiB + 220 KiB that visits
  every block once. The written data is one byte repeated, which compresses to nothing on the link.
* tgt's writes are in the file's write path and *not* durable without a flush. A flush goes beside the writes (`--no-drain`), which
  suits tgt: the client does not wait for it before the next write. `qemu-img bench` has no more
  writes outstanding than come between two flushes, so that a flush each exists at QD1 only. reprise is asked for no flush: each of its answers means
  that the write survives a power cut.
* {} runs of about {} s each, the contenders in turn within each run, a short run of each first. After each run of a box all that it
  still has to do is awaited, so that nobody pays for another.
* The disk is what the machine has; where a host's cache answers a flush, figures of a real medium differ. Ratios are the result.
* Latencies: the project's own initiator, real random addresses and bytes.
* The drain is timed from `reprise mirror resume` to `peer_durable` = `durable`, seen every 20 ms or so; wire and payload bytes are the
  totals of `reprise status`.

## Not measured here

* a link with delay or loss, and one that is cut rather than paused
* planned swap; takeover and views with 10 M records; sync of identical disks; memory of the index
* a restart with a journal of 50 GiB (`--journal MIB` takes any size the disk holds)
",
        options.runs, options.secs
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }
}
