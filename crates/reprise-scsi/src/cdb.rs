//! Reading of big-endian fields in command descriptor blocks and parameter data.

/// A command descriptor block of up to 16 bytes, padded with zeros. Every command of the table fits; of a longer one
/// (opcode 7Fh) only the operation code is looked at, and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cdb([u8; 16]);

impl Cdb {
    /// Takes the first 16 bytes; a shorter block is padded with zeros.
    pub fn new(bytes: &[u8]) -> Self {
        let mut cdb = [0; 16];
        for (to, from) in cdb.iter_mut().zip(bytes) {
            *to = *from;
        }
        Self(cdb)
    }

    /// The operation code.
    pub fn opcode(&self) -> u8 {
        self.0[0]
    }

    /// The service action, for operation codes that have one in byte 1.
    pub fn service_action(&self) -> u8 {
        self.0[1] & 0x1f
    }

    /// One byte; 0 past the end.
    pub fn byte(&self, offset: usize) -> u8 {
        self.0.get(offset).copied().unwrap_or(0)
    }

    /// True if bit `bit` of byte `offset` is set.
    pub fn bit(&self, offset: usize, bit: u8) -> bool {
        self.byte(offset) & (1 << bit) != 0
    }

    /// A big-endian number of at most 8 bytes.
    pub fn be(&self, offset: usize, len: usize) -> u64 {
        be(&self.0, offset, len)
    }
}

/// A big-endian number of at most 8 bytes inside `bytes`; what lies past the end reads as 0.
pub(crate) fn be(bytes: &[u8], offset: usize, len: usize) -> u64 {
    (offset..offset.saturating_add(len)).fold(0, |n, i| (n << 8) | u64::from(bytes.get(i).copied().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_big_endian_and_never_out_of_bounds() {
        let cdb = Cdb::new(&[0x28, 0, 1, 2, 3, 4]);
        assert_eq!(cdb.be(2, 4), 0x0102_0304);
        assert_eq!(cdb.be(14, 8), 0);
        assert_eq!(cdb.byte(99), 0);
    }
}
