//! `reprise verify`: a comparison, its report, and the check of a proof.

use std::path::Path;

use anyhow::Context;
use reprise_api::*;

use crate::args::VerifyArgs;
use crate::commands::{print_json, wait_for};
use crate::units::{bytes, plain};
use crate::{Usage, render};

/// Longest proof that is read: as long as a report with every extent that it may name.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Extents that people are shown; `--json` has them all.
const EXTENTS_SHOWN: usize = 20;

pub(crate) async fn run(client: &Client, json: bool, args: VerifyArgs) -> anyhow::Result<()> {
    let group = args.group.ok_or_else(|| Usage::error("name a group, or give --check FILE"))?;
    let request = VerifyStart { group, repair: args.repair, bytes_per_sec: args.rate };
    let job = client.verify_start(&request).await?.job;
    if args.wait.no_wait {
        return if json { print_json(&job) } else { outln!("{}", render::job(&job)) };
    }
    let id = job.id;
    wait_for(client, json, job).await?;
    let report = client.verify_report(&ById { id }).await?;
    if json {
        print_json(&report)?;
    } else {
        show(&report)?;
    }
    if !report.equal {
        let text = format!("the mirror of group {} differs from its source at record {}", report.group, report.seq);
        let error = ApiError::new(ErrorCode::WrongState, text, "look after the disks, then: reprise verify --repair");
        return Err(ClientError::Refused(error).into());
    }
    if let Some(path) = args.proof {
        let proof = report.proof.context("the box gave no proof")?;
        let text = serde_json::to_string_pretty(&proof)?;
        std::fs::write(&path, format!("{text}\n")).with_context(|| format!("write {}", path.display()))?;
        if !json {
            outln!("Proof written to {}.", path.display())?;
        }
    }
    Ok(())
}

fn show(report: &VerifyReport) -> anyhow::Result<()> {
    outln!(
        "Compared {} of group {} at record {} (h {}).",
        bytes(report.bytes_compared),
        report.group,
        report.seq,
        plain(&report.hash)
    )?;
    for e in report.extents.iter().take(EXTENTS_SHOWN) {
        outln!("differs: volume {} sector {} length {}", e.volume, e.sector, e.sectors)?;
    }
    let more = report.extents.len().saturating_sub(EXTENTS_SHOWN);
    if more > 0 {
        outln!("... and {more} extents more")?;
    }
    if report.bytes_differing > 0 {
        outln!("{} differed, {} of it repaired.", bytes(report.bytes_differing), bytes(report.bytes_repaired))?;
    }
    if report.bytes_unreadable > 0 {
        outln!("{} could not be read.", bytes(report.bytes_unreadable))?;
    }
    if report.equal {
        outln!("Source and mirror are equal.")?;
    }
    Ok(())
}

/// Checks a proof; talks to no box.
pub(crate) fn check(file: &Path, json: bool) -> anyhow::Result<()> {
    let text = read_text(file, FILE_BYTES_MAX).with_context(|| format!("read {}", file.display()))?;
    let proof: VerifyProof = serde_json::from_str(&text).with_context(|| format!("{} is no proof", file.display()))?;
    let fingerprint = fingerprint(&proof)?;
    let s = &proof.statement;
    if json {
        return print_json(&serde_json::json!({ "key_fingerprint": fingerprint, "statement": s }));
    }
    outln!("The signature is good. Signed with the key {fingerprint},")?;
    outln!("which reprise peer list shows on the box's peers.")?;
    outln!("Mirror {} = source {} for group {},", s.mirror, s.source, s.group_name)?;
    outln!("branch {}, record {}, h {}, digest {}.", s.branch, s.seq, plain(&s.hash), plain(&s.digest))
}

#[cfg(feature = "daemon")]
fn fingerprint(proof: &VerifyProof) -> anyhow::Result<String> {
    Ok(reprise_node::proof::check(proof)?)
}

#[cfg(not(feature = "daemon"))]
fn fingerprint(_: &VerifyProof) -> anyhow::Result<String> {
    anyhow::bail!("this build has no daemon and checks no proofs")
}
