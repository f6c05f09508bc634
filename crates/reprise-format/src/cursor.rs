//! Reading and writing little-endian fields one after the other, so that an offset always derives from the field before.

use crate::FormatError;

/// Reads fields in order; every read is checked.
pub(crate) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let short = FormatError::Short { what: self.what, need: self.at.saturating_add(N), have: self.bytes.len() };
        let end = self.at.checked_add(N).ok_or(short.clone())?;
        let out = self.bytes.get(self.at..end).and_then(|s| <[u8; N]>::try_from(s).ok()).ok_or(short)?;
        self.at = end;
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.take::<1>()?[0])
    }
    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.take()?))
    }
    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.take()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub(crate) fn magic(&mut self, magic: u32) -> Result<(), FormatError> {
        if self.u32()? == magic { Ok(()) } else { Err(FormatError::Magic { what: self.what }) }
    }

    pub(crate) fn version(&mut self, known: u16) -> Result<u16, FormatError> {
        let found = self.u16()?;
        if found == 0 || found > known {
            return Err(FormatError::Version { what: self.what, found, known });
        }
        Ok(found)
    }

    pub(crate) fn field(&self, field: &'static str, value: u64) -> FormatError {
        FormatError::Field { what: self.what, field, value }
    }
}

/// Appends fields in order.
#[derive(Default)]
pub(crate) struct Writer {
    pub(crate) out: Vec<u8>,
}

impl Writer {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }
    pub(crate) fn u16(&mut self, v: u16) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    pub(crate) fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    pub(crate) fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    pub(crate) fn pad_to(&mut self, len: usize) -> &mut Self {
        assert!(self.out.len() <= len, "{} bytes do not fit {len}", self.out.len());
        self.out.resize(len, 0);
        self
    }
}

/// CRC-32C over `bytes` with the four bytes at `hole` taken as zero.
pub(crate) fn crc_with_hole(bytes: &[u8], hole: usize) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&bytes[..hole]);
    digest.update(&[0; 4]);
    digest.update(&bytes[hole + 4..]);
    digest.finalize() as u32
}

/// Puts the checksum of `bytes` into the hole at `hole`.
pub(crate) fn fill_crc(bytes: &mut [u8], hole: usize) {
    let crc = crc_with_hole(bytes, hole);
    bytes[hole..hole + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Checks the checksum in the hole at `hole`; `bytes` must be longer than the hole's end.
pub(crate) fn check_crc(what: &'static str, bytes: &[u8], hole: usize) -> Result<(), FormatError> {
    let need = hole + 4;
    let stored = bytes.get(hole..need).and_then(|s| <[u8; 4]>::try_from(s).ok());
    let Some(stored) = stored else {
        return Err(FormatError::Short { what, need, have: bytes.len() });
    };
    let expected = u32::from_le_bytes(stored);
    let found = crc_with_hole(bytes, hole);
    if found == expected { Ok(()) } else { Err(FormatError::Checksum { what, found, expected }) }
}
