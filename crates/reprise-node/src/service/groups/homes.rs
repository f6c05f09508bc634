//! Homes of volumes: looked at before they are used.

use std::path::Path;
use std::sync::Arc;

use reprise_engine::{GroupMeta, VolumeMeta};
use reprise_media::{Identity, Media, MediaError, MediaOptions};
use reprise_types::ByteLen;

use crate::group::HomeMedia;
use crate::pool::{DataError, DataHalf};

/// A home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// It does not open.
    #[error("home of volume {volume}")]
    Open {
        /// The volume.
        volume: String,
        /// Why.
        #[source]
        source: MediaError,
    },
    /// Another file or device is in its place.
    #[error(
        "home of volume {volume}, {path}, is another file or device than before: found {found}, expected {expected}"
    )]
    Replaced {
        /// The volume.
        volume: String,
        /// Where.
        path: String,
        /// What is there.
        found: String,
        /// What was there.
        expected: String,
    },
    /// It is smaller than the volume.
    #[error("home of volume {volume}, {path}, has shrunk: {have} bytes, the volume has {need}")]
    Shrunk {
        /// The volume.
        volume: String,
        /// Where.
        path: String,
        /// Bytes there.
        have: ByteLen,
        /// Bytes of the volume.
        need: ByteLen,
    },
    /// It is an area of a raw data half, and not there.
    #[error("home of volume {volume}, {path}")]
    Area {
        /// The volume.
        volume: String,
        /// Where it was.
        path: String,
        /// Why.
        #[source]
        source: DataError,
    },
    /// It has none.
    #[error("volume {volume} has no home")]
    None {
        /// The volume.
        volume: String,
    },
}

/// What a home is recognised by: of a file in the data half its inode, since the number of its file system may change
/// with the disks of the box; of everything else all that the kernel can tell.
fn same_identity(adopted: bool, found: &Identity, expected: &str) -> bool {
    let text = found.to_string();
    match found {
        Identity::File { inode, .. } if !adopted => {
            expected.starts_with("file:") && expected.rsplit(':').next() == Some(inode.to_string().as_str())
        }
        _ => text == expected,
    }
}

/// Opens a volume's home and checks that it is the one it was. The path of an area follows the disk that holds it.
fn open_home(data: &DataHalf, volume: &mut VolumeMeta) -> Result<Arc<Media>, HomeError> {
    let name = || volume.name.clone();
    let none = HomeError::None { volume: name() };
    let Some(leg) = volume.legs.first() else { return Err(none) };
    if let Some(area) = data.open_area(&leg.identity) {
        let home = area.map_err(|source| HomeError::Area { volume: name(), path: leg.path.clone(), source })?;
        check_size(volume, &home.path, &home.media)?;
        if let Some(leg) = volume.legs.first_mut() {
            leg.path = home.path;
        }
        return Ok(home.media);
    }
    let media = Media::open(Path::new(&leg.path), MediaOptions::exclusive())
        .map_err(|source| HomeError::Open { volume: name(), source })?;
    if !same_identity(leg.adopted, media.identity(), &leg.identity) {
        let (path, expected) = (leg.path.clone(), leg.identity.clone());
        return Err(HomeError::Replaced { volume: name(), path, found: media.identity().to_string(), expected });
    }
    check_size(volume, &leg.path, &media)?;
    Ok(media)
}

fn check_size(volume: &VolumeMeta, path: &str, media: &Media) -> Result<(), HomeError> {
    let (have, need) = (media.size(), volume.sectors.bytes());
    if have < need {
        return Err(HomeError::Shrunk { volume: volume.name.clone(), path: path.to_owned(), have, need });
    }
    Ok(())
}

pub(super) fn open_homes(data: &DataHalf, meta: &mut GroupMeta) -> Result<Vec<HomeMedia>, HomeError> {
    meta.volumes.iter_mut().map(|v| Ok(HomeMedia { slot: v.slot, media: open_home(data, v)? })).collect()
}

#[cfg(test)]
mod tests {
    use reprise_media::{Fill, create_file};
    use reprise_types::SectorCount;

    use super::*;
    use crate::service::view;

    fn volume(path: &Path, adopted: bool) -> VolumeMeta {
        let mut volume = view::tests::meta().volumes.remove(0);
        volume.legs[0].path = path.to_str().unwrap().to_owned();
        volume.legs[0].adopted = adopted;
        volume.legs[0].identity = Media::open(path, MediaOptions::read_shared()).unwrap().identity().to_string();
        volume
    }

    #[test]
    fn a_home_that_is_not_what_it_was_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.home");
        let make = |path: &Path, sectors: u64| {
            let size = ByteLen::from_raw(sectors * 512);
            create_file(path, size, Fill::Sparse, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
        };
        make(&path, 2048);
        let data = DataHalf::Folder(dir.path().to_owned());
        let open_home = |v: &VolumeMeta| super::open_home(&data, &mut v.clone());
        let good = volume(&path, false);
        drop(open_home(&good).unwrap());
        let held = open_home(&good).unwrap();
        assert!(matches!(open_home(&good), Err(HomeError::Open { source: MediaError::Locked { .. }, .. })));
        drop(held);
        let larger = VolumeMeta { sectors: SectorCount::from_raw(4096), ..good.clone() };
        assert!(matches!(open_home(&larger), Err(HomeError::Shrunk { .. })));
        let other = dir.path().join("other");
        make(&other, 2048);
        std::fs::rename(&other, &path).unwrap();
        assert!(matches!(open_home(&good), Err(HomeError::Replaced { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(open_home(&good), Err(HomeError::Open { .. })));
        assert!(matches!(open_home(&VolumeMeta { legs: vec![], ..good.clone() }), Err(HomeError::None { .. })));
        let mut area = good;
        area.legs[0].identity = "area:00".to_owned();
        assert!(matches!(open_home(&area), Err(HomeError::Area { .. })), "the settings name another data half");
    }

    #[test]
    fn a_file_of_the_data_half_may_move_to_another_file_system_number() {
        let found = Identity::File { file_system: 2, inode: 77 };
        assert!(same_identity(false, &found, "file:0000000000000001:77"));
        assert!(!same_identity(true, &found, "file:0000000000000001:77"));
        assert!(!same_identity(false, &found, "file:0000000000000001:177"));
        assert!(!same_identity(false, &found, "disk:x:77"));
    }
}
