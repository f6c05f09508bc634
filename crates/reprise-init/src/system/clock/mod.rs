//! The clock: asks NTP servers, sets or steers the clock, and says how far it can be believed.

mod dns;
mod sntp;
mod steer;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clock_steering::unix::UnixClock;
use clock_steering::{Clock as _, LeapIndicator, TimeOffset};
use reprise_api::{ApiError, ClockState, ClockStatus, ErrorCode, TimeSet};
use sntp::Sample;
use steer::{Act, Steering};

use super::children::tool;
use super::logs::{Level, say};

/// Servers where nobody named others. DHCP's come first.
pub(crate) const DEFAULT_SERVERS: [&str; 4] = ["0.pool.ntp.org", "1.pool.ntp.org", "2.pool.ntp.org", "3.pool.ntp.org"];
/// Most servers that can be named.
const SERVERS_MAX: usize = 8;
/// Longest name of a server (RFC 1035, section 2.3.4).
const NAME_LEN_MAX: usize = 253;
/// Longest wait for a server.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// Pause after a round without an answer: soon at first, since the network may just be coming up.
const FAILED_PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_secs(4)..=Duration::from_secs(64);
/// How long an answer is good for.
const GOOD_FOR: Duration = Duration::from_secs(3600);
/// 2020 and 2200 in milliseconds since 1970: a clock set by hand is somewhere between.
const BY_HAND_MS: std::ops::Range<u64> = 1_577_836_800_000..7_258_118_400_000;

/// Gives the name servers and the NTP servers that the network knows of.
pub(crate) type Servers = Box<dyn Fn() -> (Vec<IpAddr>, Vec<IpAddr>) + Send>;

struct Inner {
    /// As the settings have them: none named, or these.
    named: Option<Vec<String>>,
    asked: Vec<String>,
    good: Option<(Instant, String, i64)>,
    reason: String,
    /// Counts changes of the settings.
    changes: u64,
}

/// The running clock.
pub(crate) struct Clock {
    inner: Arc<(Mutex<Inner>, Condvar)>,
}

fn lock(mutex: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Refuses what cannot work.
///
/// # Errors
/// Which server, or which time.
pub(crate) fn check(set: &TimeSet) -> Result<(), ApiError> {
    let refuse = |message: String, what: &str| Err(ApiError::new(ErrorCode::BadRequest, message, what));
    if set.servers.len() > SERVERS_MAX {
        return refuse(format!("{} time servers", set.servers.len()), "name at most 8");
    }
    for server in &set.servers {
        let letters = server.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'_'));
        let is_name = !server.contains(':') || server.parse::<IpAddr>().is_ok();
        if server.is_empty() || server.len() > NAME_LEN_MAX || !letters || !is_name {
            let shown: String = server.chars().take(64).collect();
            return refuse(format!("{shown:?} is no time server"), "write a name or an address, such as pool.ntp.org");
        }
    }
    if let Some(ms) = set.unix_ms.filter(|ms| !BY_HAND_MS.contains(ms)) {
        return refuse(format!("{ms} ms since 1970 is no time of ours"), "give a time between 2020 and 2200");
    }
    Ok(())
}

impl Clock {
    /// Keeps the clock in its own thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(named: Option<Vec<String>>, network: Servers) -> Result<Self> {
        let reason = "no server has been asked yet".to_owned();
        let inner = Inner { named, asked: Vec::new(), good: None, reason, changes: 0 };
        let inner = Arc::new((Mutex::new(inner), Condvar::new()));
        let shared = inner.clone();
        std::thread::Builder::new().name("clock".into()).spawn(move || keep(&shared, &network))?;
        Ok(Self { inner })
    }

    /// The clock as it is.
    pub(crate) fn status(&self) -> ClockStatus {
        let inner = lock(&self.inner.0);
        let state = match (&inner.named, &inner.good) {
            (Some(named), _) if named.is_empty() => ClockState::Manual,
            (_, Some((at, server, offset_us))) if at.elapsed() < GOOD_FOR => {
                ClockState::Synchronized { server: server.clone(), offset_us: *offset_us }
            }
            _ => ClockState::Unsynchronized { reason: inner.reason.clone() },
        };
        ClockStatus { unix_ms: unix_ms(), state, servers: inner.asked.clone() }
    }

    /// Takes other servers from here on, and sets the clock if told to. The caller has saved and checked them.
    ///
    /// # Errors
    /// The clock cannot be set.
    pub(crate) fn set(&self, set: &TimeSet) -> Result<(), ApiError> {
        if let Some(ms) = set.unix_ms {
            let behind = i128::from(ms) - i128::from(unix_ms());
            step(behind * 1_000_000).map_err(|e| ApiError::internal(format!("set the clock: {e:#}")))?;
            say(Level::Notice, "the clock was set by hand");
        }
        let (mutex, changed) = &*self.inner;
        let mut inner = lock(mutex);
        inner.named = Some(set.servers.clone());
        inner.asked.clone_from(&set.servers);
        inner.good = None;
        inner.reason = "no server has been asked yet".to_owned();
        inner.changes += 1;
        changed.notify_all();
        Ok(())
    }
}

