//! The system socket: the daemon hands commands on, one JSON line each way.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use reprise_api::{ApiError, ErrorCode, SystemCall, SystemReply};

use super::logs::{Level, say};

/// Longest command. Network settings with all they may hold take some 20 KiB.
const LINE_LEN_MAX: u64 = 256 << 10;
/// Longest wait for a command, and for somebody to take an answer.
const PEER_TIME_MAX: Duration = Duration::from_secs(30);
/// Connections at a time; further ones are closed at once. Only root reaches the socket.
const CONNECTIONS_MAX: usize = 16;

/// Carries a command out.
pub(crate) type Handler = dyn Fn(SystemCall) -> SystemReply + Send + Sync;

/// Serves the socket in threads of its own.
///
/// # Errors
/// The socket cannot be made.
pub(crate) fn serve(path: &Path, handler: Arc<Handler>) -> Result<()> {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("remove {}", path.display()));
    }
    // Nobody connects between the two: nothing runs yet that knows the path, and everything here is root.
    let listener = UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("close {} to others", path.display()))?;
    let accept = move || {
        let open = Arc::new(AtomicUsize::new(0));
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            };
            if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
                open.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            let (handler, counted) = (handler.clone(), open.clone());
            let serve = move || {
                serve_one(&stream, &*handler);
                counted.fetch_sub(1, Ordering::SeqCst);
            };
            if let Err(error) = std::thread::Builder::new().name("system call".into()).spawn(serve) {
                open.fetch_sub(1, Ordering::SeqCst);
                say(Level::Error, &format!("serve the system socket: {error}"));
            }
        }
    };
    std::thread::Builder::new().name("system socket".into()).spawn(accept)?;
    Ok(())
}

fn serve_one(stream: &UnixStream, handler: &Handler) {
    let limits = stream.set_read_timeout(Some(PEER_TIME_MAX)).and(stream.set_write_timeout(Some(PEER_TIME_MAX)));
    if limits.is_err() {
        return;
    }
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE_LEN_MAX).read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let whole = line.ends_with('\n');
        let reply = match serde_json::from_str(&line) {
            Ok(call) => handler(call),
            Err(error) => {
                SystemReply::Error(ApiError::new(ErrorCode::BadRequest, format!("that is no system call: {error}"), ""))
            }
        };
        let mut writer = stream;
        let Ok(mut bytes) = serde_json::to_vec(&reply) else { return };
        bytes.push(b'\n');
        if writer.write_all(&bytes).is_err() || !whole {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use reprise_api::{Done, Power, PowerAction};

    use super::*;

    #[test]
    fn calls_are_answered_line_by_line_and_only_to_the_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("system.sock");
        std::fs::write(&path, "left over").unwrap();
        let handler = |call| match call {
            SystemCall::Power(_) => SystemReply::Done(Done {}),
            other => SystemReply::Error(ApiError::internal(format!("{other:?}"))),
        };
        serve(&path, Arc::new(handler)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut stream = UnixStream::connect(&path).unwrap();
        let mut ask = |line: &str| -> SystemReply {
            stream.write_all(line.as_bytes()).unwrap();
            let mut answer = String::new();
            BufReader::new(&stream).read_line(&mut answer).unwrap();
            serde_json::from_str(&answer).unwrap()
        };
        let call = serde_json::to_string(&SystemCall::Power(Power { action: PowerAction::Reboot })).unwrap();
        assert_eq!(ask(&format!("{call}\n")), SystemReply::Done(Done {}));
        assert!(matches!(ask("nonsense\n"), SystemReply::Error(e) if e.code == ErrorCode::BadRequest));
        assert!(matches!(ask("{\"call\":\"show\"}\n"), SystemReply::Error(e) if e.message == "Show"));
        // A line without end is answered once, and the connection closed.
        let endless = "x".repeat(LINE_LEN_MAX as usize);
        assert!(matches!(ask(&endless), SystemReply::Error(_)));
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0);
    }

    #[test]
    fn too_many_connections_do_not_take_the_first_ones_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        serve(&path, Arc::new(|_| SystemReply::Done(Done {}))).unwrap();
        let mut all: Vec<UnixStream> = (0..CONNECTIONS_MAX + 3).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let mut last = all.pop().unwrap();
        assert_eq!(last.read(&mut [0; 8]).unwrap_or(0), 0, "the last one is closed");
        let first = &mut all[0];
        first.write_all(b"{\"call\":\"show\"}\n").unwrap();
        assert!(first.read(&mut [0; 200]).unwrap() > 0);
    }
}
