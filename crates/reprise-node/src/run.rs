//! The daemon: opens what the settings name, serves until it is told to stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use nix::sys::stat::{Mode, umask};
use reprise_api::client::certificate_fingerprint;
use reprise_api::server::{Waiting, bind_unix, serve_https, serve_metrics, serve_unix};
use reprise_api::settings::PoolLayout;
use reprise_api::{BoxService, Endpoints, Settings};
use reprise_types::{BufPool, ByteLen};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::net::{LinkNet, NetConfig};
use crate::pool::{DataHalf, DataPlace, Pool, PoolConfig, make_folder};
use crate::portal;
use crate::service::{GROUP_BUFFERS_MIN, Inner, Machine, Node, Parts, QUEUE_MAX};
use crate::store::{Identity, Store, write_secret};

/// Level of zstd on the link: the fastest one saves nearly as much as the next ones and never slows a fast line.
const ZSTD_LEVEL: i32 = 1;
/// Memory for indexes where the machine does not say how much it has.
const INDEX_BYTES_FALLBACK: u64 = 256 << 20;
/// Threads of the control plane. The data path has its own.
const CONTROL_THREADS: usize = 2;

/// Longest file of a certificate or key that is read.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Between two tries to open a pool.
const OPEN_AGAIN: std::time::Duration = std::time::Duration::from_secs(60);

/// Runs the box until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from serving: settings, identity, pool, addresses in use.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    abort_on_panic();
    // Volumes, cache, keys and logs are nobody else's to read.
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    start_log(&settings);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("start the control threads")?;
    let result = runtime.block_on(serve(settings));
    // What still waits for a disk must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

fn start_log(settings: &Settings) {
    let level = settings.log.level.as_str();
    // Libraries speak only when something is wrong.
    let filter = format!("{level},sled=warn,rustls=warn,hyper=warn,h2=warn,tokio=warn,mio=warn");
    let builder = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        // A line for which there is no room, or no reader, is lost; to say so on the same stream would end the process.
        .log_internal_errors(false)
        .with_writer(crate::log::OneLine(std::io::stderr));
    // A process that has a log already, such as a test, keeps it.
    let _ = if settings.log.json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
}

