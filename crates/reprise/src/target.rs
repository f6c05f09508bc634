//! Which box the command line talks to.

use reprise_api::client::Trust;
use reprise_api::{Client, ClientError, Target};

use crate::Usage;
use crate::args::Global;

/// The client that the options ask for.
pub(crate) fn client(global: &Global) -> anyhow::Result<Client> {
    let Some(url) = &global.url else {
        return Ok(Client::new(Target::Socket(global.socket.clone())));
    };
    let Some(token) = &global.token else {
        return Err(Usage::error(
            "--url needs --token (or REPRISE_TOKEN); make one on the box: reprise token create NAME",
        ));
    };
    let trust = match (&global.fingerprint, &global.ca_file) {
        (Some(text), _) => Trust::fingerprint(text)?,
        (None, Some(path)) => Trust::CaFile(path.clone()),
        (None, None) => {
            return Err(Usage::error(
                "--url needs --fingerprint or --ca-file; reprise status --json on the box shows it",
            ));
        }
    };
    Ok(Client::new(Target::https(url, token.clone(), trust)?))
}

/// What to do when the box was not reached.
pub(crate) fn advice(error: &ClientError) -> &'static str {
    use std::io::ErrorKind;
    match error {
        ClientError::Unreachable { source, .. } => match source.kind() {
            ErrorKind::NotFound => "start the box (reprise run --config FILE), or name its socket with --socket",
            ErrorKind::ConnectionRefused => "the box does not run; start it: reprise run --config FILE",
            ErrorKind::PermissionDenied => "run the command as root or as the user the box runs as",
            _ => "check the address, and that the box runs",
        },
        ClientError::Tls { .. } => "compare --fingerprint with https_fingerprint of: reprise status --json, on the box",
        _ => "look whether the box still runs, then at reprise status, before you try again",
    }
}
