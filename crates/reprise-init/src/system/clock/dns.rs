//! Names to addresses, by asking the name servers: a static program has no NSS.
//!
//! For time servers only. It asks each server once for each kind of address over UDP; an answer that was cut short is used
//! as far as it goes. Authenticity of the time is NTP's affair, not the name's.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

/// Longest wait for one name server.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);
/// Addresses taken of one name.
const ADDRESSES_MAX: usize = 4;

/// The addresses of a name. An address is its own.
///
/// # Errors
/// No server answers, or the name has none.
pub(crate) fn resolve(name: &str, servers: &[IpAddr]) -> Result<Vec<IpAddr>> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    if servers.is_empty() {
        bail!("no name server is known");
    }
    let servers: Vec<SocketAddr> = servers.iter().map(|s| SocketAddr::new(*s, 53)).collect();
    ask_all(name, &servers)
}

fn ask_all(name: &str, servers: &[SocketAddr]) -> Result<Vec<IpAddr>> {
    let mut failure = None;
    for server in servers {
        let asked = ask(name, *server, RecordType::A).and_then(|mut found| {
            if found.is_empty() {
                found = ask(name, *server, RecordType::AAAA)?;
            }
            Ok(found)
        });
        match asked {
            Ok(found) if !found.is_empty() => return Ok(found),
            Ok(_) => bail!("the name has no address"),
            Err(error) => failure = Some(error.context(format!("ask name server {}", server.ip()))),
        }
    }
    Err(failure.unwrap_or_else(|| anyhow::anyhow!("no name server is known")))
}

fn question(name: &str, kind: RecordType, id: u16) -> Result<Vec<u8>> {
    let mut name = Name::from_str(name).context("that is no name")?;
    name.set_fqdn(true);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    Ok(message.to_vec()?)
}

/// The addresses in an answer to the question of that number and name. None if it is none.
fn addresses(bytes: &[u8], name: &str, kind: RecordType, id: u16) -> Option<Result<Vec<IpAddr>>> {
    let message = Message::from_vec(bytes).ok()?;
    let mut asked = Name::from_str(name).ok()?;
    asked.set_fqdn(true);
    let ours = message.queries.first().is_some_and(|q| q.name() == &asked && q.query_type() == kind);
    if message.metadata.id != id || message.metadata.message_type != MessageType::Response || !ours {
        return None;
    }
    match message.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Some(Err(anyhow::anyhow!("there is no such name"))),
        other => return Some(Err(anyhow::anyhow!("it says: {other}"))),
    }
    let found = message.answers.iter().filter_map(|record| match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
        _ => None,
    });
    Some(Ok(found.take(ADDRESSES_MAX).collect()))
}

fn ask(name: &str, server: SocketAddr, kind: RecordType) -> Result<Vec<IpAddr>> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|e| anyhow::anyhow!("draw a number: {e}"))?;
    let id = u16::from_ne_bytes(id);
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any)?;
    // Connected: answers of anybody else are not even seen.
    socket.connect(server)?;
    socket.send(&question(name, kind, id)?)?;
    let ends = Instant::now() + ANSWER_TIME_MAX;
    let mut buffer = [0; 4096];
    loop {
        let left = ends.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("no answer within {} s", ANSWER_TIME_MAX.as_secs());
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut buffer) {
            Ok(len) => {
                if let Some(found) = addresses(&buffer[..len], name, kind, id) {
                    return found;
                }
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Record, rdata};
    use proptest::prelude::*;

    use super::*;

    /// Answers `count` questions as a name server does that knows these addresses.
    fn server(known: Vec<IpAddr>, code: ResponseCode, count: usize) -> SocketAddr {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            for _ in 0..count {
                let mut buffer = [0; 512];
                let (len, from) = socket.recv_from(&mut buffer).unwrap();
                let query = Message::from_vec(&buffer[..len]).unwrap();
                let asked = query.queries[0].clone();
                // Another question's answer first: it must not be taken.
                let mut other = Message::new(query.metadata.id ^ 1, MessageType::Response, OpCode::Query);
                other.add_query(asked.clone());
                socket.send_to(&other.to_vec().unwrap(), from).unwrap();
                let mut message = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
                message.metadata.response_code = code;
                message.add_query(asked.clone());
                for address in &known {
                    let data = match address {
                        IpAddr::V4(a) if asked.query_type() == RecordType::A => RData::A(rdata::A(*a)),
                        IpAddr::V6(a) if asked.query_type() == RecordType::AAAA => RData::AAAA(rdata::AAAA(*a)),
                        _ => continue,
                    };
                    message.add_answer(Record::from_rdata(asked.name().clone(), 60, data));
                }
                socket.send_to(&message.to_vec().unwrap(), from).unwrap();
            }
        });
        address
    }

    #[test]
    fn names_have_the_addresses_their_server_says() {
        let four: IpAddr = "192.0.2.7".parse().unwrap();
        let six: IpAddr = "2001:db8::7".parse().unwrap();
        let ask = |known, code, count| ask_all("time.example", &[server(known, code, count)]);
        assert_eq!(ask(vec![four, six], ResponseCode::NoError, 1).unwrap(), [four]);
        assert_eq!(ask(vec![six], ResponseCode::NoError, 2).unwrap(), [six]);
        assert!(ask(vec![], ResponseCode::NoError, 2).unwrap_err().to_string().contains("no address"));
        let unknown = format!("{:#}", ask(vec![], ResponseCode::NXDomain, 1).unwrap_err());
        assert!(unknown.contains("no such name"), "{unknown}");
        // The first server does not answer as it should, the second does.
        let both = [server(vec![], ResponseCode::ServFail, 1), server(vec![four], ResponseCode::NoError, 1)];
        assert_eq!(ask_all("time.example", &both).unwrap(), [four]);
    }

    #[test]
    fn an_address_needs_no_server_and_a_name_does() {
        assert_eq!(resolve("192.0.2.9", &[]).unwrap(), ["192.0.2.9".parse::<IpAddr>().unwrap()]);
        assert!(resolve("time.example", &[]).unwrap_err().to_string().contains("no name server"));
    }

    proptest! {
        #[test]
        fn nothing_a_server_sends_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), flips in proptest::collection::vec((0usize..60, any::<u8>()), 0..5)) {
            addresses(&bytes, "time.example", RecordType::A, 7);
            let mut message = Message::new(7, MessageType::Response, OpCode::Query);
            let mut name = Name::from_str("time.example").unwrap();
            name.set_fqdn(true);
            message.add_query(Query::query(name.clone(), RecordType::A));
            message.add_answer(Record::from_rdata(name, 60, RData::A(rdata::A([192, 0, 2, 1].into()))));
            let mut bytes = message.to_vec().unwrap();
            for (at, value) in flips {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            addresses(&bytes, "time.example", RecordType::A, 7);
        }

        #[test]
        fn no_name_makes_it_panic(name in ".{0,300}") {
            let _ = question(&name, RecordType::A, 1);
        }
    }
}
