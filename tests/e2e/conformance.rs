//! libiscsi's conformance suite against a real box: what has to pass, what may be skipped and what may grumble is a table
//! here, so that a test that starts or stops being one of them is noticed.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::boxes::{Appliance, BoxPlan, no_errors_logged};
use crate::faults::fail;
use crate::images::text;
use crate::{Part, Setup};

const MIB: u64 = 1 << 20;
/// The suite has no limit of its own. The longest run sleeps for 60 s of its own will.
const RUN_SECS_MAX: u64 = 300;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A run of the suite.
struct Plan {
    part: &'static str,
    /// Left to the long form: another run has its tests too, or it sleeps for a minute.
    long: bool,
    /// Its group, with one volume.
    group: &'static str,
    /// What is run: a family, a suite or a test; all there is if empty.
    tests: &'static str,
    /// Tests that there are in it.
    count: usize,
    /// `-S`: SANITIZE is allowed.
    sanitize: bool,
    /// The URL is given twice, which tests several paths.
    two_paths: bool,
    may_skip: &'static [Exception],
    /// Names of tests that are skipped, at most.
    skips_max: usize,
}

impl Plan {
    const fn new(part: &'static str, group: &'static str, tests: &'static str, count: usize) -> Self {
        Self { part, long: false, group, tests, count, sanitize: false, two_paths: false, may_skip: &[], skips_max: 0 }
    }

    const fn long(mut self) -> Self {
        self.long = true;
        self
    }

    /// What is run, before what came of it.
    fn label(&self) -> String {
        if self.tests.is_empty() { String::new() } else { format!("{}: ", self.tests) }
    }

    const fn skips(mut self, may_skip: &'static [Exception], skips_max: usize) -> Self {
        (self.may_skip, self.skips_max) = (may_skip, skips_max);
        self
    }

    const fn two_paths(mut self) -> Self {
        self.two_paths = true;
        self
    }

    const fn sanitize(mut self) -> Self {
        self.sanitize = true;
        self
    }
}

/// A test, as `Suite.Test` or `Suite.*`, that may not be what it should, and why.
struct Exception {
    test: &'static str,
    /// Lines with `[FAILED]` in a run of the test, at most; of no meaning for skipped tests.
    lines_max: usize,
    reason: &'static str,
}

const fn skip(test: &'static str, reason: &'static str) -> Exception {
    Exception { test, lines_max: 0, reason }
}

const fn grumble(test: &'static str, lines_max: usize, reason: &'static str) -> Exception {
    Exception { test, lines_max, reason }
}

const RESET: &str = "prints the unit attention that the reset before it has left";

/// Tests that pass and print `[FAILED]` nevertheless.
const MAY_GRUMBLE: &[Exception] = &[
    grumble("iSCSIdatasn.iSCSIDataSnInvalid", 4, "wants its writes to fail, and prints that they do"),
    grumble("Reserve6.TargetWarmReset", 3, RESET),
    grumble("Reserve6.TargetColdReset", 3, RESET),
    grumble("Reserve6.LUNReset", 3, RESET),
    grumble("ModeSense6.Residuals", 1, "prints the unit attention that MODE SELECT by the other path has left"),
    grumble("WriteSame10.UnmapVPD", 1, "asks a thick unit for what VPD B2h says it cannot, and prints the refusal"),
    grumble("WriteSame16.UnmapVPD", 1, "asks a thick unit for what VPD B2h says it cannot, and prints the refusal"),
];

const FIXED: &str = "for removable media";
const PROVISIONED: &str = "for thin units";
const NO_ZERO: &str = "VPD B0h says WSNZ: a WRITE SAME of no blocks is refused";

const APART: &str = "in runs of its own";
const LARGER: &str = "for units whose physical blocks are larger than their logical ones: in runs of its own";

/// Skipped on a thin unit of 512n with two paths.
const THIN_MAY_SKIP: &[Exception] = &[
    skip("PreventAllow.*", FIXED),
    skip("StartStopUnit.Simple", FIXED),
    skip("ReadOnly.ReadOnlySBC", APART),
    skip("Sanitize.*", APART),
    skip("WriteSame10.ZeroBlocks", NO_ZERO),
    skip("WriteSame16.ZeroBlocks", NO_ZERO),
    skip("CompareAndWrite.InvalidDataOutSize", LARGER),
    skip("WriteSame10.InvalidDataOutSize", LARGER),
    skip("WriteSame16.InvalidDataOutSize", LARGER),
    skip("WriteSame10.UnmapUnaligned", LARGER),
    skip("WriteSame16.UnmapUnaligned", LARGER),
];

