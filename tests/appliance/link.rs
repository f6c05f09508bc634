//! The cable between two machines: Ethernet frames in datagrams, through a relay that can be cut.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use xtask::ports;

/// Longest datagram.
const DATAGRAM_MAX: usize = 65_536;

/// The cable. Its thread ends with the process.
#[derive(Debug)]
pub(super) struct Link {
    cut: Arc<AtomicBool>,
    /// The relay's port, and those of the machines at its ends.
    relay: u16,
    ends: [u16; 2],
}

impl Link {
    pub(super) fn start() -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").context("bind the relay")?;
        let relay = socket.local_addr()?.port();
        // QEMU binds them itself, at each start.
        let ends = [ports::free()?.port(), ports::free()?.port()];
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = cut.clone();
        std::thread::spawn(move || {
            let mut frame = vec![0; DATAGRAM_MAX];
            loop {
                // An error tells that an end is switched off; frames to it are lost, as they should be.
                let Ok((len, from)) = socket.recv_from(&mut frame) else { continue };
                if is_cut.load(Ordering::Relaxed) {
                    continue;
                }
                let to = if from.port() == ends[0] { ends[1] } else { ends[0] };
                let _ = socket.send_to(&frame[..len], ("127.0.0.1", to));
            }
        });
        Ok(Self { cut, relay, ends })
    }

    /// Loses all frames from now on, or none.
    pub(super) fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    /// QEMU's options for the card at one end.
    pub(super) fn options(&self, end: usize, card: &str) -> [String; 4] {
        let Self { relay, ends, .. } = self;
        [
            "-netdev".to_owned(),
            format!("socket,id=link,udp=127.0.0.1:{relay},localaddr=127.0.0.1:{}", ends[end]),
            "-device".to_owned(),
            format!("{card},netdev=link,romfile=,mac=52:54:00:02:00:0{}", end + 1),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn frames_pass_unless_the_cable_is_cut() {
        let link = Link::start().expect("a relay");
        let [one, two] = link.ends.map(|port| UdpSocket::bind(("127.0.0.1", port)).expect("the port was free"));
        two.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
        let mut frame = [0; 9];
        let send = |byte: u8| one.send_to(&[byte; 3], ("127.0.0.1", link.relay)).expect("sent");
        send(1);
        assert_eq!(two.recv(&mut frame).expect("passes"), 3);
        link.cut(true);
        send(2);
        assert!(two.recv(&mut frame).is_err());
        link.cut(false);
        send(3);
        assert_eq!(two.recv(&mut frame).expect("passes again"), 3);
        assert_eq!(frame[0], 3);
    }
}
