//! A TCP relay in front of a portal, to cut a path of a host in the ways in which paths are lost.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

/// Between two looks for a connection, and, while bytes are held back, whether they may go on.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What happens to bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// They pass.
    Whole,
    /// Nothing passes and nobody is told, as when a switch dies.
    Silent,
    /// Connections are closed, as when the process at the other end dies.
    Closed,
    /// Nobody listens, as while the machine at the other end is off or starts.
    Refused,
}

#[derive(Debug)]
struct State {
    line: Line,
    streams: Vec<TcpStream>,
}

/// The relay. Its threads end with the process.
#[derive(Debug)]
pub(crate) struct Relay {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

impl Relay {
    pub(crate) fn start(to: SocketAddr) -> Result<Self> {
        let mut listener = Some(listen("127.0.0.1:0".parse()?).context("listen for the relay")?);
        let address = listener.as_ref().map(TcpListener::local_addr).context("a listener")??;
        let state = Arc::new(Mutex::new(State { line: Line::Whole, streams: Vec::new() }));
        let shared = state.clone();
        std::thread::spawn(move || {
            loop {
                if line(&shared) == Line::Refused {
                    listener = None;
                } else if listener.is_none() {
                    // The port may still be taken by connections that end: tried again at the next look.
                    listener = listen(address).ok();
                }
                match listener.as_ref().map(TcpListener::accept) {
                    // A peer that is gone, or a line that is cut: the connection is dropped, which is the answer.
                    Some(Ok((from, _))) => drop(serve(&shared, from, to)),
                    _ => std::thread::sleep(LOOK_EVERY),
                }
            }
        });
        Ok(Self { state, address })
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Cuts or mends the line. Connections that were held back are closed when the line is whole again: the bytes that were
    /// lost would be missed.
    pub(crate) fn set(&self, line: Line) {
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

fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn line(state: &Mutex<State>) -> Line {
    state.lock().unwrap_or_else(PoisonError::into_inner).line
}

fn serve(state: &Arc<Mutex<State>>, from: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    if line(state) == Line::Closed {
        return Ok(());
    }
    from.set_nonblocking(false)?;
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
