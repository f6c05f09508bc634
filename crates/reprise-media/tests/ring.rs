//! The ring and media on real files: on the disk and on tmpfs, with both engines.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use reprise_media::*;
use reprise_types::{BufPool, ByteLen, PoolBuf};

const MIB: u64 = 1 << 20;

fn dirs() -> Vec<tempfile::TempDir> {
    let mut dirs = vec![tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()];
    match tempfile::tempdir_in("/dev/shm") {
        Ok(dir) => dirs.push(dir),
        Err(e) => println!("NOT RUN on tmpfs: /dev/shm: {e}"),
    }
    dirs
}

fn engines() -> Vec<RingConfig> {
    let uring = RingConfig { engine: EngineChoice::Uring, ..RingConfig::default() };
    let threads = RingConfig { engine: EngineChoice::Threads, ..RingConfig::default() };
    let mut list = vec![threads];
    match on_runtime(async move || Ring::new(uring).map(drop)) {
        Ok(()) => list.extend([uring, RingConfig { defer: false, ..uring }, RingConfig { depth: 2, ..uring }]),
        Err(e) => println!("NOT RUN with io_uring: {e}"),
    }
    list
}

fn on_runtime<T>(work: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work())
}

/// Runs `work` for every directory and engine on a fresh zeroed file.
fn each(size: u64, work: impl AsyncFn(Ring, Arc<Media>)) {
    for dir in dirs() {
        for (n, config) in engines().into_iter().enumerate() {
            let path = dir.path().join(format!("file{n}"));
            let media = fresh(&path, size);
            on_runtime(async || {
                let ring = Ring::spawn_local(config).unwrap();
                work(ring, media).await;
            });
        }
    }
}

fn fresh(path: &Path, size: u64) -> Arc<Media> {
    create_file(path, ByteLen::from_raw(size), Fill::Zeroed, &mut |_| ControlFlow::Continue(())).unwrap();
    Media::open(path, MediaOptions::exclusive()).unwrap()
}

fn filled(len: usize, byte: u8) -> PoolBuf {
    let mut buf = PoolBuf::unpooled(len);
    buf.fill(byte);
    buf
}

#[test]
fn pieces_are_written_in_place_and_read_back() {
    each(MIB, async |ring, media| {
        let whole = filled(64 << 10, 7).freeze();
        let pieces = vec![whole.slice(..512), whole.slice(4096..8192), filled(1024, 9).freeze()];
        ring.write_vectored(&media, 4096, pieces, Durability::Dsync).await.unwrap();
        let odd = Bytes::copy_from_slice(&[3u8; 1025][1..]);
        ring.write_vectored(&media, 512, vec![odd], Durability::ThenSync).await.unwrap();
        ring.fdatasync(&media).await.unwrap();
        let (result, buf) = ring.read(&media, 0, PoolBuf::unpooled(16384)).await;
        result.unwrap();
        let mut want = vec![0u8; 16384];
        want[512..1536].fill(3);
        want[4096..8704].fill(7);
        want[8704..9728].fill(9);
        assert!(buf[..] == want[..], "{:?}", media.path());
        if media.direct() == Direct::Yes {
            assert!(ring.stats().bounced <= 1);
        }
        assert_eq!(ring.stats().failed, 0);
        assert_eq!(ring.outstanding(), 0);
    });
}

