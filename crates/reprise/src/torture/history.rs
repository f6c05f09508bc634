//! What was written in which order, and whether an image can be that.
//!
//! Blocks are numbered from 0 and each was issued after the one before was answered or its session was gone. A block that was
//! never answered may have taken effect or not, but the same for all its sectors. So an image is an exact prefix if there is
//! a last block m such that every sector holds the newest block up to m that covers it, unanswered ones left out or not.

use anyhow::{bail, ensure};
use reprise_testkit::oracle::OpId;
use reprise_testkit::oracle::stamp::{self, Content, SECTOR};

/// The one writer.
pub(super) const WRITER: u32 = 1;

#[derive(Debug, Clone, Copy)]
struct Block {
    sector: u64,
    sectors: u32,
    acknowledged: bool,
}

/// The blocks of a run.
#[derive(Debug)]
pub(super) struct History {
    blocks: Vec<Block>,
    sectors: u64,
}

/// An image that is a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    /// Number of the last block in it, plus one; 0 for none.
    pub(super) end: usize,
    /// Acknowledged blocks behind it.
    pub(super) behind: u64,
}

impl History {
    pub(super) fn new(sectors: u64) -> Self {
        Self { blocks: Vec::new(), sectors }
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.blocks.iter().filter(|b| b.acknowledged).count() as u64
    }

    /// Takes the next block; gives its number and content.
    pub(super) fn issue(&mut self, sector: u64, sectors: u32) -> (usize, Vec<u8>) {
        let number = self.blocks.len();
        self.blocks.push(Block { sector, sectors, acknowledged: false });
        (number, stamp::payload(OpId { writer: WRITER, op: number as u64 }, 0, sector, sectors))
    }

    pub(super) fn acknowledge(&mut self, number: usize) {
        if let Some(block) = self.blocks.get_mut(number) {
            block.acknowledged = true;
        }
    }

    /// Checks that the image, which began as zeros, is an exact prefix. With `complete` nothing acknowledged may be missing.
    pub(super) fn check(&self, image: &[u8], complete: bool) -> anyhow::Result<Prefix> {
        let (sectors, rest) = image.as_chunks::<SECTOR>();
        ensure!(rest.is_empty() && sectors.len() as u64 == self.sectors, "the image has {} bytes", image.len());
        let mut holds = Vec::with_capacity(sectors.len());
        for (at, bytes) in sectors.iter().enumerate() {
            holds.push(match stamp::read(bytes) {
                Content::Zero => None,
                Content::Garbage => bail!("sector {at} holds what nobody wrote"),
                Content::Stamped(s) => {
                    let known = self.blocks.get(s.id.op as usize).filter(|b| {
                        s.id.writer == WRITER && (b.sector, b.sectors) == (s.first, s.sectors) && s.sector == at as u64
                    });
                    ensure!(known.is_some(), "sector {at} holds a block of elsewhere: {s:?}");
                    Some(s.id.op as usize)
                }
            });
        }
        let seen = holds.iter().flatten().copied().max().map_or(0, |m| m + 1);
        // Acknowledged blocks behind the last one that is seen would be seen.
        let last_acknowledged = self.blocks.iter().rposition(|b| b.acknowledged).map_or(0, |n| n + 1);
        ensure!(!complete || seen >= last_acknowledged, "block {} was acknowledged and is lost", last_acknowledged - 1);
        self.replayed(&holds, seen)?;
        let behind = self.blocks.get(seen..).unwrap_or_default().iter().filter(|b| b.acknowledged).count() as u64;
        Ok(Prefix { end: seen, behind })
    }

    /// Every sector holds the newest block below `end` that covers it; of the unanswered ones those that are seen anywhere.
    fn replayed(&self, holds: &[Option<usize>], end: usize) -> anyhow::Result<()> {
        let mut visible = vec![false; end];
        for number in holds.iter().flatten() {
            if let Some(seen) = visible.get_mut(*number) {
                *seen = true;
            }
        }
        let mut expected = vec![None; holds.len()];
        for (number, block) in self.blocks.iter().enumerate().take(end) {
            if !block.acknowledged && visible.get(number) != Some(&true) {
                continue;
            }
            let range = block.sector as usize..block.sector as usize + block.sectors as usize;
            if let Some(part) = expected.get_mut(range) {
                part.fill(Some(number));
            }
        }
        if let Some(at) = holds.iter().zip(&expected).position(|(h, e)| h != e) {
            let (holds, expected) = (holds.get(at).copied().flatten(), expected.get(at).copied().flatten());
            bail!("no prefix: sector {at} holds block {holds:?}, block {expected:?} was there before block {end}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(history: &mut History, image: &mut [u8], sector: u64, sectors: u32, acknowledged: bool, effect: bool) {
        let (number, data) = history.issue(sector, sectors);
        if effect {
            image[sector as usize * SECTOR..][..data.len()].copy_from_slice(&data);
        }
        if acknowledged {
            history.acknowledge(number);
        }
    }

    #[test]
    fn prefixes_are_told_from_images_that_cannot_be() {
        let (mut history, mut image) = (History::new(16), vec![0; 16 * SECTOR]);
        assert_eq!(history.check(&image, true).unwrap(), Prefix { end: 0, behind: 0 });
        written(&mut history, &mut image, 0, 8, true, true);
        let early = image.clone();
        written(&mut history, &mut image, 4, 8, true, true);
        let middle = image.clone();
        // Unanswered, and without effect.
        written(&mut history, &mut image, 2, 4, false, false);
        written(&mut history, &mut image, 0, 2, true, true);
        assert_eq!(history.check(&image, true).unwrap(), Prefix { end: 4, behind: 0 });
        assert_eq!(history.check(&early, false).unwrap(), Prefix { end: 1, behind: 2 });
        assert_eq!(history.check(&middle, false).unwrap(), Prefix { end: 2, behind: 1 });
        assert!(history.check(&early, true).unwrap_err().to_string().contains("lost"));
        // A later block without an earlier one.
        let mut holed = image.clone();
        holed[4 * SECTOR..12 * SECTOR].copy_from_slice(&early[4 * SECTOR..12 * SECTOR]);
        assert!(history.check(&holed, false).unwrap_err().to_string().contains("no prefix"));
        // Half of a block.
        let mut torn = early.clone();
        torn[8 * SECTOR..12 * SECTOR].copy_from_slice(&middle[8 * SECTOR..12 * SECTOR]);
        assert!(history.check(&torn, false).is_err());
        let mut rotten = image.clone();
        rotten[100] ^= 1;
        assert!(history.check(&rotten, false).unwrap_err().to_string().contains("nobody"));
        let mut moved = image;
        moved.copy_within(0..SECTOR, 15 * SECTOR);
        assert!(history.check(&moved, false).is_err());
    }
}
