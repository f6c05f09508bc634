//! The network: settings, what is there, DHCP, and going back when nobody keeps a change.
//!
//! One thread owns all of it. It learns of plugged cards by looking every second, of leases by the DHCP client's script
//! ([`lease`]), and takes commands over a channel. Changed settings are saved only when they are kept, so that a change that
//! cuts the box off is undone by its deadline as well as by a power cut.

mod apply;
pub(crate) mod lease;
mod linklocal;
mod plan;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reprise_api::{ApiError, ErrorCode, NETWORK_KEEP_SECS, NetworkSettings, NetworkStatus};

pub(crate) use apply::Net;
use lease::{Lease, News};
use plan::{Step, Wanted};

use super::children;
use super::logs::{Level, say};

/// How often cards and deadlines are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause before a DHCP client that ended is started again.
const CLIENT_PAUSE: Duration = Duration::from_secs(5);
/// Most name servers in `resolv.conf`: more are not asked.
const NAMESERVERS_MAX: usize = 3;

/// Where the network keeps what others read.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    /// `resolv.conf`, for the other processes.
    pub(crate) resolv: PathBuf,
    /// Where the script of the DHCP client reports.
    pub(crate) socket: PathBuf,
    /// This program under the name of the script.
    pub(crate) hook: PathBuf,
}

/// Saves settings that are kept.
pub(crate) type Save = Box<dyn Fn(&NetworkSettings) -> std::io::Result<()> + Send>;

type Answer = Sender<Result<(), ApiError>>;

enum Event {
    News(News),
    LinkLocal(linklocal::Found),
    Set(NetworkSettings, Answer),
    Keep(Answer),
    Stop(Sender<()>),
}

/// What others may know at any time.
#[derive(Debug, Default)]
struct Known {
    settings: NetworkSettings,
    reverts_at: Option<Instant>,
    nameservers: Vec<IpAddr>,
    time_servers: Vec<IpAddr>,
}

/// The running network.
pub(crate) struct Network {
    net: Net,
    events: Sender<Event>,
    known: Arc<Mutex<Known>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Brings the network up as the settings say, and goes on in its own thread.
    ///
    /// # Errors
    /// The socket for the DHCP client's script cannot be made.
    pub(crate) fn start(
        net: Net,
        paths: Paths,
        host_name: String,
        settings: NetworkSettings,
        save: Save,
    ) -> Result<Self> {
        let _ = std::fs::remove_file(&paths.socket);
        let socket = UnixDatagram::bind(&paths.socket).context("listen for the DHCP client's script")?;
        let (events, received) = channel();
        let news = events.clone();
        if let Err(error) = net.probe_paths() {
            say(Level::Notice, &format!("paths are not probed for the packets they take: {error:#}"));
        }
        std::thread::Builder::new().name("leases".into()).spawn(move || listen(&socket, &news))?;
        let known = Arc::new(Mutex::new(Known { settings: settings.clone(), ..Known::default() }));
        let owner = Owner {
            net: net.clone(),
            paths,
            host_name,
            save,
            events: events.clone(),
            known: known.clone(),
            settings,
            before: None,
            applied: Vec::new(),
            interfaces: BTreeMap::new(),
            resolv: None,
        };
        std::thread::Builder::new().name("network".into()).spawn(move || owner.run(&received))?;
        Ok(Self { net, events, known })
    }

    /// The network as it is and as it is wanted.
    pub(crate) fn status(&self) -> NetworkStatus {
        let known = lock(&self.known);
        let left = |at: Instant| u32::try_from(at.saturating_duration_since(Instant::now()).as_secs()).unwrap_or(0);
        NetworkStatus {
            interfaces: self.net.interfaces(),
            settings: known.settings.clone(),
            nameservers: known.nameservers.clone(),
            reverts_in_secs: known.reverts_at.map(left),
        }
    }

