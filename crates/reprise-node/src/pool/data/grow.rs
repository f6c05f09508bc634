//! An area that gets more room where it lies: the rest of its last grain, and what is free behind it.

use std::ops::ControlFlow;

use reprise_format::superblock::AreaBody;
use reprise_media::{Media, Progress, zero_fill};
use reprise_types::ByteLen;

use super::{AREA, DataError, DataHalf, RawHalf, State, end_of};

impl DataHalf {
    /// Gives a home that is an area more room; what it has gained reads as zeros. The table says so before anybody may use
    /// it, so that it is as large after a start. Blocks the thread for as long as writing takes; `progress` may stop it.
    ///
    /// # Errors
    /// It is no area of this half, another lies behind it, or the disk's; the area is as it was then.
    pub fn grow_area(
        &self,
        home: &Media,
        identity: &str,
        size: ByteLen,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), DataError> {
        match (self, identity.strip_prefix(AREA)) {
            (Self::Raw(raw), Some(id)) => raw.grow(home, id, size.get(), progress),
            _ => Err(DataError::Unknown { home: identity.to_owned() }),
        }
    }
}

impl State {
    /// Where an area would end at the latest: where another begins, or the half ends.
    fn limit_of(&self, area: &AreaBody) -> u64 {
        let others = self.body.areas.iter().chain(&self.making).map(|a| a.offset);
        others.filter(|at| *at > area.offset).min().unwrap_or(self.body.len)
    }
}

impl RawHalf {
    fn grow(
        &self,
        home: &Media,
        id: &str,
        size: u64,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), DataError> {
        let unknown = || DataError::Unknown { home: home.path().display().to_string() };
        let area = self.with(|s| {
            if s.failed {
                return Err(DataError::Failed);
            }
            let area = s.body.areas.iter().find(|a| hex::encode(&a.id) == id).cloned().ok_or_else(unknown)?;
            let room = s.limit_of(&area) - area.offset;
            if size > room {
                let (needed, free) = (size.saturating_sub(area.len), room.saturating_sub(area.len));
                return Err(DataError::NotBehind { needed, free });
            }
            // What lies behind its last grain is kept from others while it is written.
            let behind = end_of(&area);
            if area.offset + size > behind {
                s.making.push(AreaBody { offset: behind, len: area.offset + size - behind, ..area.clone() });
            }
            Ok(area)
        })?;
        let more = self.media.window(home.path().to_owned(), area.offset + area.len, size.saturating_sub(area.len));
        let filled = more.and_then(|more| zero_fill(&more, progress));
        self.with(|s| {
            s.making.retain(|a| a.id != area.id);
            filled?;
            let mut body = s.body.clone();
            body.areas.iter_mut().filter(|a| a.id == area.id).for_each(|a| a.len = size);
            self.write(s, body)?;
            Ok(home.grow_window(&self.media, size)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MIB, half, make, raw};
    use super::*;
    use crate::pool::Make;

    fn grow(data: &DataHalf, home: &crate::pool::Home, size: u64) -> Result<(), DataError> {
        data.grow_area(&home.media, &home.identity, ByteLen::from_raw(size), &mut |_| ControlFlow::Continue(()))
    }

    /// An area ends inside a grain of 1 MiB; the rest of it is nobody's.
    #[test]
    fn an_area_grows_where_it_lies_and_is_as_large_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let media = half(dir.path(), 20);
        // What the disk held before must not be seen.
        media.write_blocking(0, &vec![0xee; 16 * MIB as usize]).unwrap();
        let data = raw(&media);
        let a = make(&data, 1, MIB + 4096, Make::Zeroed).unwrap();
        let b = make(&data, 2, MIB, Make::Zeroed).unwrap();
        a.media.write_blocking(MIB, &[7; 4096]).unwrap();
        assert!(a.media.write_blocking(MIB + 4096, &[7; 4096]).is_err());
        grow(&data, &a, 2 * MIB - 4096).unwrap();
        let too_far = grow(&data, &a, 2 * MIB + 4096);
        assert!(matches!(too_far, Err(DataError::NotBehind { needed: 8192, free: 4096 })), "{too_far:?}");
        grow(&data, &b, 5 * MIB).unwrap();
        let stopped =
            data.grow_area(&b.media, &b.identity, ByteLen::from_raw(6 * MIB), &mut |_| ControlFlow::Break(()));
        assert!(stopped.is_err());
        assert_eq!((a.media.size().get(), b.media.size().get()), (2 * MIB - 4096, 5 * MIB));
        b.media.write_blocking(5 * MIB - 4096, &[8; 4096]).unwrap();
        let free = data.free().unwrap();
        let identities = [a.identity.clone(), b.identity.clone()];
        drop((data, a, b, media));
        let media = half(dir.path(), 20);
        let data = raw(&media);
        assert_eq!(data.free().unwrap(), free);
        let [a, b] = identities.map(|identity| data.open_area(&identity).unwrap().unwrap());
        let mut buf = reprise_types::PoolBuf::unpooled(MIB as usize - 4096);
        a.media.read_blocking(MIB, &mut buf).unwrap();
        assert!(buf[..4096].iter().all(|byte| *byte == 7) && buf[4096..].iter().all(|byte| *byte == 0));
        let mut buf = reprise_types::PoolBuf::unpooled(4 * MIB as usize);
        b.media.read_blocking(MIB, &mut buf).unwrap();
        let last = buf.len() - 4096;
        assert!(buf[..last].iter().all(|byte| *byte == 0) && buf[last..].iter().all(|byte| *byte == 8));
    }
}