#[test]
fn zero_and_punch_read_as_zeros_and_misuse_is_refused() {
    each(4 * MIB, async |ring, media| {
        ring.write_vectored(&media, 0, vec![filled(4 << 20, 0xee).freeze()], Durability::None).await.unwrap();
        ring.zero(&media, 512, 3 * MIB).await.unwrap();
        ring.punch(&media, 3 * MIB + 8192, 4096).await.unwrap();
        ring.fdatasync(&media).await.unwrap();
        let (result, buf) = ring.read(&media, 0, PoolBuf::unpooled(4 << 20)).await;
        result.unwrap();
        let mut want = vec![0xeeu8; 4 << 20];
        want[512..512 + (3 << 20)].fill(0);
        want[(3 << 20) + 8192..][..4096].fill(0);
        assert!(buf[..] == want[..]);
        let past = ring.write_vectored(&media, 4 * MIB - 512, vec![filled(1024, 1).freeze()], Durability::None).await;
        assert_eq!(past.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
        let (result, buf) = ring.read(&media, u64::MAX - 511, PoolBuf::unpooled(512)).await;
        assert!(result.is_err() && buf.len() == 512);
    });
}

#[test]
fn many_operations_pass_a_small_ring() {
    each(4 * MIB, async |ring, media| {
        let writes: Vec<_> = (0..1024u64)
            .map(|n| ring.write_vectored(&media, n * 4096, vec![filled(4096, n as u8).freeze()], Durability::None))
            .collect();
        for write in writes {
            write.await.unwrap();
        }
        let reads: Vec<_> = (0..1024u64).map(|n| ring.read(&media, n * 4096, PoolBuf::unpooled(4096))).collect();
        for (n, read) in reads.into_iter().enumerate() {
            let (result, buf) = read.await;
            result.unwrap();
            assert!(buf.iter().all(|b| *b == n as u8), "block {n}");
        }
    });
}

#[test]
fn buffers_outlive_dropped_futures_and_the_driver() {
    each(8 * MIB, async |ring, media| {
        let pool = BufPool::new(64 * MIB);
        for n in 0..64u64 {
            let mut buf = pool.try_alloc(64 << 10).unwrap();
            buf.fill(n as u8 + 1);
            drop(ring.write_vectored(&media, n * 65536, vec![buf.freeze()], Durability::Dsync));
            drop(ring.read(&media, n * 65536, pool.try_alloc(64 << 10).unwrap()));
            if n % 8 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert!(pool.used() > 0, "in flight");
        ring.fdatasync(&media).await.unwrap();
        while ring.outstanding() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.used(), 0, "all memory came back");
        let (result, buf) = ring.read(&media, 0, PoolBuf::unpooled(4 << 20)).await;
        result.unwrap();
        assert!(buf.iter().enumerate().all(|(i, b)| *b == (i / 65536) as u8 + 1));
    });
    // A driver that goes away with operations in flight waits for the kernel and answers everybody.
    for dir in dirs() {
        for (n, config) in engines().into_iter().enumerate() {
            let media = fresh(&dir.path().join(format!("d{n}")), MIB);
            let pool = BufPool::new(64 * MIB);
            on_runtime(async || {
                let (ring, driver) = Ring::new(config).unwrap();
                let reads: Vec<_> = (0..300).map(|_| ring.read(&media, 0, pool.try_alloc(65536).unwrap())).collect();
                ring.flush();
                drop(driver);
                let mut done = 0;
                for read in reads {
                    let (result, buf) = read.await;
                    assert_eq!(buf.len(), 65536);
                    done += usize::from(result.is_ok());
                }
                assert!(done >= 1);
                assert!(ring.fdatasync(&media).await.is_err());
            });
            assert_eq!(pool.used(), 0);
        }
    }
}

#[test]
fn planned_faults_hit_what_they_name() {
    each(MIB, async |ring, media| {
        let write = |d| ring.write_vectored(&media, 0, vec![filled(4096, 5).freeze()], d);
        let fail = |target, nth, errno| FaultRule::nth(target, nth, FaultAction::Fail(errno));
        ring.set_faults(Some(FaultPlan::new([
            fail(FaultTarget::Write, 2, libc_errno::ENOSPC),
            fail(FaultTarget::Read, 1, libc_errno::EIO),
            fail(FaultTarget::Sync, 2, libc_errno::EIO),
            FaultRule::nth(FaultTarget::Read, 2, FaultAction::Delay(Duration::from_millis(30))),
        ])));
        write(Durability::None).await.unwrap();
        assert_eq!(write(Durability::None).await.unwrap_err().raw_os_error(), Some(libc_errno::ENOSPC));
        write(Durability::None).await.unwrap();
        let (result, buf) = ring.read(&media, 0, PoolBuf::unpooled(4096)).await;
        assert_eq!((result.unwrap_err().raw_os_error(), buf.len()), (Some(libc_errno::EIO), 4096));
        ring.fdatasync(&media).await.unwrap();
        let synced = write(Durability::Dsync).await;
        assert_eq!(synced.unwrap_err().raw_os_error(), Some(libc_errno::EIO), "its sync part");
        let start = Instant::now();
        ring.read(&media, 0, PoolBuf::unpooled(4096)).await.0.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(30));
        ring.set_faults(None);
        write(Durability::Dsync).await.unwrap();
    });
}