const SAME_10: &[Exception] = &[skip("WriteSame10.ZeroBlocks", NO_ZERO)];
const SAME_16: &[Exception] = &[skip("WriteSame16.ZeroBlocks", NO_ZERO)];
const ENCRYPTED: &[Exception] = &[skip("Sanitize.*", "skips its part with CRYPTOGRAPHIC ERASE, which there is not")];

/// Distinct tests that no run does without skipping at least a part of them: 8 of PREVENT ALLOW MEDIUM REMOVAL, START STOP
/// UNIT, 3 of CRYPTOGRAPHIC ERASE, and 2 of WRITE SAME without blocks.
const NEVER_WHOLE: usize = 14;
/// And these that only the long form does: SANITIZE with resets.
const NEVER_WHOLE_SHORT: usize = 1;
/// Distinct tests of the suite.
const DISTINCT: usize = 230;

/// Skipped on a thick unit with one path.
const THICK_MAY_SKIP: &[Exception] = &[
    skip("PreventAllow.*", FIXED),
    skip("StartStopUnit.Simple", FIXED),
    skip("ReadOnly.ReadOnlySBC", APART),
    skip("Sanitize.*", APART),
    skip("MultipathIO.*", "needs two paths, which the run on a thin unit has"),
    skip("GetLBAStatus.*", PROVISIONED),
    skip("Inquiry.BlockLimits", PROVISIONED),
    skip("Unmap.*", PROVISIONED),
    skip("CompareAndWrite.InvalidDataOutSize", PROVISIONED),
    skip("WriteSame10.ZeroBlocks", NO_ZERO),
    skip("WriteSame16.ZeroBlocks", NO_ZERO),
    skip("WriteSame10.Unmap*", PROVISIONED),
    skip("WriteSame16.Unmap*", PROVISIONED),
    skip("WriteSame10.InvalidDataOutSize", PROVISIONED),
    skip("WriteSame16.InvalidDataOutSize", PROVISIONED),
];

const SANITIZE: &str = "SANITIZE on a thin volume, by libiscsi";
const RESET_LASTS: &str = "SANITIZE on a thin volume of a slow disk, by libiscsi";
/// So that SANITIZE of 64 MiB takes some 10 s: the test looks for it after 3 s, and again after resets.
const SLOW: &str = "write /cache delay=160";
const PHYSICAL: &str = "libiscsi's tests of 512e on a thin volume";

/// The runs that take long, which is because they sleep: they go on at the same time.
static LONG: [Plan; 4] = [
    Plan::new("libiscsi's suite on a thick volume", "thick", "ALL", DISTINCT).skips(THICK_MAY_SKIP, 43),
    Plan::new("libiscsi's suite on a thin volume by two paths", "thin", "ALL", DISTINCT)
        .two_paths()
        .skips(THIN_MAY_SKIP, 28),
    // The same tests again, in families.
    Plan::new("libiscsi's whole suite on a thick volume", "whole", "", 615).skips(THICK_MAY_SKIP, 43).long(),
    // It sleeps a minute and answers no NOP-In meanwhile.
    Plan::new(RESET_LASTS, "reset", "ALL.Sanitize.Reset", 1).sanitize().long(),
];

