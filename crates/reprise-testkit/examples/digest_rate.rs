//! What digests cost: `digest_rate ADDRESS IQN LUN COUNT DEPTH on|off` reads 4 KiB blocks one after the other and prints
//! the reads a second. Client and target both compute CRC32C over headers and data.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use anyhow::{Context, Result, bail};
use reprise_testkit::initiator::{LoginOptions, Session};

const BLOCK: u32 = 8;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, iqn, lun, count, depth, digests] = args.as_slice() else {
        bail!("usage: digest_rate ADDRESS IQN LUN COUNT DEPTH on|off")
    };
    let (lun, count, depth): (u16, u64, u64) = (lun.parse()?, count.parse()?, depth.parse()?);
    let options = LoginOptions { digests: digests == "on", ..LoginOptions::new(iqn.as_str()) };
    let session = Session::login(address.parse()?, &options).await.context("log in")?;
    session.clear_attentions(lun).await?;
    let blocks = session.read_capacity(lun).await?.blocks / u64::from(BLOCK);
    let start = Instant::now();
    let mut readers = Vec::new();
    for reader in 0..depth {
        let session = session.clone();
        readers.push(tokio::spawn(async move {
            for n in (reader..count).step_by(depth as usize) {
                session.read(lun, n % blocks * u64::from(BLOCK), BLOCK, 512).await?;
            }
            Ok::<_, reprise_testkit::initiator::InitiatorError>(())
        }));
    }
    for reader in readers {
        reader.await??;
    }
    println!("{:.0}", count as f64 / start.elapsed().as_secs_f64());
    Ok(())
}
