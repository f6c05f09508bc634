//! GRUB, for BIOS and for UEFI, and the partition it reads its configuration from.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::keys::Keys;
use super::layout::{self, SECTOR_LEN};
use crate::process::{find_program, run};

const EARLY: &str = include_str!("../../../appliance-image/early.cfg");
const CONFIG: &str = include_str!("../../../appliance-image/grub.cfg");
/// The same place for both kinds of machine, on the disk the boot loader was started from.
const PREFIX: &str = "(,gpt2)/grub";

/// All that is used is inside: with signatures enforced nothing could be loaded later without one more file and signature.
const MODULES: &[&str] = &[
    "part_gpt",
    "fat",
    "newc",
    "normal",
    "configfile",
    "test",
    "true",
    "echo",
    "sleep",
    "reboot",
    "regexp",
    "probe",
    "loadenv",
    "linux",
    "boot",
    "pgp",
    "gcry_rsa",
    "gcry_sha256",
    "gcry_sha512",
    "serial",
    "terminal",
    "minicmd",
];
const BIOS_MODULES: &[&str] = &["biosdisk", "at_keyboard"];
const EFI_MODULES: &[&str] = &["efi_gop", "all_video"];

/// Which revision of GRUB this is, for those who revoke some.
const SBAT: &str = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n\
                    grub,3,Free Software Foundation,grub,2.06,https://www.gnu.org/software/grub/\n\
                    reprise,1,reprise,reprise,1,https://example.invalid/reprise\n";

/// Bytes of the boot state's file; the first half is the sector that changes.
const STATE_LEN: usize = 1024;
/// As `reprise-init` writes it for a flashed image.
const STATE: &str = "# GRUB Environment Block\nORDER=a b\nA_OK=1\nA_TRY=0\nB_OK=1\nB_TRY=0\n";

/// What the boot loader is before anything is signed.
#[derive(Debug)]
pub(super) struct Loader {
    /// First sector of the disk.
    pub(super) first_sector: [u8; 512],
    /// Content of the BIOS boot partition.
    pub(super) bios: Vec<u8>,
    /// The program for UEFI.
    pub(super) efi: PathBuf,
}

/// Makes GRUB's programs, with the key and the first lines built in.
pub(super) fn make(work: &Path, keys: &Keys) -> Result<Loader> {
    let early = work.join("early.cfg");
    // The parser that reads it knows no comments.
    let lines = EARLY.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n"));
    std::fs::write(&early, lines.collect::<String>())?;
    let sbat = work.join("sbat.csv");
    std::fs::write(&sbat, SBAT)?;
    let image = |format: &str, to: &Path, more: &[&str], modules: &[&str]| {
        let mut command = Command::new("grub-mkimage");
        command.args(["--format", format, "--prefix", PREFIX, "--config"]).arg(&early).arg("--pubkey");
        command.arg(keys.boot_public()).arg("--output").arg(to).args(more).args(MODULES).args(modules);
        run(&mut command).with_context(|| format!("make GRUB for {format}"))
    };
    let (core, efi) = (work.join("core.img"), work.join("grubx64.efi"));
    image("i386-pc", &core, &["--compression", "xz"], BIOS_MODULES)?;
    let sbat_option = format!("--sbat={}", sbat.display());
    image("x86_64-efi", &efi, &["--disable-shim-lock", &sbat_option], EFI_MODULES)?;
    let begin = layout::begin_of("reprise-bios")? / SECTOR_LEN;
    let boot = std::fs::read("/usr/lib/grub/i386-pc/boot.img").context("read GRUB's first sector")?;
    let bios = std::fs::read(&core)?;
    Ok(Loader { first_sector: first_sector(&boot, begin)?, bios: second_stage(bios, begin)?, efi })
}

/// GRUB's first sector, told where the second one is.
fn first_sector(boot: &[u8], second: u64) -> Result<[u8; 512]> {
    let mut sector: [u8; 512] = boot.try_into().ok().context("GRUB's first sector has not 512 bytes")?;
    sector[0x5c..0x64].copy_from_slice(&second.to_le_bytes());
    // Not the drive number of the image but the BIOS's; the jump skipped takes a wrong one of some BIOSes for right.
    sector[0x64] = 0xff;
    sector[0x66..0x68].copy_from_slice(&[0x90, 0x90]);
    Ok(sector)
}

/// GRUB's image for BIOS, whose first sector is told where the rest is: behind it.
fn second_stage(mut core: Vec<u8>, begin: u64) -> Result<Vec<u8>> {
    if core.len() < 1024 {
        bail!("GRUB's image for BIOS has {} bytes", core.len());
    }
    core.resize(core.len().next_multiple_of(512), 0);
    let rest = u16::try_from(core.len() / 512 - 1).context("length of GRUB's image for BIOS")?;
    // The last list entry of the sector: first sector, count, and the segment it is loaded to.
    core[500..508].copy_from_slice(&(begin + 1).to_le_bytes());
    core[508..510].copy_from_slice(&rest.to_le_bytes());
    core[510..512].copy_from_slice(&0x820_u16.to_le_bytes());
    Ok(core)
}

