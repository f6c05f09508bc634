//! A TCP relay in front of a portal, to cut a path of a host in the two ways paths are lost.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

/// While bytes are held back: between two looks whether they may go on.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What happens to bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// They pass.
    Whole,
    /// Nothing passes and nobody is told, as when a switch dies.
    Silent,
    /// Connections are closed, as when the process at the other end dies.
    Closed,
}

#[derive(Debug)]
struct State {
    line: Line,
    streams: Vec<TcpStream>,
}

/// The relay. Its threads end with the process.
#[derive(Debug)]
pub(super) struct Relay {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

impl Relay {
    pub(super) fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen for the relay")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State { line: Line::Whole, streams: Vec::new() }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                // A peer that is gone, or a line that is cut: the connection is dropped, which is the answer.
                let _ = serve(&shared, from, to);
            }
        });
        Ok(Self { state, address })
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Cuts or mends the line. Connections that were held back are closed when the line is whole again: the bytes that were
    /// lost would be missed.
    pub(super) fn set(&self, line: Line) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if line != Line::Silent {
            for stream in state.streams.drain(..) {
                // Already closed by its own end: nothing left to do.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        state.line = line;
    }
}

fn line(state: &Mutex<State>) -> Line {
    state.lock().unwrap_or_else(PoisonError::into_inner).line
}

fn serve(state: &Arc<Mutex<State>>, from: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    if line(state) == Line::Closed {
        return Ok(());
    }
    let to = TcpStream::connect(to)?;
    from.set_nodelay(true)?;
    to.set_nodelay(true)?;
    let mut held = state.lock().unwrap_or_else(PoisonError::into_inner);
    held.streams.extend([from.try_clone()?, to.try_clone()?]);
    drop(held);
    for (from, to) in [(from.try_clone()?, to.try_clone()?), (to, from)] {
        let state = state.clone();
        std::thread::spawn(move || pass(&state, from, to));
    }
    Ok(())
}

/// One direction, until an end closes.
fn pass(state: &Mutex<State>, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(count) = from.read(&mut buffer) {
        while line(state) == Line::Silent {
            std::thread::sleep(LOOK_EVERY);
        }
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Both ways: half a connection is of no use to iSCSI.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
