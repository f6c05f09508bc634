//! Who may read what a pool is made of: the user the box runs as, and nobody else.
//!
//! What the pool makes is made so. A release that did not, or whoever copied it from another disk, may have left it open,
//! so it is closed each time the pool opens. Images that were adopted belong to whoever made them and keep their modes.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// End of the name of a home, and of one that is being made.
const HOME: [&str; 2] = [".home", ".home.partial"];
/// What lies in a folder that is a whole pool, beside its cache and its data half: the box's state.
const STATE: &str = "state";

/// Makes a folder, with those above it, where there is none.
///
/// # Errors
/// The file system's.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Takes the rights of others on a file or folder away. Where the system does not let us, whoever runs it decides.
pub(super) fn close(path: &Path) {
    let closed = fs::metadata(path).and_then(|meta| {
        let mode = meta.permissions().mode();
        if mode & 0o077 == 0 {
            return Ok(false);
        }
        fs::set_permissions(path, Permissions::from_mode(mode & 0o700)).map(|()| true)
    });
    match closed {
        Ok(true) => tracing::info!(path = %path.display(), "closed to other users"),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, path = %path.display(), "cannot be closed to other users"),
    }
}

/// Closes a data half that is a folder: its homes, the folders of its groups, and itself unless somebody else keeps
/// something in it.
pub(super) fn close_data(folder: &Path) {
    let mut all_ours = true;
    for group in entries(folder) {
        if !group.is_dir() {
            all_ours = false;
            continue;
        }
        let (mut homes, mut others) = (0, 0);
        for file in entries(&group) {
            if file.to_str().is_some_and(|name| HOME.iter().any(|end| name.ends_with(end))) {
                close(&file);
                homes += 1;
            } else {
                others += 1;
            }
        }
        if homes > 0 {
            close(&group);
        }
        all_ours &= others == 0;
    }
    if all_ours {
        close(folder);
    }
}

/// Closes the folder that holds cache and data half, unless something else is in it too.
pub(super) fn close_around(cache: &Path, folder: &Path) {
    let Some(around) = cache.parent().filter(|around| folder.parent() == Some(around)) else { return };
    if entries(around).iter().all(|e| e == cache || e == folder || e.file_name().is_some_and(|n| n == STATE)) {
        close(around);
    }
}

fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(folder).map(|all| all.flatten().map(|e| e.path()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_lay_open_is_closed_and_what_is_not_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["one/data/g/v-1.home", "one/data/g/v-2.home.partial", "one/cache", "two/data/g/v-1.home"] {
            put(&at(name), 0o644);
        }
        for name in ["two/data/g/lent.img", "two/data/letters/letter", "two/notes", "two/cache"] {
            put(&at(name), 0o644);
        }
        for name in ["one", "one/data", "one/data/g", "two", "two/data", "two/data/g", "two/data/letters"] {
            fs::set_permissions(at(name), Permissions::from_mode(0o755)).unwrap();
        }
        for pool in ["one", "two"] {
            let (cache, data) = (at(pool).join("cache"), at(pool).join("data"));
            close(&cache);
            close_data(&data);
            close_around(&cache, &data);
        }
        for (name, expected) in [
            ("one", 0o700),
            ("one/cache", 0o600),
            ("one/data", 0o700),
            ("one/data/g", 0o700),
            ("one/data/g/v-1.home", 0o600),
            ("one/data/g/v-2.home.partial", 0o600),
            ("two", 0o755),
            ("two/cache", 0o600),
            ("two/data", 0o755),
            ("two/data/g", 0o700),
            ("two/data/g/v-1.home", 0o600),
            ("two/data/g/lent.img", 0o644),
            ("two/data/letters", 0o755),
            ("two/data/letters/letter", 0o644),
            ("two/notes", 0o644),
        ] {
            assert_eq!(mode(&at(name)), expected, "{name}");
        }
    }

    #[test]
    fn a_folder_is_made_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        make_folder(&dir.path().join("a/b")).unwrap();
        assert_eq!((mode(&dir.path().join("a")), mode(&dir.path().join("a/b"))), (0o700, 0o700));
    }
}
