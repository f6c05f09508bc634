//! The 48-byte basic header segment and what stands where in it (RFC 7143, section 11). All numbers are big-endian.

/// Length of a basic header segment.
pub const BHS_LEN: usize = 48;
/// A reserved initiator or target transfer tag.
pub const TAG_NONE: u32 = 0xffff_ffff;
/// Largest data segment we accept after login: what we declare as MaxRecvDataSegmentLength.
pub const DATA_SEGMENT_MAX: u32 = 256 << 10;
/// Largest data segment during login, before anything is negotiated (RFC 7143, section 13.12).
pub const LOGIN_DATA_SEGMENT_MAX: u32 = 8192;

/// Operation codes.
pub mod op {
    /// NOP-Out
    pub const NOP_OUT: u8 = 0x00;
    /// SCSI Command
    pub const SCSI_COMMAND: u8 = 0x01;
    /// Task Management Function Request
    pub const TMF_REQUEST: u8 = 0x02;
    /// Login Request
    pub const LOGIN_REQUEST: u8 = 0x03;
    /// Text Request
    pub const TEXT_REQUEST: u8 = 0x04;
    /// SCSI Data-Out
    pub const DATA_OUT: u8 = 0x05;
    /// Logout Request
    pub const LOGOUT_REQUEST: u8 = 0x06;
    /// SNACK Request
    pub const SNACK: u8 = 0x10;
    /// NOP-In
    pub const NOP_IN: u8 = 0x20;
    /// SCSI Response
    pub const SCSI_RESPONSE: u8 = 0x21;
    /// Task Management Function Response
    pub const TMF_RESPONSE: u8 = 0x22;
    /// Login Response
    pub const LOGIN_RESPONSE: u8 = 0x23;
    /// Text Response
    pub const TEXT_RESPONSE: u8 = 0x24;
    /// SCSI Data-In
    pub const DATA_IN: u8 = 0x25;
    /// Logout Response
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    /// Ready To Transfer
    pub const R2T: u8 = 0x31;
    /// Asynchronous Message
    pub const ASYNC: u8 = 0x32;
    /// Reject
    pub const REJECT: u8 = 0x3f;
}

/// Why a PDU is rejected (RFC 7143, section 11.17.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reject {
    /// Data (payload) digest error
    DataDigest = 0x02,
    /// SNACK reject
    Snack = 0x03,
    /// Protocol error
    Protocol = 0x04,
    /// Command not supported
    NotSupported = 0x05,
    /// Immediate command reject: too many immediate commands
    TooManyImmediate = 0x06,
    /// Invalid PDU field
    InvalidField = 0x09,
}

/// A basic header segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bhs(pub [u8; BHS_LEN]);

impl Bhs {
    /// The first 48 bytes; none if there are fewer.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().copied().map(Self)
    }

    /// A header to send: operation code, flags in byte 1, initiator task tag.
    pub fn reply(opcode: u8, flags: u8, itt: u32) -> Self {
        let mut bhs = Self([0; BHS_LEN]);
        bhs.0[0] = opcode;
        bhs.0[1] = flags;
        bhs.set32(16, itt);
        bhs
    }

    /// Operation code.
    pub fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    /// The I bit: immediate delivery.
    pub fn immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    /// Byte 1: flags of the operation code.
    pub fn flags(&self) -> u8 {
        self.0[1]
    }

    /// The F bit (T in login).
    pub fn final_bit(&self) -> bool {
        self.0[1] & 0x80 != 0
    }

    /// The C bit of login and text PDUs.
    pub fn continue_bit(&self) -> bool {
        self.0[1] & 0x40 != 0
    }

    /// Bytes of additional header segments.
    pub fn ahs_len(&self) -> usize {
        usize::from(self.0[4]) * 4
    }

    /// Bytes of data, without padding.
    pub fn data_len(&self) -> u32 {
        u32::from_be_bytes([0, self.0[5], self.0[6], self.0[7]])
    }

    /// Sets the data segment length; at most 2^24 - 1.
    pub fn set_data_len(&mut self, len: u32) {
        let [_, a, b, c] = len.to_be_bytes();
        [self.0[5], self.0[6], self.0[7]] = [a, b, c];
    }

    /// The 8-byte LUN field (ISID and TSIH in login).
    pub fn lun(&self) -> [u8; 8] {
        let mut lun = [0; 8];
        lun.copy_from_slice(&self.0[8..16]);
        lun
    }

    /// Initiator task tag.
    pub fn itt(&self) -> u32 {
        self.get32(16)
    }

    /// A byte; 0 outside.
    pub fn byte(&self, offset: usize) -> u8 {
        self.0.get(offset).copied().unwrap_or(0)
    }

    /// A 16-bit number; 0 outside.
    pub fn get16(&self, offset: usize) -> u16 {
        u16::from_be_bytes([self.byte(offset), self.byte(offset + 1)])
    }

    /// A 32-bit number; 0 outside.
    pub fn get32(&self, offset: usize) -> u32 {
        u32::from(self.get16(offset)) << 16 | u32::from(self.get16(offset + 2))
    }

    /// Writes a 32-bit number; `offset` is one of the constants of this crate, at most 44.
    pub fn set32(&mut self, offset: usize, value: u32) {
        if let Some(to) = self.0.get_mut(offset..offset + 4) {
            to.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// The CDB field of a SCSI Command.
    pub fn cdb(&self) -> &[u8] {
        &self.0[32..48]
    }
}

/// Padding after `len` bytes.
pub const fn padding(len: u32) -> usize {
    (4 - (len % 4) as usize) % 4
}

/// Serial number arithmetic of 32 bits (RFC 1982): `a < b`.
pub const fn sn_before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 0x8000_0000
}

/// CRC32C over several runs of bytes, as it stands on the wire: least significant byte first.
pub fn crc32c(parts: &[&[u8]]) -> [u8; 4] {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    (digest.finalize() as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_matches_the_examples_of_the_standard() {
        // RFC 7143, appendix A.4: 32 bytes of zeros, of ones, ascending.
        assert_eq!(crc32c(&[&[0; 32]]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(crc32c(&[&[0xff; 32]]), [0x43, 0xab, 0xa8, 0x62]);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&[&ascending[..7], &ascending[7..]]), [0x4e, 0x79, 0xdd, 0x46]);
    }

    #[test]
    fn serial_numbers_wrap() {
        assert!(sn_before(u32::MAX, 0) && sn_before(1, 2) && !sn_before(2, 2) && !sn_before(0, u32::MAX));
        assert_eq!([padding(0), padding(1), padding(4), padding(7)], [0, 3, 0, 1]);
    }

    #[test]
    fn header_fields_stand_where_the_standard_has_them() {
        let mut bhs = Bhs::reply(op::DATA_IN, 0x81, 0x01020304);
        bhs.set_data_len(0x0a0b0c);
        assert_eq!((&bhs.0[5..8], &bhs.0[16..20]), (&[0x0a, 0x0b, 0x0c][..], &[1, 2, 3, 4][..]));
        assert_eq!((bhs.data_len(), bhs.itt(), bhs.get32(99)), (0x0a0b0c, 0x01020304, 0));
    }
}