/// The servers to ask: those named; else DHCP's and the firmware's own.
fn to_ask(named: Option<&Vec<String>>, by_dhcp: &[IpAddr]) -> Vec<String> {
    match named {
        Some(named) => named.clone(),
        None => by_dhcp
            .iter()
            .map(ToString::to_string)
            .chain(DEFAULT_SERVERS.map(str::to_owned))
            .take(SERVERS_MAX)
            .collect(),
    }
}

fn keep(shared: &(Mutex<Inner>, Condvar), network: &Servers) {
    let (mutex, changed) = shared;
    let mut steering = Steering::default();
    let mut failures = 0u32;
    loop {
        let (named, changes) = {
            let inner = lock(mutex);
            (inner.named.clone(), inner.changes)
        };
        let (nameservers, by_dhcp) = network();
        let servers = to_ask(named.as_ref(), &by_dhcp);
        lock(mutex).asked.clone_from(&servers);
        let pause = if servers.is_empty() {
            // Set by hand: nothing to do until somebody changes that.
            GOOD_FOR
        } else {
            match ask_all(&servers, &nameservers) {
                Ok((server, sample)) => {
                    failures = 0;
                    let mut inner = lock(mutex);
                    if inner.changes == changes {
                        follow(&mut inner, &mut steering, server, sample);
                    }
                    Duration::from_secs(steering.pause_secs())
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    let mut inner = lock(mutex);
                    if inner.reason != reason {
                        say(Level::Info, &format!("clock: {reason}"));
                    }
                    inner.reason = reason;
                    failures += 1;
                    (*FAILED_PAUSE.start() * (1 << failures.min(4))).min(*FAILED_PAUSE.end())
                }
            }
        };
        let inner = lock(mutex);
        let waited = changed.wait_timeout_while(inner, pause, |inner| inner.changes == changes);
        drop(waited);
    }
}

fn follow(inner: &mut Inner, steering: &mut Steering, server: String, sample: Sample) {
    let micros = i64::try_from(sample.offset_ns / 1000).unwrap_or(i64::MAX);
    let done = match steering.take(sample.offset_ns) {
        Act::Step => {
            say(Level::Notice, &format!("the clock was off by {:.3} s; set by {server}", micros as f64 / 1e6));
            step(sample.offset_ns)
        }
        Act::Rate(ppm) => rate(ppm, sample.delay),
        Act::Wait => {
            inner.reason = format!("{server} says that the clock is off by {:.3} s", micros as f64 / 1e6);
            return;
        }
    };
    match done {
        Ok(()) => inner.good = Some((Instant::now(), server, micros)),
        Err(error) => {
            inner.good = None;
            inner.reason = format!("the clock cannot be set: {error:#}");
            say(Level::Error, &inner.reason);
        }
    }
}

/// Sets the clock forward by that much, and the one on the board with it.
fn step(behind_ns: i128) -> Result<()> {
    let seconds = behind_ns.div_euclid(1_000_000_000);
    let nanos = behind_ns.rem_euclid(1_000_000_000) as u32;
    let offset = TimeOffset { seconds: i64::try_from(seconds).context("the offset is too large")?, nanos };
    UnixClock::CLOCK_REALTIME.step_clock(offset).context("step the clock")?;
    // A machine without such a clock still has the right time.
    if let Err(error) = tool("/bin/busybox", &["hwclock", "-w", "-u"], Duration::from_secs(10)) {
        say(Level::Info, &format!("clock on the board: {error:#}"));
    }
    Ok(())
}

/// Makes the clock run faster, and tells the kernel that it is right, which then keeps the one on the board.
fn rate(ppm: f64, delay: Duration) -> Result<()> {
    let clock = UnixClock::CLOCK_REALTIME;
    clock.disable_kernel_ntp_algorithm().context("take over the clock")?;
    // The crate counts in parts per million despite its words: it is what the kernel's field holds.
    clock.set_frequency(ppm).context("steer the clock")?;
    clock.set_leap_seconds(LeapIndicator::NoWarning).context("call the clock right")?;
    clock.error_estimate_update(delay / 2, delay).context("tell the error")
}

