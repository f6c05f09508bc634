//! A TCP relay that can be cut: the line between the two boxes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The line. Its threads live as long as the demo.
pub(crate) struct Relay {
    address: SocketAddr,
    line: Arc<Mutex<Line>>,
}

struct Line {
    up: bool,
    /// Both sockets of every connection there was; closing one that is closed already does nothing. The demo makes a
    /// handful.
    sockets: Vec<TcpStream>,
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    /// Listens on a free port of loopback.
    pub(crate) fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let line = Arc::new(Mutex::new(Line { up: true, sockets: Vec::new() }));
        let shared = line.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A connection that cannot be made or is not wanted is dropped, and so closed.
                let _ = connect(client, target, &shared);
            }
        });
        Ok(Self { address, line })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection and takes no other until [`Self::mend`].
    pub(crate) fn cut(&self) {
        let mut line = lock(&self.line);
        line.up = false;
        for socket in line.sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn mend(&self) {
        lock(&self.line).up = true;
    }
}

fn connect(client: TcpStream, target: SocketAddr, shared: &Mutex<Line>) -> io::Result<()> {
    let mut line = lock(shared);
    if !line.up {
        return Ok(());
    }
    let server = TcpStream::connect(target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    line.sockets.push(client.try_clone()?);
    line.sockets.push(server.try_clone()?);
    let (client_back, server_back) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || copy(client, server));
    std::thread::spawn(move || copy(server_back, client_back));
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 128 << 10];
    while let Ok(len) = from.read(&mut buffer)
        && len > 0
        && buffer.get(..len).is_some_and(|b| to.write_all(b).is_ok())
    {}
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