    /// Name servers in use, and NTP servers that DHCP named.
    pub(crate) fn servers(&self) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let known = lock(&self.known);
        (known.nameservers.clone(), known.time_servers.clone())
    }

    /// Changes the network, until somebody keeps it or time runs out.
    ///
    /// # Errors
    /// The settings cannot work.
    pub(crate) fn set(&self, settings: NetworkSettings) -> Result<(), ApiError> {
        self.ask(|answer| Event::Set(settings, answer))
    }

    /// Keeps the network as it is.
    ///
    /// # Errors
    /// Nothing waits to be kept, or it cannot be saved.
    pub(crate) fn keep(&self) -> Result<(), ApiError> {
        self.ask(Event::Keep)
    }

    fn ask(&self, event: impl FnOnce(Answer) -> Event) -> Result<(), ApiError> {
        let (answer, answered) = channel();
        let gone = |_| ApiError::internal("the network's thread has ended");
        self.events.send(event(answer)).map_err(|_| gone(()))?;
        answered.recv().map_err(|_| gone(()))?
    }

    /// Ends the DHCP clients.
    pub(crate) fn stop(&self) {
        let (answer, answered) = channel();
        if self.events.send(Event::Stop(answer)).is_ok() {
            let _ = answered.recv_timeout(Duration::from_secs(5));
        }
    }
}