mod libc_errno {
    pub(crate) const EIO: i32 = 5;
    pub(crate) const ENOSPC: i32 = 28;
}

#[test]
fn a_window_is_a_part_and_nothing_beside_it_is_touched() {
    each(4 * MIB, async |ring, media| {
        let bytes = |n: u8| Bytes::from(vec![n; MIB as usize]);
        ring.write_vectored(&media, 0, (1..=4).map(bytes).collect(), Durability::None).await.unwrap();
        let part = media.window(PathBuf::from("part"), MIB, 2 * MIB).unwrap();
        assert_eq!((part.size().get(), part.path()), (2 * MIB, Path::new("part")));
        ring.write_vectored(&part, MIB, vec![bytes(9)], Durability::ThenSync).await.unwrap();
        ring.zero(&part, 0, 4096).await.unwrap();
        assert!(ring.write_vectored(&part, MIB + 512, vec![bytes(8)], Durability::None).await.is_err());
        assert!(ring.zero(&part, 2 * MIB, 512).await.is_err());
        part.write_blocking(4096, &[7; 4096]).unwrap();
        assert!(part.write_blocking(2 * MIB, &[7; 4096]).is_err());
        let (result, inside) = ring.read(&part, MIB - 512, PoolBuf::unpooled(1024)).await;
        result.unwrap();
        assert!(inside[..512].iter().all(|b| *b == 2) && inside[512..].iter().all(|b| *b == 9));
        let (result, whole) = ring.read(&media, 0, PoolBuf::unpooled(4 * MIB as usize)).await;
        result.unwrap();
        let at = |n: u64| whole[n as usize];
        assert_eq!([at(MIB - 1), at(MIB), at(MIB + 4096), at(MIB + 8192)], [1, 0, 7, 2]);
        assert_eq!([at(2 * MIB - 1), at(2 * MIB), at(3 * MIB - 1), at(3 * MIB)], [2, 9, 9, 4]);
        for (start, len) in [(0, 4 * MIB + 512), (u64::MAX - 511, 512), (1, 512), (512, 1)] {
            let window = media.window(PathBuf::new(), start, len);
            assert!(window.is_err() || media.geometry().io_align == 1, "{start} {len}");
        }
        zero_fill(&part, &mut |_| ControlFlow::Continue(())).unwrap();
        take_room(&part).unwrap();
        let (_, whole) = ring.read(&media, 0, PoolBuf::unpooled(4 * MIB as usize)).await;
        let zeros = |from: u64, to: u64| whole[from as usize..to as usize].iter().all(|b| *b == 0);
        assert!(zeros(MIB, 3 * MIB) && !zeros(0, 1) && !zeros(3 * MIB, 3 * MIB + 1));
        let grown = grow_file(&part, ByteLen::from_raw(3 * MIB), Fill::Zeroed, &mut |_| ControlFlow::Continue(()));
        assert!(matches!(grown, Err(MediaError::BadSize { .. })));
    });
}