/// What the settings say about the pool: where it is, and how much volumes may take.
fn pool_config(settings: &Settings) -> anyhow::Result<(PoolConfig, Option<u64>)> {
    let half = settings.pool.size.map(|size| size.bytes() / 2 / 4096 * 4096);
    let overwrite = settings.pool.overwrite.clone();
    let config = |cache, data, cache_len: Option<u64>| PoolConfig {
        cache,
        data,
        cache_len: cache_len.map(ByteLen::from_raw),
        overwrite,
    };
    Ok(match settings.pool.layout() {
        Some(PoolLayout::Dir(dir)) => (config(dir.join("cache"), DataPlace::At(dir.join("data")), half), half),
        Some(PoolLayout::Halves { cache, data }) => {
            (config(cache.to_owned(), DataPlace::At(data.to_owned()), half), None)
        }
        Some(PoolLayout::Disk(disk)) => {
            let size = settings.pool.size.map(|size| size.bytes() / 4096 * 4096);
            (config(disk.to_owned(), DataPlace::SecondHalf, size), None)
        }
        None => {
            bail!(
                "the settings do not say what the pool is made of: give pool.cache and pool.data, pool.disk, or pool.dir"
            )
        }
    })
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let state = settings.state_dir();
    if settings.waits_for_pool() {
        wait_for_pool(&settings, &state, &mut terminate, &mut interrupt, None).await?;
        return Ok(());
    }
    let (config, data_limit) = pool_config(&settings)?;
    let identity = Identity::open(&state).context("open the box's identity")?;
    if let Some(dir) = config.cache.parent() {
        make_folder(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    // The lock on the cache comes first: a second daemon on the same pool ends here and touches nothing else.
    let box_id = identity.box_id;
    let config = Arc::new(config);
    let pool = loop {
        let config = config.clone();
        let opened = tokio::task::spawn_blocking(move || Pool::open(&config, box_id)).await?;
        let error = match opened {
            Ok(pool) => break pool,
            Err(error) => {
                anyhow::Error::from(error).context("open the pool (if another daemon runs on it, stop that one first)")
            }
        };
        // Whoever has nothing but the consoles of an appliance learns why there.
        if settings.system.socket.is_none() {
            return Err(error);
        }
        let why = format!("{error:#}");
        tracing::error!(error = why, "the pool cannot be opened");
        if wait_for_pool(&settings, &state, &mut terminate, &mut interrupt, Some(&why)).await?.is_stopped() {
            return Ok(());
        }
    };
    if let DataHalf::Folder(folder) = pool.data() {
        Inner::sweep_partial_homes(folder);
    }
    let store = Arc::new(Store::open(&state).context("open the control store")?);

    let (link_buffers, host_buffers) = buffer_pools(settings.limits.buffers.bytes());
    let index_limit = settings.limits.index.map_or_else(default_index_limit, |index| index.bytes());
    pool.allocator().set_index_limit(index_limit);
    let (net_tx, net_events) = mpsc::channel(QUEUE_MAX);
    let (notices, notice_rx) = mpsc::channel(QUEUE_MAX);
    let targets = portal::Targets::of_box(identity.box_id);
    let gate = portal::GateLimits {
        connections: settings.iscsi.connections_per_address,
        logins_per_minute: settings.iscsi.logins_per_minute,
    };
    let door = portal::Door::at(&settings.iscsi.listen)
        .with_context(|| format!("listen for iSCSI on {}", list(&settings.iscsi.listen)))?;
    let portals = door.addresses().iter().map(ToString::to_string).collect();
    let mut run = [0; 16];
    getrandom::fill(&mut run).map_err(|e| anyhow::anyhow!("draw random bytes: {e}"))?;
    let net = LinkNet::start(
        NetConfig {
            listen: settings.link.listen,
            key: identity.key.clone(),
            box_id,
            box_name: settings.name.to_string(),
            firmware: env!("CARGO_PKG_VERSION").to_owned(),
            run,
            peers: store.clone(),
            pool: link_buffers.clone(),
            zstd_level: ZSTD_LEVEL,
            send_per_sec: settings.limits.send_per_sec.map_or(0, |rate| rate.bytes()),
        },
        net_tx,
    )
    .with_context(|| format!("listen for peers on {}", settings.link.listen))?;

    let machine = Machine::new(&state, &settings.name, store.clone(), settings.system.socket.clone())?;
    let node = Node::new(Parts {
        settings: settings.clone(),
        machine,
        identity,
        store,
        pool,
        net,
        link_buffers,
        host_buffers,
        targets: targets.clone(),
        portals,
        notices,
        data_limit,
    });
    let starting = node.clone();
    tokio::task::spawn_blocking(move || starting.start_groups()).await?;
    let portal = door.open(&targets, gate, node.tells_full("iSCSI")).context("serve iSCSI")?;
    node.spawn_watchers(notice_rx, net_events);
    let (stop, stopped) = watch::channel(false);
    let listeners = start_api(&settings, &state, node.clone(), &stopped, |e| node.set_endpoints(e)).await?;
    tracing::info!(r#box = %settings.name, id = %box_id, "serving");

    tokio::select! {
        _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "stopping"),
        _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "stopping"),
    }
    // No session comes in any more, then the groups finish what is under way.
    tokio::task::spawn_blocking(move || drop(portal)).await?;
    node.stop().await;
    let _ = stop.send(true);
    for listener in listeners {
        let _ = listener.await;
    }
    let _ = std::fs::remove_file(&settings.api.socket);
    tracing::info!("stopped");
    Ok(())
}

/// What the payload buffers are for: half of them for the link, the rest for hosts, and both together never more than
/// the limit. Each is at least what one connection, or one group, needs; the settings refuse less than both.
fn buffer_pools(limit: u64) -> (BufPool, BufPool) {
    let link = (limit / 2).max(2 * reprise_link::mirror::WINDOW_BYTES_MIN);
    (BufPool::new(link), BufPool::new(limit.saturating_sub(link).max(GROUP_BUFFERS_MIN)))
}

/// A quarter of the machine's memory.
fn default_index_limit() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map_or(INDEX_BYTES_FALLBACK, |kib| kib.saturating_mul(1024) / 4)
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

async fn start_api(
    settings: &Settings,
    state: &Path,
    service: impl BoxService<Machine = Machine>,
    stop: &watch::Receiver<bool>,
    tell: impl Fn(&mut dyn FnMut(&mut Endpoints)),
) -> anyhow::Result<Vec<tokio::task::JoinHandle<()>>> {
    let service = Arc::new(service);
    if settings.system.socket.is_some() && settings.api.https_cert.is_none() {
        // The web console, a process of its own, shows it to browsers.
        let (_, fingerprint) = https_config(settings, state).context("prepare the certificate of the web console")?;
        service.machine().set_fingerprint(fingerprint.clone());
        tell(&mut |e| e.https_fingerprint = Some(fingerprint.clone()));
    }
    let mut listeners = Vec::new();
    let socket = bind_unix(&settings.api.socket).context("listen on the API's socket")?;
    tell(&mut |e| e.socket = Some(settings.api.socket.display().to_string()));
    listeners.push(tokio::spawn(serve_unix(socket, service.clone(), stop.clone())));
    if let Some(address) = settings.api.https {
        let (tls, fingerprint) = https_config(settings, state).context("prepare HTTPS")?;
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen for HTTPS on {address}"))?;
        let address = listener.local_addr()?;
        tell(&mut |e| {
            e.https = Some(format!("https://{address}"));
            e.https_fingerprint = Some(fingerprint.clone());
        });
        listeners.push(tokio::spawn(serve_https(listener, Arc::new(tls), service.clone(), stop.clone())));
    }
    if let Some(address) = settings.metrics.listen {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen for metrics on {address}"))?;
        let address = listener.local_addr()?;
        tell(&mut |e| e.metrics = Some(format!("http://{address}{}", reprise_api::route::METRICS_PATH)));
        listeners.push(tokio::spawn(serve_metrics(listener, service, stop.clone())));
    }
    Ok(listeners)
}

/// Why a box does not wait for its pool any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    Stopped,
    TryAgain,
}

