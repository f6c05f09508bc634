//! What was written and acknowledged: the independent side of every check. Uses reprise-types, BLAKE3 and CRC-32C only;
//! the history hash is computed from the rule as `docs/formats.md` states it, not by the code under test.

use bytes::Bytes;
use reprise_types::{Extent, GroupId, HistoryHash, PoolBuf, RecordKind, Seq};

/// Volumes of the modelled group.
pub const VOLUMES: usize = 2;
/// Sectors of each volume: small, so that records overlap and a whole image is read after every cut.
pub const VOLUME_SECTORS: u64 = 1024;

/// A record as the host wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// What it is.
    pub kind: RecordKind,
    /// The sectors.
    pub extent: Extent,
    /// Names the content: see [`content`]. Zero for kinds without content.
    pub id: u64,
}

/// The newest write of each sector of each volume; 0 where it reads as zero.
pub type Image = Vec<Vec<u64>>;

/// The sector that write `id` put at `sector`.
pub fn content(id: u64, sector: u64) -> [u8; 512] {
    let mut out = [0; 512];
    if id != 0 {
        let mut word = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ sector.wrapping_mul(0xd6e8_feb8_6659_fd93);
        for chunk in out.chunks_exact_mut(8) {
            word = word.rotate_left(23).wrapping_mul(0x2545_f491_4f6c_dd1d) ^ id;
            chunk.copy_from_slice(&word.to_le_bytes());
        }
    }
    out
}

/// The payload of a write.
pub fn payload(written: &Written) -> Bytes {
    if written.kind != RecordKind::Write {
        return Bytes::new();
    }
    let count = written.extent.sectors.get();
    let mut buf = PoolBuf::unpooled(count as usize * 512);
    for (i, out) in (0..count).zip(buf.chunks_exact_mut(512)) {
        out.copy_from_slice(&content(written.id, written.extent.sector.get() + i));
    }
    buf.freeze()
}

/// h(n) from h(n-1), by the rule of `docs/formats.md`, "History hash".
pub fn chain(before: HistoryHash, written: &Written) -> HistoryHash {
    chain_bytes(before, written.kind, &written.extent, &payload(written))
}

/// The same for any payload.
pub fn chain_bytes(before: HistoryHash, kind: RecordKind, extent: &Extent, data: &[u8]) -> HistoryHash {
    let mut input = before.as_bytes().to_vec();
    input.extend_from_slice(&[kind.code(), 0]);
    input.extend_from_slice(&extent.volume.get().to_le_bytes());
    input.extend_from_slice(&(data.len() as u32).to_le_bytes());
    input.extend_from_slice(&extent.sector.get().to_le_bytes());
    input.extend_from_slice(&extent.sectors.get().to_le_bytes());
    input.extend_from_slice(&[0; 8]);
    data.chunks(4096).for_each(|grain| input.extend_from_slice(&crc_fast::crc32_iscsi(grain).to_le_bytes()));
    truncated(&input)
}

/// h(0) of a group.
pub fn chain_start(group: GroupId) -> HistoryHash {
    truncated(&[b"reprise history 1".as_slice(), group.as_bytes()].concat())
}

fn truncated(input: &[u8]) -> HistoryHash {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(input).as_bytes()[..16]);
    HistoryHash::from_raw(out)
}

/// History as the host and the acknowledgements show it.
#[derive(Debug)]
pub struct Model {
    /// Records `base + 1 ..`.
    records: Vec<Written>,
    base: Seq,
    base_hash: HistoryHash,
    base_image: Image,
    acked: Seq,
    next_id: u64,
}

impl Model {
    /// An empty history.
    pub fn new(group: GroupId) -> Self {
        Self {
            records: Vec::new(),
            base: Seq::ZERO,
            base_hash: chain_start(group),
            base_image: vec![vec![0; VOLUME_SECTORS as usize]; VOLUMES],
            acked: Seq::ZERO,
            next_id: 1,
        }
    }

    /// A name for the content of the next write.
    pub fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Last record that was handed in.
    pub fn written(&self) -> Seq {
        Seq::from_raw(self.base.get() + self.records.len() as u64)
    }

    /// Last record that was acknowledged.
    pub fn acked(&self) -> Seq {
        self.acked
    }

    /// Takes note of a record; gives the Seq it must get.
    pub fn write(&mut self, written: Written) -> Seq {
        self.records.push(written);
        self.written()
    }

    /// Takes note that everything up to `seq` was acknowledged.
    pub fn ack(&mut self, seq: Seq) {
        self.acked = self.acked.max(seq);
    }

    /// The record with this Seq, if it is newer than the base.
    pub fn record(&self, seq: Seq) -> Option<&Written> {
        self.records.get(usize::try_from(seq.get().checked_sub(self.base.get() + 1)?).ok()?)
    }

    fn upto(&self, seq: Seq) -> &[Written] {
        let count = seq.get().saturating_sub(self.base.get()) as usize;
        &self.records[..count.min(self.records.len())]
    }

    /// h(seq).
    pub fn hash(&self, seq: Seq) -> HistoryHash {
        self.upto(seq).iter().fold(self.base_hash, chain)
    }

    /// The volumes as of `seq`, which is not before the base.
    pub fn image(&self, seq: Seq) -> Image {
        let mut image = self.base_image.clone();
        for w in self.upto(seq).iter().filter(|w| w.kind.changes_content()) {
            let from = w.extent.sector.get() as usize;
            let to = w.extent.end().get() as usize;
            image[usize::from(w.extent.volume.get())][from..to].fill(w.id);
        }
        image
    }

    /// After a power cut the history is what survived: everything past `end` never happened. What lies before `keep`
    /// is folded into the base.
    pub fn settle(&mut self, end: Seq, keep: Seq) {
        let count = end.get().saturating_sub(self.base.get()) as usize;
        self.records.truncate(count);
        let keep = keep.max(self.base).min(self.written());
        self.base_hash = self.hash(keep);
        self.base_image = self.image(keep);
        self.records.drain(..(keep.get() - self.base.get()) as usize);
        self.base = keep;
        self.acked = end;
    }
}
