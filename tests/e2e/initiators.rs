//! Who may use a box, tried by libiscsi: CHAP one way and both, digests, rules about groups and addresses, and limits.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use reprise_testkit::initiator::{LoginOptions, Session};
use serde_json::{Value, json};

use crate::boxes::{Appliance, BoxPlan, no_errors_logged, until};
use crate::images::output;
use crate::{Part, Setup};

const MIB: u64 = 1 << 20;
const HOST: &str = "iqn.2026-01.invalid.reprise:host";
const OTHER: &str = "iqn.2026-01.invalid.reprise:other";
const SECRET: &str = "of-the-initiator";
const OWN_SECRET: &str = "of-the-target";

pub(crate) async fn run(setup: &Setup) -> Vec<Part> {
    vec![
        Part { name: "CHAP and rules of login", outcome: login(setup).await },
        Part { name: "limits of initiators", outcome: limits(setup).await },
    ]
}

async fn one_box(setup: &Setup, name: &str) -> Result<Appliance> {
    let a = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name, size: "1G" }).await?;
    a.done("/api/v1/volumes", json!({ "name": "v", "group": "main", "size": 16 * MIB })).await?;
    a.iqn("main").await?;
    Ok(a)
}

/// A target, as libiscsi reaches it.
struct Peer {
    address: String,
    iqn: String,
}

impl Peer {
    fn inquire(&self, initiator: &str, credentials: &str, own: Option<(&str, &str)>) -> Result<String> {
        let url = format!("iscsi://{credentials}{}/{}/0", self.address, self.iqn);
        let mut command = Command::new("iscsi-inq");
        command.args(["-i", initiator, &url]).stdin(Stdio::null());
        if let Some((user, secret)) = own {
            command.env("LIBISCSI_CHAP_TARGET_USERNAME", user).env("LIBISCSI_CHAP_TARGET_PASSWORD", secret);
        }
        let out = command.output().context("start iscsi-inq")?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        if out.status.success() && said.contains("DIRECT_ACCESS") { Ok(said) } else { bail!("{said}") }
    }

    fn refused(&self, initiator: &str, credentials: &str, own: Option<(&str, &str)>) -> Result<()> {
        match self.inquire(initiator, credentials, own) {
            Ok(_) => bail!("{initiator} with {credentials:?} and {own:?} gets in"),
            Err(_) => Ok(()),
        }
    }

    /// Targets that discovery shows.
    fn discovered(&self, initiator: &str, credentials: &str) -> Result<usize> {
        let url = format!("iscsi://{credentials}{}", self.address);
        let out = Command::new("iscsi-ls").args(["-i", initiator, &url]).stdin(Stdio::null()).output()?;
        Ok(String::from_utf8_lossy(&out.stdout).lines().filter(|l| l.contains("Target:")).count())
    }
}

/// The command line, with secrets on its standard input.
fn cli(a: &Appliance, reprise: &std::path::Path, line: &[&str], secrets: &str) -> Result<Value> {
    let mut command = Command::new(reprise);
    command.arg("--socket").arg(a.socket()).arg("--json").args(line);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start the command line")?;
    child.stdin.take().context("standard input")?.write_all(secrets.as_bytes())?;
    let out = child.wait_with_output()?;
    ensure!(out.status.success(), "{line:?}: {}", String::from_utf8_lossy(&out.stderr));
    for secret in [SECRET, OWN_SECRET] {
        let said = [&out.stdout[..], &out.stderr].concat();
        ensure!(!String::from_utf8_lossy(&said).contains(secret), "{line:?} prints a secret");
    }
    serde_json::from_slice(&out.stdout).with_context(|| format!("{line:?}"))
}