/// The short ones, one after another.
static SHORT: [Plan; 14] = [
    Plan::new("libiscsi's test of a volume that is read-only", "fixed", "ALL.ReadOnly", 1),
    Plan::new(PHYSICAL, "physical", "ALL.CompareAndWrite", 5),
    Plan::new(PHYSICAL, "physical", "ALL.WriteSame10", 10).skips(SAME_10, 1),
    Plan::new(PHYSICAL, "physical", "ALL.WriteSame16", 10).skips(SAME_16, 1),
    Plan::new(SANITIZE, "physical", "ALL.Sanitize.BlockErase", 1).sanitize(),
    Plan::new(SANITIZE, "physical", "ALL.Sanitize.BlockEraseReserved", 1).sanitize(),
    Plan::new(SANITIZE, "physical", "ALL.Sanitize.CryptoErase", 1).sanitize().skips(ENCRYPTED, 1),
    Plan::new(SANITIZE, "physical", "ALL.Sanitize.CryptoEraseReserved", 1).sanitize(),
    Plan::new(SANITIZE, "physical", "ALL.Sanitize.ExitFailureMode", 1).sanitize(),
    Plan::new(SANITIZE, "physical", "ALL.Sanitize.InvalidServiceAction", 1).sanitize(),
    Plan::new(SANITIZE, "physical", "ALL.Sanitize.Overwrite", 1).sanitize(),
    Plan::new(SANITIZE, "physical", "ALL.Sanitize.OverwriteReserved", 1).sanitize(),
    Plan::new(SANITIZE, "physical", "ALL.Sanitize.Readonly", 1).sanitize().skips(ENCRYPTED, 1),
    Plan::new(SANITIZE, "physical", "ALL.Sanitize.Reservations", 1).sanitize().skips(ENCRYPTED, 1),
];

/// A volume a group, which has its name.
fn volumes() -> [(&'static str, Value); 6] {
    [
        ("thick", json!({ "size": 64 * MIB })),
        ("whole", json!({ "size": 64 * MIB })),
        // GetLBAStatus.UnmapSingle unmaps a logical block and wants to see it unmapped.
        ("thin", json!({ "size": 64 * MIB, "thin": true, "block_size": "512n" })),
        ("physical", json!({ "size": 64 * MIB, "thin": true, "block_size": "512e" })),
        ("reset", json!({ "size": 64 * MIB, "thin": true, "block_size": "512e" })),
        ("fixed", json!({ "size": 64 * MIB, "thin": true, "read_only": true })),
    ]
}

pub(crate) async fn run(setup: &Setup) -> Vec<Part> {
    let mut parts = Vec::new();
    let all = match a_box(setup).await {
        Ok(a) => whole(&a, setup.long, &mut parts).await,
        Err(error) => Err(error),
    };
    parts.push(Part { name: "libiscsi's suite, all runs together", outcome: all });
    parts
}

async fn whole(a: &Appliance, long: bool, parts: &mut Vec<Part>) -> Result<String> {
    let short = async {
        let mut outcomes = Vec::new();
        for plan in &SHORT {
            outcomes.push(Some(one_run(a, plan).await));
        }
        outcomes
    };
    let in_turn =
        |plan: &'static Plan| async move { if plan.long && !long { None } else { Some(one_run(a, plan).await) } };
    let [one, two, three, four] = &LONG;
    let (one, two, three, four, short) = tokio::join!(in_turn(one), in_turn(two), in_turn(three), in_turn(four), short);
    let mut done = Vec::new();
    for (plan, outcome) in LONG.iter().chain(&SHORT).zip([one, two, three, four].into_iter().chain(short)) {
        let Some(outcome) = outcome else { continue };
        let outcome = outcome.map(|(tests, secs)| {
            let text = format!("{}{} in {secs:.0} s", plan.label(), Counts::of(&tests));
            done.extend(tests);
            text
        });
        parts.push(Part { name: plan.part, outcome });
    }
    no_errors_logged(&[a], &[])?;
    let names: BTreeSet<&str> = done.iter().map(|t| t.name.as_str()).collect();
    let whole: BTreeSet<&str> = done.iter().filter(|t| !t.skipped).map(|t| t.name.as_str()).collect();
    let never: Vec<&str> = names.difference(&whole).copied().collect();
    ensure!(names.len() == DISTINCT, "{} distinct tests were done", names.len());
    let expected = NEVER_WHOLE + if long { 0 } else { NEVER_WHOLE_SHORT };
    ensure!(never.len() == expected, "{} tests are done wholly by no run: {never:?}", never.len());
    Ok(format!("{} of {DISTINCT} distinct tests done wholly, {expected} skipped", whole.len()))
}

async fn a_box(setup: &Setup) -> Result<Appliance> {
    let mut a = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "box", size: "4G" })?;
    let settings = std::fs::read_to_string(a.config())?;
    // Four runs at once log in some hundred times.
    std::fs::write(a.config(), settings.replace("[iscsi]\n", "[iscsi]\nlogins_per_minute = 60000\n"))?;
    a.run().await?;
    for (name, mut volume) in volumes() {
        volume["name"] = name.into();
        volume["group"] = name.into();
        a.done("/api/v1/volumes", volume).await?;
    }
    fail(&a, "reset", SLOW).await?;
    Ok(a)
}

