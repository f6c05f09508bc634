//! Answers the daemon in the place of an appliance's first process: one JSON line each way.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use reprise_api::{ApiError, Done, ErrorCode, LogLines, SystemCall, SystemReply, SystemStatus};
use serde_json::json;

fn status(name: &str) -> SystemStatus {
    serde_json::from_value(json!({
        "name": name, "uptime_secs": 5000, "memory_bytes_total": 4_294_967_296u64, "memory_bytes_available": 3_221_225_472u64,
        "firmware": {"version": "0.1.0", "slot": "a", "confirmed": true, "fell_back": false, "watchdog": "iTCO_wdt", "secure_boot": true},
        "clock": {"unix_ms": 1_790_003_600_000u64, "state": {"kind": "synchronized", "server": "192.0.2.1", "offset_us": 350}, "servers": ["192.0.2.1"]},
        "network": {
            "interfaces": [
                {"name": "eth0", "mac": "52:54:00:00:00:01", "carrier": true, "speed_mbit": 1000, "addresses": ["192.0.2.7/24", "2001:db8::7/64"], "gateways": ["192.0.2.1"]},
                {"name": "eth1", "mac": "52:54:00:00:00:02", "carrier": false, "speed_mbit": null, "addresses": [], "gateways": []}
            ],
            "settings": {"interfaces": [{"name": "eth0", "kind": {"kind": "ethernet"}, "ipv4": {"kind": "static", "addresses": ["192.0.2.7/24"], "gateway": "192.0.2.1"}}], "nameservers": []},
            "nameservers": ["192.0.2.53"], "reverts_in_secs": null
        },
        "disks": [
            {"path": "/dev/sda", "serial": "S4EVNX0M", "model": "Acme Boot", "size_bytes": 34_359_738_368u64, "usage": {"kind": "boot", "free_bytes": 0, "pool": false}},
            {"path": "/dev/sdb", "serial": "ZA1B2C3D", "model": "Acme Disk", "size_bytes": 4_000_787_030_016u64, "usage": {"kind": "pool"}}
        ],
        "pool": {"kind": "on", "path": "/dev/sdb", "serial": "ZA1B2C3D"},
        "config": {"kind": "good"},
        "processes": [
            {"name": "daemon", "running": true, "restarts": 0, "last_exit": null},
            {"name": "web", "running": true, "restarts": 1, "last_exit": "exit code 1"}
        ]
    }))
    .unwrap()
}

/// Answers at `path` while the test runs.
pub(crate) fn serve(path: &Path, name: &str) {
    let listener = UnixListener::bind(path).unwrap();
    let status = status(name);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A daemon that was killed meanwhile takes no answer.
            let _ = answer(stream, &status);
        }
    });
}

fn answer(stream: UnixStream, status: &SystemStatus) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let reply = match serde_json::from_str(&line)? {
        SystemCall::Show => SystemReply::Show(Box::new(status.clone())),
        SystemCall::Logs(_) => SystemReply::Logs(LogLines {
            lines: (1..40).map(|n| format!("2026-09-21T15:13:{n:02}Z INFO line {n}")).collect(),
        }),
        SystemCall::TimeSet(_) | SystemCall::NetworkKeep => SystemReply::Done(Done {}),
        other => {
            let message = format!("a test does not do this: {other:?}");
            SystemReply::Error(ApiError::new(ErrorCode::NotSupported, message, "do it on an appliance"))
        }
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    (&stream).write_all(&line)
}
