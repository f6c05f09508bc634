//! The support bundle: what somebody who helps wants to see, without secrets.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use reprise_api::SupportBundle;

use super::logs::{self, utc};

/// What the kernel says of the machine, below `/proc`.
const FACTS: &[&str] = &[
    "cmdline",
    "cpuinfo",
    "diskstats",
    "interrupts",
    "loadavg",
    "meminfo",
    "modules",
    "mounts",
    "net/bonding",
    "net/dev",
    "net/if_inet6",
    "net/ipv6_route",
    "net/route",
    "net/vlan/config",
    "partitions",
    "pressure/io",
    "pressure/memory",
    "slabinfo",
    "stat",
    "swaps",
    "uptime",
    "version",
    "vmstat",
];
/// Most bytes of one fact.
const FACT_LEN_MAX: u64 = 256 << 10;
/// Lines of each log.
const LOG_LINES: usize = 20_000;

/// What goes into a bundle besides the logs and the kernel's facts: names and texts.
pub(crate) type Texts = Vec<(String, String)>;

/// Makes the bundle of a box.
///
/// # Errors
/// It cannot be packed.
pub(crate) fn bundle(box_name: &str, unix_ms: u64, log_dir: &Path, proc: &Path, texts: Texts) -> Result<SupportBundle> {
    let stamp: String = utc(unix_ms).chars().take(19).filter(|c| *c != ':' && *c != '-').collect();
    let folder = format!("reprise-{box_name}-{stamp}");
    let mut files = texts;
    for name in log_names(log_dir) {
        let lines = logs::tail(&log_dir.join(&name), LOG_LINES);
        files.push((format!("log/{name}"), lines.join("\n") + "\n"));
    }
    for fact in FACTS {
        let path = proc.join(fact);
        if path.is_dir() {
            for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
                let name = entry.file_name();
                push_fact(&mut files, &format!("{fact}/{}", name.to_string_lossy()), &entry.path());
            }
        } else {
            push_fact(&mut files, fact, &path);
        }
    }
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(unix_ms / 1000);
        tar.append_data(&mut header, format!("{folder}/{name}"), text.as_bytes()).context("pack the support bundle")?;
    }
    let packed = tar.into_inner().and_then(GzEncoder::finish).context("pack the support bundle")?;
    Ok(SupportBundle {
        file_name: format!("{folder}.tar.gz"),
        content_base64: base64::engine::general_purpose::STANDARD.encode(packed),
    })
}

fn log_names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.ends_with(".log")).collect();
    names.sort();
    names
}

fn push_fact(files: &mut Texts, name: &str, path: &Path) {
    let mut bytes = Vec::new();
    if std::fs::File::open(path).is_ok_and(|file| file.take(FACT_LEN_MAX).read_to_end(&mut bytes).is_ok()) {
        files.push((format!("proc/{name}"), String::from_utf8_lossy(&bytes).into_owned()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_bundle_holds_logs_facts_and_texts_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (log, proc) = (dir.path().join("log"), dir.path().join("proc"));
        std::fs::create_dir_all(&log).unwrap();
        std::fs::create_dir_all(proc.join("net/bonding")).unwrap();
        std::fs::write(log.join("daemon.log.1"), "older\n").unwrap();
        std::fs::write(log.join("daemon.log"), "newer\n").unwrap();
        std::fs::write(log.join("identity.key"), "secret").unwrap();
        std::fs::write(proc.join("meminfo"), "MemTotal: 1 kB\n").unwrap();
        std::fs::write(proc.join("net/bonding/bond0"), "Mode\n").unwrap();
        let texts = vec![("system.json".to_owned(), "{}".to_owned())];
        let made = bundle("box-a", 1_767_225_600_000, &log, &proc, texts).unwrap();
        assert_eq!(made.file_name, "reprise-box-a-20260101T000000.tar.gz");
        let packed = base64::engine::general_purpose::STANDARD.decode(made.content_base64).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&packed[..]));
        let mut found = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.insert(name.split_once('/').unwrap().1.to_owned(), text);
        }
        let expected = [
            ("log/daemon.log", "older\nnewer\n"),
            ("proc/meminfo", "MemTotal: 1 kB\n"),
            ("proc/net/bonding/bond0", "Mode\n"),
            ("system.json", "{}"),
        ];
        let expected: BTreeMap<String, String> =
            expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(found, expected);
    }
}
