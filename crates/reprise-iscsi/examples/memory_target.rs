//! A disk in memory behind a real socket, to try initiators and conformance tools against the state machine alone:
//! `cargo run --release -p reprise-iscsi --example memory_target -- 127.0.0.1:3260 [MIB] [thin] [null]`.
//! It has one thread per connection and no durability; the daemon is elsewhere.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use reprise_iscsi::{Acl, Challenge, Config, Connection, Output, Portal, RecvTarget, Target};
use reprise_scsi::{AluaState, BlockSize, Completion, Lun, LunMap, MappedRun, Op, ScsiError, TargetPort};
use reprise_types::{BufPool, Mono, SectorCount, VolumeId};

/// The bytes; none where reads give zeros and writes are dropped.
type Disk = Option<Arc<Mutex<Vec<u8>>>>;

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

const NAME: &str = "iqn.2026-01.invalid.example:memory";

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let address = args.first().map_or("127.0.0.1:3260", String::as_str).to_string();
    let mib: u64 = args.get(1).and_then(|text| text.parse().ok()).unwrap_or(64);
    let mut lun = Lun::new(VolumeId::from_raw([0x42; 16]), SectorCount::from_raw(mib * 2048), BlockSize::B512);
    lun.thin = args.iter().any(|arg| arg == "thin");
    let port = TargetPort {
        target_name: NAME.into(),
        group: 1,
        relative_port: 1,
        alua: AluaState::ActiveOptimized,
        peer: None,
    };
    let luns = LunMap::new(port, [(0, lun)]).map_err(std::io::Error::other)?;
    let target = Target { name: NAME.into(), alias: None, addresses: Vec::new(), moved: None, acl: Acl::open(), luns };
    let portal = Arc::new(Portal { group_tag: 1, targets: vec![target], away: Vec::new() });
    let null = args.iter().any(|arg| arg == "null");
    let disk: Disk = (!null).then(|| Arc::new(Mutex::new(vec![0; (mib << 20) as usize])));
    let listener = TcpListener::bind(&address)?;
    println!("iscsi://{address}/{NAME}/0");
    static TSIH: AtomicU16 = AtomicU16::new(1);
    for socket in listener.incoming() {
        let (socket, disk) = (socket?, disk.clone());
        // Nobody has to prove anything here, so the challenge is never used.
        let (tsih, challenge) = (TSIH.fetch_add(1, Ordering::Relaxed).max(1), Challenge::from_random([0; 33]));
        let config = Config::new(portal.clone(), address.clone(), tsih, challenge);
        std::thread::spawn(move || {
            if let Err(error) = serve(socket, config, &disk) {
                eprintln!("connection: {error}");
            }
        });
    }
    Ok(())
}

fn serve(mut socket: TcpStream, config: Config, disk: &Disk) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let pool = BufPool::new(1 << 30);
    let start = Instant::now();
    let now = || Mono::from_nanos(start.elapsed().as_nanos() as u64);
    let mut connection = Connection::new(config, now());
    loop {
        while let Some(output) = connection.poll_output() {
            match output {
                // Nobody has a limit.
                Output::Admit { .. } => connection.admit(now(), now()),
                Output::NeedBuffer { len } => {
                    let buf = pool.try_alloc(len as usize).ok_or(ErrorKind::OutOfMemory)?;
                    connection.grant_buffer(now(), buf);
                }
                Output::Submit { tag, op, .. } => {
                    let completion = carry_out(disk, op);
                    connection.complete(now(), tag, completion);
                }
                Output::Close(reason) => {
                    eprintln!("closed: {reason:?}");
                    return Ok(());
                }
                Output::Abort { .. } | Output::LoggedIn(_) | Output::Reset { .. } => {}
            }
        }
        if connection.send_pending() > 0 {
            let mut slices = [IoSlice::new(&[]); 64];
            let count = connection.gather(&mut slices);
            let sent = socket.write_vectored(&slices[..count])?;
            connection.sent(now(), sent);
            continue;
        }
        let count = match connection.recv_target() {
            RecvTarget::Staging(to) | RecvTarget::Payload(to) => socket.read(to)?,
            RecvTarget::Blocked | RecvTarget::Closed => continue,
        };
        if count == 0 {
            return Ok(());
        }
        connection.received(now(), count);
    }
}

fn carry_out_null(op: Op) -> Completion {
    let Op::Read { sectors, .. } = op else { return Completion::Done };
    let mut left = (sectors.get() * 512) as usize;
    let mut parts = Vec::new();
    while left > 0 {
        let len = left.min(ZEROS.len());
        parts.push(Bytes::from_static(&ZEROS[..len]));
        left -= len;
    }
    Completion::DataParts(parts)
}

fn carry_out(disk: &Disk, op: Op) -> Completion {
    let Some(disk) = disk else { return carry_out_null(op) };
    let mut disk = disk.lock().unwrap_or_else(PoisonError::into_inner);
    match op {
        Op::Read { sector, sectors } => {
            let from = (sector.get() * 512) as usize;
            Completion::Data(Bytes::copy_from_slice(&disk[from..from + (sectors.get() * 512) as usize]))
        }
        Op::Write { sector, data, .. } => {
            let from = (sector.get() * 512) as usize;
            disk[from..from + data.len()].copy_from_slice(&data);
            Completion::Done
        }
        Op::Zero { ranges } => {
            for (sector, sectors) in ranges {
                let from = (sector.get() * 512) as usize;
                disk[from..from + (sectors.get() * 512) as usize].fill(0);
            }
            Completion::Done
        }
        Op::CompareAndWrite { sector, verify, write } => {
            let from = (sector.get() * 512) as usize;
            match disk[from..from + verify.len()].iter().zip(&verify).position(|(a, b)| a != b) {
                Some(offset) => Completion::Failed(ScsiError::Miscompare { offset: offset as u64 }),
                None => {
                    disk[from..from + write.len()].copy_from_slice(&write);
                    Completion::Done
                }
            }
        }
        Op::OrWrite { sector, data } => {
            let from = (sector.get() * 512) as usize;
            disk[from..from + data.len()].iter_mut().zip(&data).for_each(|(to, from)| *to |= from);
            Completion::Done
        }
        Op::LbaStatus { sector, sectors, .. } => Completion::Mapped(vec![MappedRun { sector, sectors, mapped: true }]),
        // A unit without reservations and SANITIZE: the daemon has them.
        Op::Control(_) | Op::Overwrite { .. } | Op::ExitFailureMode => {
            Completion::Failed(ScsiError::ReservationConflict)
        }
        Op::Flush => Completion::Done,
    }
}
