//! The variables of a UEFI machine, with keys of ours enrolled: the file OVMF keeps them in, written by hand.
//!
//! The format is that of EDK II's variable driver (`MdeModulePkg/Include/Guid/VariableFormat.h`, authenticated variables).

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::image::layout::uuid_bytes;
use crate::process::output;

/// OVMF's own file without variables.
const EMPTY: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// Where a store of authenticated variables begins in it, and how long the store's header is.
const STORE_AT: usize = 0x48;
const STORE_HEADER_LEN: usize = 28;
const AUTHENTICATED: &str = "aaf32c78-947b-439a-a180-2e144ec37792";

const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
const IMAGE_SECURITY: &str = "d719b2cb-3d3a-4596-a3bc-dad00e67656f";
const X509: &str = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072";
/// Who has enrolled the keys: any identifier.
const OWNER: &str = "72657072-6973-4500-8000-6f776e657200";
/// Kept over a restart, seen by boot loaders and systems, changed only with a signature.
const ATTRIBUTES: u32 = 0x27;

/// The file's content with one certificate as the only key of each kind. With a platform key there, Secure Boot is on.
pub(super) fn with_key(certificate: &Path) -> Result<Vec<u8>> {
    let mut file = std::fs::read(EMPTY).with_context(|| format!("read {EMPTY}"))?;
    let mut der = Command::new("openssl");
    der.args(["x509", "-outform", "DER", "-in"]).arg(certificate);
    let der = der.output().context("start openssl")?;
    if !der.status.success() || der.stdout.is_empty() {
        bail!("openssl does not understand {}", certificate.display());
    }
    if file.get(STORE_AT..STORE_AT + 16) != Some(&uuid_bytes(AUTHENTICATED)?) {
        bail!("{EMPTY} holds no store of authenticated variables");
    }
    let list = signature_list(&der.stdout)?;
    let mut at = STORE_AT + STORE_HEADER_LEN;
    for (name, vendor) in [("PK", GLOBAL), ("KEK", GLOBAL), ("db", IMAGE_SECURITY)] {
        let bytes = variable(name, vendor, &list)?;
        let place = file.get_mut(at..at + bytes.len()).context("the store is full")?;
        if place.iter().any(|b| *b != 0xff) {
            bail!("{EMPTY} is not empty");
        }
        place.copy_from_slice(&bytes);
        at += bytes.len();
    }
    Ok(file)
}

/// `EFI_SIGNATURE_LIST` of one certificate.
fn signature_list(der: &[u8]) -> Result<Vec<u8>> {
    let entry = u32::try_from(16 + der.len())?;
    let mut list = uuid_bytes(X509)?.to_vec();
    for word in [28 + entry, 0, entry] {
        list.extend(word.to_le_bytes());
    }
    list.extend(uuid_bytes(OWNER)?);
    list.extend(der);
    Ok(list)
}

/// `AUTHENTICATED_VARIABLE_HEADER`, name and content, filled up to where the next one may begin.
fn variable(name: &str, vendor: &str, content: &[u8]) -> Result<Vec<u8>> {
    let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let mut bytes = vec![0xaa, 0x55, 0x3f, 0];
    bytes.extend(ATTRIBUTES.to_le_bytes());
    // Count, time (none) and index of a key (none).
    bytes.extend([0; 8 + 16 + 4]);
    bytes.extend(u32::try_from(name.len())?.to_le_bytes());
    bytes.extend(u32::try_from(content.len())?.to_le_bytes());
    bytes.extend(uuid_bytes(vendor)?);
    bytes.extend(name);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0xff);
    Ok(bytes)
}

/// QEMU's version, for the report.
pub(super) fn qemu_version() -> Result<String> {
    let said = output(Command::new("qemu-system-x86_64").arg("--version"))?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_the_drivers_layout() {
        let bytes = variable("db", IMAGE_SECURITY, &[1, 2, 3]).expect("short enough");
        assert_eq!(bytes.len(), 72, "60 of header, 6 of name, 3 of content, filled up to fours");
        assert_eq!(bytes[36..40], 6_u32.to_le_bytes());
        assert_eq!(bytes[40..44], 3_u32.to_le_bytes());
        assert_eq!(bytes[60..66], [b'd', 0, b'b', 0, 0, 0]);
        let list = signature_list(&[9; 10]).expect("short enough");
        assert_eq!(list.len(), 28 + 26);
        assert_eq!(list[16..20], 54_u32.to_le_bytes());
        assert_eq!(list[24..28], 26_u32.to_le_bytes());
    }
}