impl Waited {
    fn is_stopped(self) -> bool {
        self == Self::Stopped
    }
}

/// An appliance without a disk for its pool serves the API alone, so that somebody can choose one; the first process starts
/// the daemon again when it has made the pool. One whose pool cannot be opened (`why`) says so in the same way, for a while.
async fn wait_for_pool(
    settings: &Settings,
    state: &Path,
    terminate: &mut Signal,
    interrupt: &mut Signal,
    why: Option<&str>,
) -> anyhow::Result<Waited> {
    Identity::open(state).context("open the box's identity")?;
    let store = Arc::new(Store::open(state).context("open the control store")?);
    let machine = Machine::new(state, &settings.name, store.clone(), settings.system.socket.clone())?;
    let (stop, stopped) = watch::channel(false);
    let service = match why {
        None => Waiting::for_disk(machine),
        Some(why) => Waiting::for_repair(machine, why),
    };
    let listeners = start_api(settings, state, service, &stopped, |_| {}).await?;
    tracing::info!(r#box = %settings.name, "waiting for a disk");
    let again = async {
        match why {
            Some(_) => tokio::time::sleep(OPEN_AGAIN).await,
            None => std::future::pending().await,
        }
    };
    let waited = tokio::select! {
        _ = terminate.recv() => Waited::Stopped,
        _ = interrupt.recv() => Waited::Stopped,
        () = again => Waited::TryAgain,
    };
    let _ = stop.send(true);
    for listener in listeners {
        let _ = listener.await;
    }
    store.flush().context("flush the control store")?;
    Ok(waited)
}

/// The certificate that is named, or one that the box makes for itself once, and its SHA-256.
fn https_config(settings: &Settings, state: &Path) -> anyhow::Result<(ServerConfig, String)> {
    let (cert, key) = match (&settings.api.https_cert, &settings.api.https_key) {
        (Some(cert), Some(key)) => (cert.clone(), key.clone()),
        _ => own_certificate(settings, state)?,
    };
    let read = |path: &Path| reprise_api::read_text(path, PEM_BYTES_MAX);
    let chain = read(&cert).with_context(|| format!("read certificate {}", cert.display()))?;
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("understand certificate {}", cert.display()))?;
    let text = read(&key).with_context(|| format!("read key {}", key.display()))?;
    let key =
        PrivateKeyDer::from_pem_slice(text.as_bytes()).with_context(|| format!("understand key {}", key.display()))?;
    let first = chain.first().with_context(|| format!("{} holds no certificate", cert.display()))?;
    let fingerprint = hex::encode(certificate_fingerprint(first));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("use certificate and key")?;
    Ok((config, fingerprint))
}

