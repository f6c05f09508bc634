//! Ports for programs under test.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that Linux gives to whoever dials (32768 on): one of those that is free at this moment may be the end of
/// somebody's connection when the program that listens there is started again.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port of 127.0.0.1 on which nobody listens, TCP and UDP alike; another one at each call.
///
/// # Errors
/// There is none.
pub fn free() -> io::Result<SocketAddr> {
    static CALLS: AtomicU16 = AtomicU16::new(0);
    // Programs that run side by side begin at different places.
    let own = std::process::id().wrapping_mul(97) % u32::from(COUNT);
    for _ in 0..COUNT {
        let at = (own + u32::from(CALLS.fetch_add(1, Ordering::Relaxed))) % u32::from(COUNT);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + at as u16));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no port is free"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_another_one_and_nobody_dials_from_there() -> io::Result<()> {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
        let first: u16 =
            range.split_whitespace().next().and_then(|n| n.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let found = (0..50).map(|_| Ok(free()?.port())).collect::<io::Result<Vec<u16>>>()?;
        let mut sorted = found.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), found.len(), "{found:?}");
        assert!(found.iter().all(|p| *p >= FIRST && *p < FIRST + COUNT && *p < first), "{found:?}");
        Ok(())
    }
}