fn listen(socket: &UnixDatagram, events: &Sender<Event>) {
    let mut buffer = [0; lease::MESSAGE_LEN_MAX];
    loop {
        match socket.recv(&mut buffer) {
            Ok(len) => {
                if let Ok(news) = serde_json::from_slice(&buffer[..len])
                    && events.send(Event::News(news)).is_err()
                {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                say(Level::Error, &format!("the DHCP client cannot be heard any more: {error}"));
                return;
            }
        }
    }
}

/// What gets addresses for an interface.
#[derive(Default)]
struct Getting {
    client: Option<Child>,
    client_wanted: bool,
    started: Option<Instant>,
    lease: Option<Lease>,
    link_local_wanted: bool,
    link_local: Option<Ipv4Addr>,
    /// Counts up with each search, so that the result of one that is no longer wanted is known as such.
    search: u64,
    searching: bool,
    carrier: bool,
}

struct Owner {
    net: Net,
    paths: Paths,
    host_name: String,
    save: Save,
    events: Sender<Event>,
    known: Arc<Mutex<Known>>,
    /// Those in force.
    settings: NetworkSettings,
    /// Those that come back, and when.
    before: Option<(NetworkSettings, Instant)>,
    applied: Vec<Wanted>,
    interfaces: BTreeMap<String, Getting>,
    resolv: Option<String>,
}

impl Owner {
    fn run(mut self, received: &Receiver<Event>) {
        if let Err(error) = self.net.busybox(&["ip", "link", "set", "dev", "lo", "up"]) {
            say(Level::Error, &format!("loopback: {error:#}"));
        }
        self.apply();
        loop {
            match received.recv_timeout(LOOK_EVERY) {
                Ok(Event::News(news)) => self.on_news(news),
                Ok(Event::LinkLocal(found)) => self.on_link_local(found),
                Ok(Event::Set(settings, answer)) => {
                    let done = self.on_set(settings);
                    // Whoever has the answer sees what it did.
                    self.publish();
                    let _ = answer.send(done);
                }
                Ok(Event::Keep(answer)) => {
                    let done = self.on_keep();
                    self.publish();
                    let _ = answer.send(done);
                }
                Ok(Event::Stop(answer)) => {
                    let names: Vec<String> = self.interfaces.keys().cloned().collect();
                    names.iter().for_each(|name| self.forget(name));
                    let _ = answer.send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.publish();
        }
    }

    /// Brings the kernel's network to the settings. A step that fails is told; the others are still done.
    fn apply(&mut self) {
        let wanted = plan::wanted(&self.settings, &self.net.cards());
        let steps = plan::steps(&self.applied, &wanted);
        self.applied = wanted;
        for step in steps {
            match &step {
                Step::Forget(name) => self.forget(name),
                Step::Dhcp(name) => {
                    self.interfaces.entry(name.clone()).or_default().client_wanted = true;
                    self.start_client(name);
                }
                Step::LinkLocal(name) => {
                    self.interfaces.entry(name.clone()).or_default().link_local_wanted = true;
                    self.search_link_local(name);
                }
                _ => {}
            }
            match self.net.carry_out(&step) {
                Ok(()) => say(Level::Info, &format!("network: {step:?}")),
                Err(error) => say(Level::Error, &format!("network: {step:?}: {error:#}")),
            }
        }
    }

    fn forget(&mut self, name: &str) {
        if let Some(mut getting) = self.interfaces.remove(name)
            && let Some(client) = &mut getting.client
        {
            let _ = client.kill();
            let _ = client.wait();
            children::collected(client);
        }
    }

    fn start_client(&mut self, name: &str) {
        let Some(getting) = self.interfaces.get_mut(name) else { return };
        getting.started = Some(Instant::now());
        let host = format!("hostname:{}", self.host_name);
        let mut command = Command::new(&self.net.busybox);
        // Three questions in six seconds; then a link-local address is looked for, and the client goes on asking.
        command
            .args([
                "udhcpc", "-f", "-i", name, "-t", "3", "-T", "2", "-A", "5", "-O", "ntpsrv", "-O", "mtu", "-x", &host,
                "-s",
            ])
            .arg(&self.paths.hook)
            .env(lease::SOCKET_VARIABLE, &self.paths.socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match children::spawn(&mut command) {
            Ok(child) => getting.client = Some(child),
            Err(error) => say(Level::Error, &format!("start DHCP on {name}: {error}")),
        }
    }

    fn search_link_local(&mut self, name: &str) {
        let Some(getting) = self.interfaces.get_mut(name) else { return };
        if getting.searching || getting.link_local.is_some() || !self.net.carrier(name) {
            return;
        }
        getting.searching = true;
        getting.search += 1;
        let (net, events, interface, search) = (self.net.clone(), self.events.clone(), name.to_owned(), getting.search);
        let spawned = std::thread::Builder::new().name("link-local".into()).spawn(move || {
            let found = linklocal::search(&net, &interface, search);
            let _ = events.send(Event::LinkLocal(found));
        });
        if let Err(error) = spawned {
            getting.searching = false;
            say(Level::Error, &format!("look for a link-local address: {error}"));
        }
    }

    fn on_link_local(&mut self, found: linklocal::Found) {
        let Some(getting) = self.interfaces.get_mut(&found.interface).filter(|g| g.search == found.search) else {
            return;
        };
        getting.searching = false;
        let Some(address) = found.address.filter(|_| getting.lease.is_none()) else { return };
        getting.link_local = Some(address);
        say(Level::Notice, &format!("{} has the link-local address {address}", found.interface));
        let step = Step::Address(found.interface.clone(), format!("{address}/16"));
        if let Err(error) = self.net.carry_out(&step) {
            say(Level::Error, &format!("network: {error:#}"));
        }
        linklocal::announce(&self.net, &found.interface, address);
    }

    fn on_news(&mut self, news: News) {
        let (News::None { interface } | News::Lease { interface, .. } | News::Silent { interface }) = &news;
        let Some(getting) = self.interfaces.get_mut(interface).filter(|g| g.client_wanted) else { return };
        match &news {
            News::Silent { .. } => {
                if getting.lease.is_none() {
                    self.search_link_local(interface);
                }
            }
            News::None { .. } => {
                if getting.lease.take().is_some() {
                    say(Level::Notice, &format!("{interface} has lost its address"));
                    self.readdress(interface);
                }
            }
            News::Lease { lease, .. } => {
                if getting.lease.as_ref() != Some(lease) {
                    getting.lease = Some(lease.clone());
                    getting.link_local = None;
                    say(Level::Notice, &format!("{interface} has {}/{} by DHCP", lease.address, lease.prefix));
                    self.readdress(interface);
                }
            }
        }
    }

    /// Gives an interface the IPv4 addresses it has now, and no others.
    fn readdress(&mut self, name: &str) {
        let Some(getting) = self.interfaces.get(name) else { return };
        let mut done = vec![self.net.busybox(&["ip", "-4", "addr", "flush", "dev", name]).map(|_| ())];
        if let Some(lease) = &getting.lease {
            let address = format!("{}/{}", lease.address, lease.prefix);
            let own_mtu = self.applied.iter().any(|w| w.name == name && w.mtu.is_some());
            let mtu = lease.mtu.filter(|_| !own_mtu).map(|mtu| Step::Mtu(name.to_owned(), mtu));
            done.extend(mtu.map(|step| self.net.carry_out(&step)));
            done.push(self.net.carry_out(&Step::Address(name.to_owned(), address)));
            let gateway = lease.router.map(|router| Step::Gateway(name.to_owned(), router.into()));
            done.extend(gateway.map(|step| self.net.carry_out(&step)));
        }
        for error in done.into_iter().filter_map(Result::err) {
            say(Level::Error, &format!("network: {error:#}"));
        }
        // Static addresses share no interface with DHCP, so nothing else was flushed.
    }

    fn on_set(&mut self, settings: NetworkSettings) -> Result<(), ApiError> {
        plan::check(&settings, &self.net.cards())?;
        let earlier = self.before.take().map_or_else(|| self.settings.clone(), |(earlier, _)| earlier);
        let until = Instant::now() + Duration::from_secs(u64::from(NETWORK_KEEP_SECS));
        self.before = Some((earlier, until));
        self.settings = settings;
        say(
            Level::Notice,
            &format!(
                "the network was changed; the earlier settings come back in {NETWORK_KEEP_SECS} s unless these are kept"
            ),
        );
        self.apply();
        Ok(())
    }

    fn on_keep(&mut self) -> Result<(), ApiError> {
        if self.before.is_none() {
            return Err(ApiError::new(ErrorCode::WrongState, "no change of the network waits to be kept", ""));
        }
        (self.save)(&self.settings).map_err(|e| ApiError::internal(format!("save the network settings: {e}")))?;
        self.before = None;
        say(Level::Notice, "the network is kept as it is");
        Ok(())
    }

    fn look(&mut self) {
        if let Some((earlier, _)) = self.before.take_if(|(_, at)| Instant::now() >= *at) {
            say(Level::Notice, "nobody kept the change of the network: the earlier settings are back");
            self.settings = earlier;
        }
        self.apply();
        let names: Vec<String> = self.interfaces.keys().cloned().collect();
        for name in names {
            self.look_at(&name);
        }
    }

    fn look_at(&mut self, name: &str) {
        let carrier = self.net.carrier(name);
        let Some(getting) = self.interfaces.get_mut(name) else { return };
        let plugged = carrier && !getting.carrier;
        getting.carrier = carrier;
        if let Some(client) = &mut getting.client {
            match client.try_wait() {
                Ok(None) => {
                    // Another network may be behind the cable: SIGUSR1 makes the client ask again.
                    if plugged {
                        let _ = kill(Pid::from_raw(client.id() as i32), Signal::SIGUSR1);
                    }
                }
                _ => {
                    children::collected(client);
                    getting.client = None;
                }
            }
        }
        let waited = getting.started.is_none_or(|at| at.elapsed() >= CLIENT_PAUSE);
        let restart = getting.client_wanted && getting.client.is_none() && waited;
        let link_local = getting.link_local_wanted;
        if restart {
            self.start_client(name);
        }
        if link_local {
            self.search_link_local(name);
        }
    }

    /// Tells others what changed.
    fn publish(&mut self) {
        let leases = || self.interfaces.values().filter_map(|g| g.lease.as_ref());
        let mut nameservers = self.settings.nameservers.clone();
        if nameservers.is_empty() {
            nameservers = leases().flat_map(|l| l.nameservers.clone()).collect();
        }
        let mut time_servers: Vec<IpAddr> = leases().flat_map(|l| l.time_servers.clone()).collect();
        time_servers.sort();
        time_servers.dedup();
        let mut seen = Vec::new();
        nameservers.retain(|n| {
            !seen.contains(n) && {
                seen.push(*n);
                true
            }
        });
        let resolv: String = nameservers.iter().take(NAMESERVERS_MAX).map(|n| format!("nameserver {n}\n")).collect();
        if self.resolv.as_ref() != Some(&resolv) {
            match write_whole(&self.paths.resolv, &resolv) {
                Ok(()) => self.resolv = Some(resolv),
                Err(error) => say(Level::Error, &format!("write {}: {error}", self.paths.resolv.display())),
            }
        }
        let reverts_at = self.before.as_ref().map(|(_, at)| *at);
        *lock(&self.known) = Known { settings: self.settings.clone(), reverts_at, nameservers, time_servers };
    }
}

fn write_whole(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    let part = path.with_extension("part");
    std::fs::File::create(&part)?.write_all(text.as_bytes())?;
    std::fs::rename(part, path)
}