fn own_certificate(settings: &Settings, state: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (cert, key) = (state.join("https-cert.pem"), state.join("https-key.pem"));
    if !cert.exists() || !key.exists() {
        let names = vec![settings.name.to_string(), "localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).context("make a certificate")?;
        write_secret(&key, &made.signing_key.serialize_pem()).with_context(|| format!("write {}", key.display()))?;
        write_secret(&cert, &made.cert.pem()).with_context(|| format!("write {}", cert.display()))?;
    }
    Ok((cert, key))
}

/// A broken invariant ends the process, in every build: crash rather than corrupt. What is durable is recovered.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pool: &str) -> Settings {
        Settings::parse(&format!("name = \"a\"\n[pool]\n{pool}\n")).unwrap()
    }

    #[test]
    fn a_folder_is_cut_in_two_halves() {
        let (config, limit) = pool_config(&settings("dir = \"/srv/a\"\nsize = \"1G\"")).unwrap();
        assert_eq!(config.cache, Path::new("/srv/a/cache"));
        assert_eq!(config.data, DataPlace::At("/srv/a/data".into()));
        assert_eq!(config.cache_len, Some(ByteLen::from_raw(512 << 20)));
        assert_eq!(limit, Some(512 << 20));
    }

    #[test]
    fn buffers_of_hosts_and_link_are_within_the_limit_from_the_least_on() {
        for mib in [64, 96, 100, 256, 4096u64] {
            let (link, host) = buffer_pools(mib << 20);
            assert_eq!(link.limit() + host.limit(), mib << 20);
            assert!(host.limit() >= GROUP_BUFFERS_MIN);
            let text = format!("dir = \"/x\"\nsize = \"1G\"\n[limits]\nbuffers = \"{mib}M\"");
            settings(&text);
        }
        assert!(default_index_limit() > 64 << 20);
    }

    #[test]
    fn a_disk_is_cut_by_the_pool() {
        let (config, limit) = pool_config(&settings("disk = \"/dev/sdx\"")).unwrap();
        assert_eq!((config.cache.as_path(), config.data), (Path::new("/dev/sdx"), DataPlace::SecondHalf));
        assert_eq!((config.cache_len, limit), (None, None));
        let text = "disk = \"/srv/a.img\"\nsize = \"1G\"\noverwrite = \"file:1:2\"";
        let (config, _) = pool_config(&settings(text)).unwrap();
        assert_eq!(config.cache_len, Some(ByteLen::from_raw(1 << 30)));
        assert_eq!(config.overwrite.as_deref(), Some("file:1:2"));
    }

    #[test]
    fn the_box_makes_its_certificate_once() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings("dir = \"/srv/a\"\nsize = \"1G\"");
        let (_, first) = https_config(&settings, dir.path()).unwrap();
        let (_, again) = https_config(&settings, dir.path()).unwrap();
        assert_eq!(first, again);
        assert_eq!(first.len(), 64);
    }
}