/// Writes and reads with CRC32C over everything, in the command's PDU, in unsolicited and in solicited data.
async fn with_both_digests(a: &Appliance, iqn: &str) -> Result<()> {
    for immediate in [true, false] {
        let options =
            LoginOptions { digests: true, immediate_data: immediate, first_burst: 8 << 10, ..LoginOptions::new(iqn) };
        let session = Session::login(a.iscsi, &options).await?;
        session.clear_attentions(0).await?;
        for (lba, blocks) in [(0u64, 1u32), (8, 8), (64, 1024)] {
            let data: Vec<u8> = (0..blocks * 512).map(|n| (n / 7 + n * 13) as u8 ^ lba as u8).collect();
            let data = bytes::Bytes::from(data);
            session.write(0, lba, blocks, data.clone()).await?;
            ensure!(session.read(0, lba, blocks, 512).await? == data, "{blocks} blocks at {lba} read back as others");
        }
        session.logout().await?;
    }
    ensure!(a.log().contains("data_digest=true"), "the box took no data digest");
    Ok(())
}

async fn login(setup: &Setup) -> Result<String> {
    let mut a = one_box(setup, "guarded").await?;
    let peer = Peer { address: a.iscsi.to_string(), iqn: a.iqn("main").await? };
    peer.inquire(OTHER, "", None).context("on loopback, while nobody is named, everybody may")?;
    with_both_digests(&a, &peer.iqn).await.context("digests over headers and data")?;
    let both =
        ["initiator", "add", HOST, "--group", "main", "--address", "127.0.0.0/8", "--chap", "u", "--mutual", "b"];
    let added = cli(&a, &setup.reprise, &both, &format!("{SECRET}\n{OWN_SECRET}\n"))?;
    ensure!(added["initiator"]["chap_user"] == "u" && added["initiator"]["mutual_user"] == "b", "{added}");
    let (right, wrong) = (format!("u%{SECRET}@"), format!("u%{OWN_SECRET}@"));
    let own = ("b", OWN_SECRET);
    peer.inquire(HOST, &right, None).context("CHAP")?;
    peer.inquire(HOST, &right, Some(own)).context("mutual CHAP")?;
    let url = json!({ "driver": "raw", "file": {
        "driver": "iscsi", "transport": "tcp", "portal": peer.address, "target": peer.iqn, "lun": 0, "user": "u",
        "password-secret": "s", "initiator-name": HOST, "header-digest": "crc32c"
    } });
    let secret = format!("secret,id=s,data={SECRET}");
    output("qemu-img", &["info", "--object", &secret, &format!("json:{url}")]).context("CHAP and a header digest")?;
    ensure!(a.log().contains("header_digest=true data_digest=false"), "QEMU has no header digest");
    peer.refused(HOST, "", None)?;
    peer.refused(HOST, &wrong, None)?;
    peer.refused(HOST, &format!("U%{SECRET}@"), None)?;
    peer.refused(HOST, &right, Some(("b", "another-secret-of-it")))?;
    peer.refused(OTHER, "", None)?;
    ensure!(peer.discovered(HOST, &right)? == 1, "discovery with the secret");
    ensure!(peer.discovered(HOST, "")? == 0 && peer.discovered(OTHER, "")? == 0, "discovery without it");
    // Another secret, another network, another group; each change counts at once.
    let new = "a-secret-that-is-longer";
    let set = cli(&a, &setup.reprise, &["initiator", "set", HOST, "--chap", "u"], &format!("{new}\n"))?;
    ensure!(set["warnings"].as_array().is_some_and(|w| w.len() == 1), "no word of Microsoft's 16 bytes: {set}");
    peer.refused(HOST, &right, None)?;
    let right = format!("u%{new}@");
    peer.inquire(HOST, &right, None).context("the new secret")?;
    cli(&a, &setup.reprise, &["initiator", "set", HOST, "--address", "192.0.2.0/24"], "")?;
    peer.refused(HOST, &right, None)?;
    a.done("/api/v1/initiators/set", json!({ "name": HOST, "addresses": [], "groups": ["elsewhere"] })).await?;
    peer.refused(HOST, &right, None)?;
    a.done("/api/v1/initiators/set", json!({ "name": HOST, "groups": [] })).await?;
    // Rules outlive the daemon; those of whoever is removed do not.
    a.stop()?;
    a.run().await?;
    peer.inquire(HOST, &right, None).context("after a restart")?;
    peer.refused(HOST, "", None)?;
    cli(&a, &setup.reprise, &["initiator", "remove", HOST], "")?;
    peer.inquire(HOST, "", None).context("nobody is named any more")?;
    let log = a.log();
    ensure!(![SECRET, OWN_SECRET, new].iter().any(|secret| log.contains(secret)), "the log holds a secret");
    ensure!(log.contains("login refused"), "the log says nothing of refused logins");
    no_errors_logged(&[&a], &[])?;
    Ok("one way, both ways, header and data digest, discovery, groups, networks, restart".into())
}

