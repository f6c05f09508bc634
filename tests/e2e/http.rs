//! The API as any program may call it: HTTP over the local socket, JSON.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// A call that takes longer has failed; commands of the API end after 60 s at the latest.
const CALL_SECS_MAX: u64 = 75;

/// What a box answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// The error code of a refusal.
    pub(crate) fn code(&self) -> &str {
        if self.status < 300 { "" } else { self.body["code"].as_str().unwrap_or("?") }
    }
}

/// One request on a connection of its own.
pub(crate) async fn call(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
    let text = body.map(Value::to_string).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: box\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{text}",
        text.len()
    );
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(CALL_SECS_MAX), exchange)
        .await
        .with_context(|| format!("{method} {path}: no answer"))?
        .with_context(|| format!("{method} {path}"))?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("{method} {path}: no HTTP answer"))?;
    let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok()).context("HTTP status")?;
    if head.to_ascii_lowercase().contains("transfer-encoding") {
        bail!("{method} {path}: the answer comes in chunks");
    }
    let body = serde_json::from_str(body).with_context(|| format!("{method} {path}: answer {body:?}"))?;
    Ok(Answer { status, body })
}
