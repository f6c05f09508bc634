//! The initiator against a real target, Debian's tgt, which `cargo xtask setup` installs. tgtd needs root.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reprise_testkit::initiator::*;
use reprise_testkit::oracle::*;
use reprise_testkit::relay::Relay;
use tokio::sync::watch;

const IQN: &str = "iqn.2024-01.invalid.reprise:tgt";
const SIZE: u64 = 16 << 20;

struct Tgt {
    daemon: Child,
    control: String,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Drop for Tgt {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Tgt {
    fn start() -> Self {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // tgtd takes control numbers below 32768 only.
        let control = (address.port() & 0x7fff).to_string();
        let daemon = Command::new("tgtd")
            .args(["-f", "-C", &control, "--iscsi", &format!("portal={address}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tgtd starts: cargo xtask setup installs it");
        let tgt = Self { daemon, control, address, dir: tempfile::tempdir().unwrap() };
        let ready = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            tgt.admin(&["--op", "show", "--mode", "target"])
        });
        assert!(ready, "tgtd does not answer (it needs root)");
        assert!(tgt.admin(&["--op", "new", "--mode", "target", "--tid", "1", "-T", IQN]));
        for lun in ["1", "2"] {
            let file = tgt.home(lun);
            std::fs::File::create(&file).unwrap().set_len(SIZE).unwrap();
            let file = file.to_str().unwrap();
            let new =
                ["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", lun, "-b", file, "--blocksize", "512"];
            assert!(tgt.admin(&new));
            let thin = ["--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", lun, "--params"];
            assert!(tgt.admin(&[&thin[..], &["thin_provisioning=1"]].concat()));
        }
        // A target that asks for R2T always would leave unsolicited data untried.
        let unsolicited = ["--op", "update", "--mode", "target", "--tid", "1", "--name", "InitialR2T", "--value", "No"];
        assert!(tgt.admin(&unsolicited));
        assert!(tgt.admin(&["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"]));
        tgt
    }

    fn admin(&self, args: &[&str]) -> bool {
        let out = Command::new("tgtadm").args(["-C", &self.control, "--lld", "iscsi"]).args(args).output();
        out.is_ok_and(|o| o.status.success())
    }

    fn home(&self, lun: &str) -> std::path::PathBuf {
        self.dir.path().join(lun)
    }
}

async fn login(address: SocketAddr, options: &LoginOptions) -> Session {
    let session = Session::login(address, options).await.unwrap();
    session.clear_attentions(1).await.unwrap();
    session.clear_attentions(2).await.unwrap();
    session
}

#[tokio::test]
async fn commands_work_and_errors_carry_sense() {
    let tgt = Tgt::start();
    let found = discover(tgt.address, "iqn.2024-01.invalid.reprise:testkit").await.unwrap();
    assert_eq!(found[0].name, IQN);
    assert!(found[0].addresses[0].starts_with(&tgt.address.to_string()));
    let wrong = Session::login(tgt.address, &LoginOptions::new("iqn.nobody")).await;
    assert!(matches!(wrong.err(), Some(InitiatorError::Login { class: 2, .. })));

    let session = login(tgt.address, &LoginOptions::new(IQN)).await;
    session.ping().await.unwrap();
    assert_eq!(session.report_luns().await.unwrap(), [0, 1, 2]);
    assert_eq!(session.inquiry(1).await.unwrap().vendor, "IET");
    assert_eq!(session.vital_product_data(1, 0).await.unwrap()[1], 0);
    let capacity = session.read_capacity(1).await.unwrap();
    assert_eq!((capacity.bytes(), capacity.block_size), (SIZE, 512));

    let data = Bytes::from(vec![0x42; 8192]);
    session.write(1, 100, 16, data.clone()).await.unwrap();
    assert_eq!(session.read(1, 100, 16, 512).await.unwrap(), data);
    session.sync_cache(1).await.unwrap();
    let unknown = session.compare_and_write(1, 100, 1, &[0x42; 512], &[0x43; 512]).await.unwrap_err();
    assert_eq!(unknown.sense().map(|s| (s.key, s.asc)), Some((5, 0x20)), "tgt does not have it: {unknown}");
    session.write_same(1, 200, 8, Bytes::from(vec![9; 512]), false).await.unwrap();
    assert_eq!(session.read(1, 207, 1, 512).await.unwrap(), vec![9; 512]);
    session.unmap(1, &[(200, 8), (100, 1)]).await.unwrap();
    assert_eq!(session.read(1, 100, 1, 512).await.unwrap(), vec![0; 512]);
    let out = session.read(1, SIZE / 512, 1, 512).await.unwrap_err();
    assert_eq!(out.sense().map(|s| (s.key, s.asc)), Some((5, 0x21)), "{out}");
    let nobody = session.read(77, 0, 1, 512).await.unwrap_err();
    assert!(nobody.is_answer(), "{nobody}");
    session.lun_reset(1).await.unwrap();
    session.clear_attentions(1).await.unwrap();
    session.logout().await.unwrap();
}

#[tokio::test]
async fn every_way_of_sending_data_stores_the_same() {
    let tgt = Tgt::start();
    for case in 0..8u32 {
        let options = LoginOptions {
            initial_r2t: case & 1 != 0,
            immediate_data: case & 2 != 0,
            first_burst: if case & 4 != 0 { 4096 } else { 64 << 10 },
            max_burst: if case & 4 != 0 { 16 << 10 } else { 1 << 20 },
            max_recv: if case & 4 != 0 { 1024 } else { 256 << 10 },
            ..LoginOptions::new(IQN)
        };
        let session = login(tgt.address, &options).await;
        assert_eq!(session.negotiated().initial_r2t, options.initial_r2t);
        assert_eq!(session.negotiated().immediate_data, options.immediate_data);
        // More than fits the window, of sizes around every burst; none overlaps another, since tgt keeps no order.
        let (mut flight, mut at) = (Vec::new(), 0);
        for (n, sectors) in [1u32, 7, 8, 9, 127, 128, 129, 1024].into_iter().cycle().take(150).enumerate() {
            let id = OpId { writer: case, op: n as u64 };
            let data = Bytes::from(stamp::payload(id, 1, at, sectors));
            let write = session.write(1, at, sectors, data.clone());
            flight.push((at, sectors, data, write));
            at += u64::from(sectors);
        }
        let mut written = Vec::new();
        for (at, sectors, data, write) in flight {
            write.await.unwrap();
            written.push((at, sectors, data));
        }
        for (at, sectors, data) in written {
            assert!(session.read(1, at, sectors, 512).await.unwrap() == data, "case {case}, sector {at}");
        }
        session.logout().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_and_checks_work_through_cuts() {
    let tgt = Tgt::start();
    let relay = Relay::start(tgt.address).await.unwrap();
    let target = Target { address: relay.address(), iqn: IQN.into(), volumes: vec![(0, 1, 8192), (1, 2, 8192)] };
    let log = Arc::new(OpLog::new());
    let (stop, stopped) = watch::channel(false);
    let plan = WriterPlan { zero_every: 20, ..WriterPlan::default() };
    let cuts = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            relay.cut_once();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.send(true).unwrap();
    };
    let (report, ()) = tokio::join!(run_writers(&target, &plan, &log, &stopped), cuts);
    println!("{report:?}");
    assert!(report.acknowledged > 100 && report.logins > 4 && report.refused.is_empty());
    let session = login(tgt.address, &LoginOptions::new(IQN)).await;
    let dumps = [tgt.dir.path().join("dump1"), tgt.dir.path().join("dump2")];
    let a = dump_volume(&session, 1, &dumps[0]).await.unwrap();
    let b = dump_volume(&session, 2, &dumps[1]).await.unwrap();
    let images = [(0, &a as &dyn Image), (1, &b as &dyn Image)].into();
    let report = check_image(&images, &log.ops()).unwrap();
    // tgt is no journal: a write that was cut may be there in part. All else must hold.
    let real = report.faults.iter().find(|f| !matches!(f, ImageFault::Torn { .. } | ImageFault::NoOrder { .. }));
    assert!(real.is_none(), "{real:?}");
    assert!(report.stamped > 1000);
    assert_eq!(compare_images(&a, &FileImage::open(Path::new(&tgt.home("1"))).unwrap()).unwrap(), None);
}
