//! Keys of the boot chain: one (PGP) that the boot loader checks with, one (X.509) for UEFI Secure Boot.
//!
//! Test keys are made where none are given and kept from build to build. A folder with real ones has the same files:
//! `boot.gpg` (secret key without passphrase, or one gpg can ask an agent for), `boot.pub` (public key, not armoured),
//! `db.key` and `db.crt` (PEM).

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{quiet, run};

const FILES: [&str; 4] = ["boot.gpg", "boot.pub", "db.key", "db.crt"];

/// What signs.
#[derive(Debug)]
pub struct Keys {
    dir: PathBuf,
    /// gpg's own folder: in a place of its own, because the path to the agent's socket must be short.
    home: PathBuf,
}

impl Keys {
    /// Those of a folder.
    pub fn given(dir: &Path) -> Result<Self> {
        if let Some(missing) = FILES.iter().find(|f| !dir.join(f).is_file()) {
            bail!("{} has no {missing}", dir.display());
        }
        let this = Self { dir: dir.to_owned(), home: gpg_home()? };
        run(this.gpg().arg("--import").arg(dir.join("boot.gpg"))).context("read boot.gpg")?;
        Ok(this)
    }

    /// Test keys, made if they are not there.
    pub fn test(dir: &Path) -> Result<Self> {
        if FILES.iter().all(|f| dir.join(f).is_file()) {
            return Self::given(dir);
        }
        let _ = std::fs::remove_dir_all(dir);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let this = Self { dir: dir.to_owned(), home: gpg_home()? };
        let mut make = this.gpg();
        make.args(["--passphrase", "", "--quick-generate-key", "reprise boot (test key)", "rsa3072", "sign", "never"]);
        run(&mut make).context("make the boot loader's key")?;
        run(this.gpg().arg("--output").arg(dir.join("boot.pub")).arg("--export")).context("take its public half")?;
        run(this.gpg().arg("--output").arg(dir.join("boot.gpg")).arg("--export-secret-keys"))
            .context("take its secret half")?;
        let mut make = Command::new("openssl");
        make.args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "7300", "-batch"]);
        make.args(["-subj", "/CN=reprise Secure Boot (test key)", "-keyout"]).arg(dir.join("db.key"));
        make.arg("-out").arg(dir.join("db.crt"));
        quiet(&mut make).context("make the Secure Boot key")?;
        std::fs::set_permissions(dir.join("db.key"), std::fs::Permissions::from_mode(0o600))?;
        Ok(this)
    }

    fn gpg(&self) -> Command {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(&self.home).args(["--batch", "--quiet", "--no-tty", "--yes"]);
        command.args(["--no-permission-warning", "--pinentry-mode", "loopback"]);
        command
    }

    /// What goes into the boot loader.
    pub fn boot_public(&self) -> PathBuf {
        self.dir.join("boot.pub")
    }

    /// The Secure Boot certificate.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("db.crt")
    }

    /// A signature, apart from what is signed.
    pub fn sign(&self, work: &Path, content: &[u8]) -> Result<Vec<u8>> {
        let (file, signature) = (work.join("to-be-signed"), work.join("to-be-signed.sig"));
        std::fs::write(&file, content)?;
        let mut command = self.gpg();
        command.args(["--digest-algo", "SHA256", "--output"]).arg(&signature).arg("--detach-sign").arg(&file);
        run(&mut command).context("sign for the boot loader")?;
        let bytes = std::fs::read(&signature)?;
        std::fs::remove_file(&file)?;
        std::fs::remove_file(&signature)?;
        Ok(bytes)
    }

    /// A program for UEFI with a signature inside.
    pub fn sign_efi(&self, program: &Path, signed: &Path) -> Result<()> {
        let mut command = Command::new("sbsign");
        command.arg("--key").arg(self.dir.join("db.key")).arg("--cert").arg(self.certificate());
        command.arg("--output").arg(signed).arg(program);
        quiet(&mut command).context("sign for Secure Boot")
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // The agent that gpg has started for this folder; with the folder it would end by itself, a little later.
        let _ = Command::new("gpgconf").arg("--homedir").arg(&self.home).args(["--kill", "gpg-agent"]).status();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

fn gpg_home() -> Result<PathBuf> {
    let home = std::env::temp_dir().join(format!("reprise-gpg-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&home);
    std::fs::DirBuilder::new().mode(0o700).create(&home).context("make gpg's folder")?;
    Ok(home)
}
