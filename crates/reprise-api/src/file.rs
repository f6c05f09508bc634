//! Files that a person names: settings, certificates, proofs. What has no end or blocks a reader is none.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Reads a text of at most `bytes_max`.
///
/// # Errors
/// It cannot be read, is larger, is not UTF-8, or is a device, pipe, socket or directory, which is not even opened.
pub fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    // A pipe blocks whoever opens it, so it is looked at first, and again what was opened.
    is_file(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    is_file(&file.metadata()?)?;
    let mut text = String::new();
    file.take(bytes_max.saturating_add(1)).read_to_string(&mut text)?;
    if text.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    Ok(text)
}

fn is_file(about: &Metadata) -> io::Result<()> {
    let kind = match about.file_type() {
        t if t.is_file() => return Ok(()),
        t if t.is_dir() => "a directory",
        t if t.is_fifo() => "a pipe",
        t if t.is_socket() => "a socket",
        _ => "a device",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {kind}; name a file")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_with_an_end_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(read_text(&path, 4).unwrap(), "text");
        assert!(read_text(&path, 3).unwrap_err().to_string().contains("more than 3 bytes"));
        let fifo = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, kind) in [
            (Path::new("/dev/zero"), "a device"),
            (Path::new("/dev/null"), "a device"),
            (dir.path(), "a directory"),
            (&fifo, "a pipe"),
            (&socket, "a socket"),
        ] {
            let error = read_text(path, 1 << 20).unwrap_err();
            assert!(error.to_string().contains(kind), "{}: {error}", path.display());
        }
    }
}