/// Asks all servers and gives the one to follow.
fn ask_all(servers: &[String], nameservers: &[IpAddr]) -> Result<(String, Sample)> {
    let asked: Vec<(&String, Result<Sample>)> = std::thread::scope(|scope| {
        let running: Vec<_> =
            servers.iter().map(|server| (server, scope.spawn(move || ask_name(server, nameservers)))).collect();
        let ended = running.into_iter().map(|(server, thread)| {
            (server, thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the question was not asked"))))
        });
        ended.collect()
    });
    let good: Vec<(&String, Sample)> = asked.iter().filter_map(|(s, r)| Some((*s, *r.as_ref().ok()?))).collect();
    let samples: Vec<Sample> = good.iter().map(|(_, sample)| *sample).collect();
    if let Some(at) = sntp::choose(&samples) {
        return Ok((good[at].0.clone(), good[at].1));
    }
    match asked.into_iter().next() {
        Some((server, Err(error))) => Err(error.context(format!("no server has answered; {server}"))),
        _ => bail!("no server is named"),
    }
}

fn ask_name(server: &str, nameservers: &[IpAddr]) -> Result<Sample> {
    let mut failure = None;
    for address in dns::resolve(server, nameservers)? {
        match ask(SocketAddr::new(address, 123)) {
            Ok(sample) => return Ok(sample),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| anyhow::anyhow!("the name has no address")))
}

fn ask(server: SocketAddr) -> Result<Sample> {
    let mut cookie = [0; 8];
    getrandom::fill(&mut cookie).map_err(|e| anyhow::anyhow!("draw a number: {e}"))?;
    let cookie = u64::from_ne_bytes(cookie);
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server).with_context(|| format!("no way to {}", server.ip()))?;
    let started = Instant::now();
    let sent_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i128);
    socket.send(&sntp::question(cookie)).with_context(|| format!("no way to {}", server.ip()))?;
    let mut buffer = [0; 512];
    loop {
        let left = ANSWER_TIME_MAX.saturating_sub(started.elapsed());
        if left.is_zero() {
            bail!("{} does not answer", server.ip());
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut buffer) {
            Ok(len) => match sntp::answer(&buffer[..len], cookie, sent_ns, started.elapsed()) {
                Ok(sample) => return Ok(sample),
                Err(sntp::Refusal::NotAnAnswer) => {}
                Err(refusal) => bail!("{}: {refusal}", server.ip()),
            },
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).with_context(|| format!("ask {}", server.ip())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_times_that_cannot_be_are_refused() {
        let set =
            |servers: &[&str], unix_ms| TimeSet { servers: servers.iter().map(|s| (*s).to_owned()).collect(), unix_ms };
        for good in [set(&["pool.ntp.org", "192.0.2.1", "2001:db8::1"], None), set(&[], Some(1_800_000_000_000))] {
            check(&good).unwrap();
        }
        for (bad, word) in [
            (set(&["a b"], None), "no time server"),
            (set(&[""], None), "no time server"),
            (set(&["x:y"], None), "no time server"),
            (set(&["\x1b[2J"], None), "no time server"),
            (set(&["a"; 9], None), "9 time servers"),
            (set(&[], Some(5)), "no time of ours"),
            (set(&[], Some(u64::MAX)), "no time of ours"),
        ] {
            assert!(check(&bad).unwrap_err().message.contains(word), "{bad:?}");
        }
    }

    #[test]
    fn dhcp_comes_before_the_own_choice_and_a_persons_choice_is_alone() {
        let dhcp = ["192.0.2.1".parse().unwrap()];
        assert_eq!(to_ask(None, &dhcp)[..2], ["192.0.2.1".to_owned(), DEFAULT_SERVERS[0].to_owned()]);
        assert_eq!(to_ask(Some(&vec!["a".into()]), &dhcp), ["a"]);
        assert!(to_ask(Some(&vec![]), &dhcp).is_empty());
    }

    #[test]
    fn a_server_that_answers_is_followed_and_silence_is_told() {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let (_, from) = socket.recv_from(&mut buffer).unwrap();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(90);
            let fraction = u64::from(now.subsec_nanos()) * (1 << 32) / 1_000_000_000;
            let stamp = (((now.as_secs() + 2_208_988_800) << 32) | fraction).to_be_bytes();
            let mut packet = [0; 48];
            packet[..2].copy_from_slice(&[4 << 3 | 4, 2]);
            packet[24..32].copy_from_slice(&buffer[40..48]);
            packet[32..40].copy_from_slice(&stamp);
            packet[40..48].copy_from_slice(&stamp);
            socket.send_to(&packet, from).unwrap();
        });
        let sample = ask(address).unwrap();
        server.join().unwrap();
        assert!((sample.offset_ns - 90_000_000_000).abs() < 1_000_000_000, "{sample:?}");
        let silent = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let error = ask(silent.local_addr().unwrap()).unwrap_err().to_string();
        assert!(error.contains("does not answer"), "{error}");
    }
}