/// The EFI system partition.
#[derive(Debug)]
pub(super) struct Esp {
    pub(super) content: Vec<u8>,
    /// Sector of the boot state, counted from the partition's begin.
    pub(super) state_sector: u64,
}

/// Makes the partition: GRUB for UEFI, the configuration with its signature, the boot state.
pub(super) fn esp(work: &Path, loader: &Path, keys: &Keys, epoch: u64) -> Result<Esp> {
    let file = work.join("esp.img");
    let _ = std::fs::remove_file(&file);
    std::fs::File::create(&file)?.set_len(layout::named("reprise-esp")?.size)?;
    let mkfs = find_program("mkfs.fat").context("mkfs.fat is missing: cargo xtask setup")?;
    let mut command = Command::new(mkfs);
    command.args(["--invariant", "-F", "16", "-s", "4", "-i", "52455052", "-n", "REPRISE"]).arg(&file);
    run(command.stdout(std::process::Stdio::null())).context("make the EFI system partition")?;
    let mtool = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.env("SOURCE_DATE_EPOCH", epoch.to_string()).env("TZ", "UTC").arg("-i").arg(&file).args(args);
        run(&mut command)
    };
    let copy = |name: &str, content: &[u8]| -> Result<()> {
        let from = work.join("to-be-copied");
        std::fs::write(&from, content)?;
        mtool("mcopy", &[&from.display().to_string(), &format!("::{name}")])
    };
    mtool("mmd", &["::/grub", "::/EFI", "::/EFI/BOOT"])?;
    let mut state = STATE.as_bytes().to_vec();
    state.resize(STATE_LEN, b'#');
    copy("/grub/grubenv", &state)?;
    let state_sector = find_state(&std::fs::read(&file)?, &state)?;
    let config = CONFIG.replace("@STATE@", &state_sector.to_string());
    copy("/grub/grub.cfg", config.as_bytes())?;
    copy("/grub/grub.cfg.sig", &keys.sign(work, config.as_bytes())?)?;
    copy("/EFI/BOOT/BOOTX64.EFI", &std::fs::read(loader)?)?;
    Ok(Esp { content: std::fs::read(&file)?, state_sector })
}

/// The one place where the state stands, in one piece.
fn find_state(partition: &[u8], state: &[u8]) -> Result<u64> {
    let mut places = (0_u64..).zip(partition.chunks(512)).filter(|(_, s)| *s == &state[..512]).map(|(place, _)| place);
    let (Some(place), None) = (places.next(), places.next()) else {
        bail!("the boot state is not in one place of the EFI system partition");
    };
    let at = usize::try_from(place)? * 512;
    if partition.get(at..at + state.len()) != Some(state) {
        bail!("the boot state is not in one piece in the EFI system partition");
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grub_is_told_where_it_stands() {
        let sector = first_sector(&[0; 512], 2048).expect("512 bytes");
        assert_eq!(sector[0x5c..0x64], 2048_u64.to_le_bytes());
        assert!(first_sector(&[0; 511], 2048).is_err());
        let core = second_stage(vec![7; 1030], 2048).expect("long enough");
        assert_eq!(core.len(), 3 * 512);
        assert_eq!(core[500..508], 2049_u64.to_le_bytes());
        assert_eq!(core[508..512], [2, 0, 0x20, 8]);
        assert!(second_stage(vec![7; 3], 2048).is_err());
    }

    #[test]
    fn the_state_is_found_only_in_one_piece() {
        let state = [[b'x'; 512], [b'#'; 512]].concat();
        let mut partition = vec![0; 8 * 512];
        assert!(find_state(&partition, &state).is_err());
        partition[3 * 512..5 * 512].copy_from_slice(&state);
        assert_eq!(find_state(&partition, &state).ok(), Some(3));
        partition[4 * 512] = 0;
        assert!(find_state(&partition, &state).is_err());
        partition[6 * 512..7 * 512].copy_from_slice(&state[..512]);
        assert!(find_state(&partition, &state).is_err(), "two places");
    }

    #[test]
    fn the_first_lines_are_what_the_small_parser_knows() {
        for line in EARLY.lines().filter(|l| !l.starts_with('#')) {
            assert!(!line.replace("${prefix}", "").contains(['|', ';', '{', '$']), "{line}");
            assert!(!line.starts_with("if") && !line.starts_with("function"), "{line}");
        }
    }
}