async fn limits(setup: &Setup) -> Result<String> {
    let mut a = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "limited", size: "1G" })?;
    let text = std::fs::read_to_string(a.config())?;
    let more = "[iscsi]\nlogins_per_minute = 40\nconnections_per_address = 3\n";
    std::fs::write(a.config(), text.replace("[iscsi]\n", more))?;
    a.run().await?;
    a.done("/api/v1/volumes", json!({ "name": "v", "group": "main", "size": 16 * MIB })).await?;
    a.done("/api/v1/initiators", json!({ "name": HOST, "iops": 40 })).await?;
    let options = |isid| LoginOptions { initiator: HOST.into(), isid, ..LoginOptions::new(String::new()) };
    let iqn = a.iqn("main").await?;
    let log_in =
        async |isid| Session::login(a.iscsi, &LoginOptions { target: Some(iqn.clone()), ..options(isid) }).await;
    // Two sessions of one initiator share its limit.
    let (one, two) = (log_in(1).await?, log_in(2).await?);
    one.clear_attentions(0).await?;
    two.clear_attentions(0).await?;
    let start = Instant::now();
    let read = async |session: &Session| {
        for n in 0..40 {
            session.read(0, n * 8, 8, 512).await?;
        }
        anyhow::Ok(())
    };
    let (first, second) = tokio::join!(read(&one), read(&two));
    first.and(second)?;
    let took = start.elapsed().as_secs_f64();
    ensure!((1.7..60.0).contains(&took), "80 reads at 40 a second took {took:.1} s");
    until("sessions are shown", async || {
        let sessions = a.group("main").await?["targets"][0]["sessions"].clone();
        Ok(sessions.as_array().is_some_and(|s| s.len() == 2 && s.iter().all(|s| s["header_digest"] == false)))
    })
    .await?;
    a.done("/api/v1/initiators/set", json!({ "name": HOST, "iops": 0 })).await?;
    let start = Instant::now();
    for _ in 0..5 {
        read(&one).await?;
    }
    // With it that takes four seconds at least.
    ensure!(start.elapsed().as_secs_f64() < 3.5, "the limit holds after it was taken away");
    // A third connection is the last one, until one is gone.
    let three = log_in(3).await?;
    ensure!(log_in(4).await.is_err(), "a fourth connection from one address");
    three.logout().await?;
    until("a connection is free", async || Ok(log_in(4).await.is_ok())).await?;
    // Whoever is removed is out at once, and logins have an end.
    a.done("/api/v1/initiators", json!({ "name": OTHER })).await?;
    a.done("/api/v1/initiators/remove", json!({ "name": HOST })).await?;
    until("the sessions end", async || {
        Ok(one.test_unit_ready(0).await.is_err() && two.test_unit_ready(0).await.is_err())
    })
    .await?;
    for isid in 0..40 {
        ensure!(log_in(isid).await.is_err(), "a login that is not allowed");
    }
    ensure!(a.log().contains("logins refused for the rest of the minute"), "the log says nothing of it");
    no_errors_logged(&[&a], &[])?;
    Ok(format!(
        "80 reads of two sessions at 40 a second in {took:.1} s; connections and logins of an address have an end"
    ))
}