#[test]
fn files_are_locked_created_once_grown_and_cancelled() {
    for dir in dirs() {
        let path = dir.path().join("home");
        let media = fresh(&path, MIB);
        assert!(matches!(Media::open(&path, MediaOptions::exclusive()), Err(MediaError::Locked { .. })));
        let other = Media::open(&path, MediaOptions::read_shared()).unwrap();
        assert_eq!(other.identity(), media.identity());
        let go = &mut |_| ControlFlow::Continue(());
        let size = ByteLen::from_raw;
        assert!(matches!(create_file(&path, size(MIB), Fill::Sparse, go), Err(MediaError::Exists { .. })));
        assert!(matches!(create_file(&path, size(100), Fill::Sparse, go), Err(MediaError::BadSize { .. })));
        assert!(matches!(
            create_file(&dir.path().join("huge"), size(1 << 60), Fill::Zeroed, go),
            Err(MediaError::NoSpace { .. })
        ));
        assert!(media.probe_blocking().unwrap().blank);
        grow_file(&media, size(3 * MIB + 512), Fill::Zeroed, go).unwrap();
        assert_eq!(media.size(), size(3 * MIB + 512));
        assert!(blocks(&path) >= 3 * MIB, "written, not sparse");
        assert!(matches!(grow_file(&media, size(MIB), Fill::Zeroed, go), Err(MediaError::BadSize { .. })));
        let stopped = dir.path().join("stopped");
        let stop =
            &mut |p: Progress| if p.done.get() > MIB { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let result = create_file(&stopped, size(8 * MIB), Fill::Zeroed, stop);
        assert!(matches!(result, Err(MediaError::Cancelled { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing left behind");
        let thin = dir.path().join("thin");
        create_file(&thin, size(64 * MIB), Fill::Sparse, go).unwrap();
        assert!(blocks(&thin) < MIB);
        for path in [&path, &thin] {
            let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path).unwrap());
            assert_eq!(mode & 0o777, 0o600, "others may read {}", path.display());
        }
        media.write_blocking(0, &[0x11; 512]).unwrap();
        assert!(media.probe_blocking().unwrap().is_foreign());
    }
}

fn blocks(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().blocks() * 512
}

struct Loop(PathBuf);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// A loop device over a file in a directory of its own, where one can be had.
fn loop_device() -> Option<(tempfile::TempDir, PathBuf, Loop)> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = dir.path().join("disk");
    drop(fresh(&file, 32 * MIB));
    match Command::new("losetup").args(["-f", "--show", "--direct-io=on"]).arg(&file).output() {
        Ok(out) if out.status.success() => {
            return Some((dir, file, Loop(String::from_utf8(out.stdout).unwrap().trim().into())));
        }
        Ok(out) => println!("NOT RUN: loop device: {}", String::from_utf8_lossy(&out.stderr).trim()),
        Err(e) => println!("NOT RUN: losetup: {e}"),
    }
    None
}

/// A device takes fewer operations at a time than the ring: what it refuses at first comes back as deferred work without a
/// completion, more of it than one call runs, and no event tells of the rest.
#[test]
fn a_burst_beyond_what_a_device_takes_is_delivered_whole() {
    let Some((_dir, _, device)) = loop_device() else { return };
    let media = Media::open(&device.0, MediaOptions::exclusive()).unwrap();
    for config in engines() {
        on_runtime(async || {
            let ring = Ring::spawn_local(config).unwrap();
            for round in 0..10u64 {
                let piece = || vec![filled(4096, round as u8).freeze()];
                let at = |n: u64| n * 2654435761 % 8192 * 4096;
                let writes: Vec<_> =
                    (0..600).map(|n| ring.write_vectored(&media, at(n), piece(), Durability::None)).collect();
                let all = async {
                    for write in writes {
                        write.await.unwrap();
                    }
                };
                let whole = tokio::time::timeout(Duration::from_secs(20), all).await;
                assert!(whole.is_ok(), "round {round}, {:?}: {} are not delivered", ring.engine(), ring.outstanding());
            }
        });
    }
}

#[test]
fn a_device_is_opened_exclusively_and_refused_while_mounted() {
    let Some((dir, file, device)) = loop_device() else { return };
    assert!(matches!(Media::open(&file, MediaOptions::exclusive()), Err(MediaError::BacksLoop { .. })));
    for config in engines() {
        let media = Media::open(&device.0, MediaOptions::exclusive()).unwrap();
        assert_eq!((media.kind(), media.size().get()), (MediaKind::Device, 32 * MIB));
        assert!(matches!(Media::open(&device.0, MediaOptions::exclusive()), Err(MediaError::DeviceBusy { .. })));
        on_runtime(async || {
            let ring = Ring::spawn_local(config).unwrap();
            ring.write_vectored(&media, 0, vec![filled(8192, 1).freeze()], Durability::Dsync).await.unwrap();
            ring.zero(&media, 0, 4096).await.unwrap();
            ring.fdatasync(&media).await.unwrap();
            let (result, buf) = ring.read(&media, 0, PoolBuf::unpooled(8192)).await;
            result.unwrap();
            assert!(buf[..4096].iter().all(|b| *b == 0) && buf[4096..].iter().all(|b| *b == 1));
        });
    }
    let mkfs = Command::new("mkfs.ext4").arg("-q").arg("-F").arg(&device.0).status();
    if !mkfs.is_ok_and(|s| s.success()) {
        return println!("NOT RUN: the mounted part: no mkfs.ext4");
    }
    let media = Media::open(&device.0, MediaOptions::exclusive()).unwrap();
    assert_eq!(media.probe_blocking().unwrap().signatures, [Signature::FileSystem("ext")]);
    drop(media);
    let at = dir.path().join("mnt");
    std::fs::create_dir(&at).unwrap();
    if !Command::new("mount").arg(&device.0).arg(&at).status().is_ok_and(|s| s.success()) {
        return println!("NOT RUN: the mounted part: mount refused");
    }
    let opened = Media::open(&device.0, MediaOptions::exclusive());
    assert!(Command::new("umount").arg(&at).status().unwrap().success());
    assert!(matches!(opened, Err(MediaError::DeviceBusy { .. })));
}

const MODEL: usize = 256 << 10;

#[derive(Debug, Clone)]
enum Step {
    Write { sector: usize, pieces: Vec<(usize, usize, u8)>, durability: Durability },
    Zero { sector: usize, sectors: usize },
    Read { sector: usize, sectors: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let durability = prop_oneof![Just(Durability::None), Just(Durability::Dsync), Just(Durability::ThenSync)];
    // A piece: sectors, offset of its memory (misaligned if odd), fill.
    let piece = (1usize..24, prop_oneof![3 => Just(0usize), 1 => 1usize..600], any::<u8>());
    prop_oneof![
        4 => (0usize..400, prop::collection::vec(piece, 1..5), durability)
            .prop_map(|(sector, pieces, durability)| Step::Write { sector, pieces, durability }),
        1 => (0usize..400, 1usize..100).prop_map(|(sector, sectors)| Step::Zero { sector, sectors }),
        2 => (0usize..400, 1usize..100).prop_map(|(sector, sectors)| Step::Read { sector, sectors }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn vectored_writes_equal_a_vec(steps in prop::collection::vec(step(), 1..24)) {
        each(MODEL as u64, async |ring, media| {
            let mut model = vec![0u8; MODEL];
            for step in &steps {
                match step {
                    Step::Write { sector, pieces, durability } => {
                        let (mut at, mut bufs) = (sector * 512, Vec::new());
                        for (sectors, skew, fill) in pieces {
                            bufs.push(filled(skew + sectors * 512, *fill).freeze().slice(*skew..));
                            model[at..at + sectors * 512].fill(*fill);
                            at += sectors * 512;
                        }
                        ring.write_vectored(&media, *sector as u64 * 512, bufs, *durability).await.unwrap();
                    }
                    Step::Zero { sector, sectors } => {
                        model[sector * 512..(sector + sectors) * 512].fill(0);
                        ring.zero(&media, *sector as u64 * 512, *sectors as u64 * 512).await.unwrap();
                    }
                    Step::Read { sector, sectors } => {
                        let (result, buf) =
                            ring.read(&media, *sector as u64 * 512, PoolBuf::unpooled(sectors * 512)).await;
                        result.unwrap();
                        assert!(buf[..] == model[sector * 512..(sector + sectors) * 512]);
                    }
                }
            }
            let mut image = PoolBuf::unpooled(MODEL);
            media.read_blocking(0, &mut image).unwrap();
            assert!(image[..] == model[..]);
        });
    }
}