/// The process of a run. Dropping it ends it.
struct Suite {
    child: Child,
    output: PathBuf,
}

impl Drop for Suite {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

impl Suite {
    fn start(a: &Appliance, plan: &Plan, url: &str) -> Result<Self> {
        let name = if plan.tests.is_empty() { "whole" } else { plan.tests };
        let output = a.dir.join(format!("{}-{name}.out", plan.group));
        let file = File::create(&output)?;
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", &RUN_SECS_MAX.to_string(), "iscsi-test-cu", "-d"]);
        command.args(plan.sanitize.then_some("-S"));
        if !plan.tests.is_empty() {
            command.args(["-t", plan.tests]);
        }
        command.arg(url).args(plan.two_paths.then_some(url));
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Self { child: command.spawn().context("start timeout")?, output })
    }

    fn said(&self) -> Result<String> {
        let bytes = std::fs::read(&self.output)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Tests and seconds of a run that went as it should.
async fn one_run(a: &Appliance, plan: &Plan) -> Result<(Vec<Test>, f64)> {
    let url = format!("iscsi://{}/{}/0", a.iscsi, a.iqn(plan.group).await?);
    let start = Instant::now();
    let mut suite = Suite::start(a, plan, &url)?;
    let status = loop {
        match suite.child.try_wait()? {
            Some(status) => break status,
            None => tokio::time::sleep(LOOK_EVERY).await,
        }
    };
    let tests = parse(&suite.said()?).with_context(|| output_is_at(&suite.output))?;
    check(plan, &tests).with_context(|| output_is_at(&suite.output))?;
    ensure!(status.success(), "it ended with {status}, and nothing in its output says why");
    Ok((tests, start.elapsed().as_secs_f64()))
}

fn output_is_at(path: &Path) -> String {
    format!("what it said is in {}", text(path).unwrap_or_default())
}

/// A test of the suite, as it went.
#[derive(Debug, Default)]
struct Test {
    name: String,
    passed: Option<bool>,
    skipped: bool,
    failed_lines: Vec<String>,
}

struct Counts {
    passed: usize,
    clean: usize,
    skipped: usize,
    lines: usize,
}

impl Counts {
    fn of(tests: &[Test]) -> Self {
        let count = |holds: fn(&Test) -> bool| tests.iter().filter(|t| holds(t)).count();
        Self {
            passed: count(|t| t.passed == Some(true)),
            clean: count(|t| t.passed == Some(true) && !t.skipped && t.failed_lines.is_empty()),
            skipped: count(|t| t.skipped),
            lines: tests.iter().map(|t| t.failed_lines.len()).sum(),
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { passed, clean, skipped, lines } = self;
        write!(f, "{passed} passed, {clean} clean, {skipped} skipped, {lines} [FAILED] lines")
    }
}

/// Reads the suite's output. CUnit's verdict follows `...` or begins a line; what a test itself says may stand before it.
fn parse(said: &str) -> Result<Vec<Test>> {
    let (mut suite, mut tests) = ("", Vec::<Test>::new());
    for line in said.lines() {
        let mut line = line.trim();
        if let Some(name) = line.strip_prefix("Suite: ") {
            suite = name.trim();
            continue;
        }
        if let Some((name, behind)) = line.strip_prefix("Test: ").and_then(|l| l.split_once(" ...")) {
            tests.push(Test { name: format!("{suite}.{name}"), ..Test::default() });
            line = behind.trim();
        }
        let Some(test) = tests.last_mut() else { continue };
        if test.passed.is_none() && line.starts_with("passed") {
            test.passed = Some(true);
        } else if test.passed.is_none() && line.starts_with("FAILED") {
            test.passed = Some(false);
        }
        // An assertion that failed is numbered and quotes its text.
        let quoted = line.starts_with(|c: char| c.is_ascii_digit());
        test.skipped |= line.contains("[SKIPPED]");
        if line.contains("[FAILED]") && !quoted {
            test.failed_lines.push(line.to_owned());
        }
    }
    // `tests  TOTAL  RAN  PASSED  FAILED  INACTIVE`
    let summary = said.lines().rev().find_map(|l| l.trim().strip_prefix("tests "));
    let summary = summary.context("the suite did not get to its end")?;
    let numbers: Vec<usize> = summary.split_whitespace().map_while(|n| n.parse().ok()).collect();
    let failed = tests.iter().filter(|t| t.passed == Some(false)).count();
    let passed = tests.iter().filter(|t| t.passed == Some(true)).count();
    ensure!(numbers.get(1..4) == Some(&[tests.len(), passed, failed]), "the summary {numbers:?} is not what was read");
    Ok(tests)
}

fn exception<'a>(of: &'a [Exception], name: &str) -> Option<&'a Exception> {
    of.iter().find(|e| e.test.strip_suffix('*').map_or(e.test == name, |head| name.starts_with(head)))
}

fn check(plan: &Plan, tests: &[Test]) -> Result<()> {
    let mut wrong = Vec::new();
    for test in tests {
        if test.passed != Some(true) {
            wrong.push(format!("{} failed: {:?}", test.name, test.failed_lines));
        } else if test.skipped && exception(plan.may_skip, &test.name).is_none() {
            wrong.push(format!("{} is skipped", test.name));
        }
        let lines_max = exception(MAY_GRUMBLE, &test.name).map_or(0, |e| e.lines_max);
        if test.passed == Some(true) && test.failed_lines.len() > lines_max {
            wrong.push(format!("{} passes and says {:?}", test.name, test.failed_lines));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    ensure!(tests.len() == plan.count, "{} tests, {} are expected", tests.len(), plan.count);
    let mut skipped: Vec<&str> = tests.iter().filter(|t| t.skipped).map(|t| t.name.as_str()).collect();
    skipped.sort_unstable();
    skipped.dedup();
    ensure!(skipped.len() <= plan.skips_max, "{} tests are skipped: {skipped:?}", skipped.len());
    // An entry that nothing needs any more would hide what comes next.
    let unused = plan
        .may_skip
        .iter()
        .find(|e| !tests.iter().any(|t| t.skipped && exception(std::slice::from_ref(e), &t.name).is_some()));
    if let Some(unused) = unused {
        bail!("{} is no longer skipped ({})", unused.test, unused.reason);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\nSuite: Unmap\n  Test: Simple ...    [SKIPPED] not thin\npassed\n  Test: VPD ...passed    \
        [FAILED] PRIN command\n  Test: Zero ...FAILED\n    1. a.c:1  - CU_FAIL(\"[FAILED] x\")\n\n\
        Run Summary:    Type  Total    Ran Passed Failed Inactive\n               tests      3      3      2      1        0\n";

    #[test]
    fn output_is_read() -> Result<()> {
        let tests = parse(SAID)?;
        let counts = Counts::of(&tests);
        assert_eq!(counts.to_string(), "2 passed, 0 clean, 1 skipped, 1 [FAILED] lines");
        assert_eq!((tests[2].name.as_str(), tests[2].passed), ("Unmap.Zero", Some(false)));
        assert!(parse(&SAID.replace("      1        0", "      0        0")).is_err(), "another summary");
        assert!(parse("Suite: Unmap\n  Test: Simple ...").is_err(), "killed");
        Ok(())
    }

    #[test]
    fn exceptions_are_few() {
        const UNMAP: &[Exception] = &[skip("Unmap.*", "")];
        let plan = Plan::new("", "", "", 2).skips(UNMAP, 1);
        let test = |name: &str, skipped, lines| Test {
            name: name.into(),
            passed: Some(true),
            skipped,
            failed_lines: vec![String::new(); lines],
        };
        assert!(check(&plan, &[test("Unmap.A", true, 0), test("ModeSense6.Residuals", false, 1)]).is_ok());
        for bad in [
            [test("Unmap.A", true, 0), test("Unmap.B", true, 0)],
            [test("Unmap.A", true, 0), test("Read6.A", true, 0)],
            [test("Unmap.A", true, 0), test("Read6.A", false, 1)],
            [test("Unmap.A", false, 0), test("Read6.A", false, 0)],
            [test("Unmap.A", true, 0), Test { passed: Some(false), ..test("Read6.A", false, 0) }],
        ] {
            assert!(check(&plan, &bad).is_err(), "{bad:?}");
        }
        assert!(check(&plan, &[test("Unmap.A", true, 0)]).is_err(), "a test is missing");
    }
}
