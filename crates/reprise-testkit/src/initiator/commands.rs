//! SCSI commands that tests and benchmarks use (SPC-4, SBC-3).

use bytes::{BufMut, Bytes, BytesMut};

use super::{Data, InitiatorError, Session};

/// READ CAPACITY (16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Logical blocks.
    pub blocks: u64,
    /// Bytes per logical block.
    pub block_size: u32,
    /// Thin provisioning is reported (LBPME).
    pub thin: bool,
}

impl Capacity {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(u64::from(self.block_size))
    }
}

/// Standard INQUIRY data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InquiryData {
    /// Peripheral qualifier and type byte.
    pub peripheral: u8,
    /// Vendor.
    pub vendor: String,
    /// Product.
    pub product: String,
    /// Revision.
    pub revision: String,
}

/// READ or WRITE (16) and its kin: opcode, flags, LBA, count.
fn cdb16(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0u8; 16];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).trim().to_owned()
}

fn exact(data: Bytes, wanted: usize) -> Result<Bytes, InitiatorError> {
    if data.len() == wanted { Ok(data) } else { Err(InitiatorError::Length { got: data.len(), wanted }) }
}

impl Session {
    /// WRITE (16). The block count is in blocks of the LUN; `data` must be as long.
    pub fn write(
        &self,
        lun: u16,
        lba: u64,
        blocks: u32,
        data: Bytes,
    ) -> impl Future<Output = Result<(), InitiatorError>> + Send + 'static + use<> {
        let answer = self.command(lun, &cdb16(0x8a, 0, lba, blocks), Data::Out(data));
        async { answer.await.map(drop) }
    }

    /// READ (16) of `blocks` blocks of `block_size` bytes.
    pub fn read(
        &self,
        lun: u16,
        lba: u64,
        blocks: u32,
        block_size: u32,
    ) -> impl Future<Output = Result<Bytes, InitiatorError>> + Send + 'static + use<> {
        let wanted = blocks as usize * block_size as usize;
        let answer = self.command(lun, &cdb16(0x88, 0, lba, blocks), Data::In(wanted));
        async move { exact(answer.await?.data, wanted) }
    }

    /// WRITE SAME (16) of one block of data; `unmap` sets the UNMAP bit.
    pub async fn write_same(
        &self,
        lun: u16,
        lba: u64,
        blocks: u32,
        block: Bytes,
        unmap: bool,
    ) -> Result<(), InitiatorError> {
        let flags = if unmap { 0x08 } else { 0 };
        self.command(lun, &cdb16(0x93, flags, lba, blocks), Data::Out(block)).await.map(drop)
    }

    /// WRITE SAME (16) of zeros over blocks of 512 bytes: all units take it, thin or not.
    pub async fn write_zeroes(&self, lun: u16, lba: u64, blocks: u32) -> Result<(), InitiatorError> {
        self.write_same(lun, lba, blocks, Bytes::from_static(&[0; 512]), false).await
    }

    /// UNMAP of `(lba, blocks)` ranges.
    pub async fn unmap(&self, lun: u16, ranges: &[(u64, u32)]) -> Result<(), InitiatorError> {
        let mut list = BytesMut::new();
        let descriptors = (ranges.len() * 16) as u16;
        list.put_u16(descriptors.saturating_add(6));
        list.put_u16(descriptors);
        list.put_u32(0);
        for (lba, blocks) in ranges {
            list.put_u64(*lba);
            list.put_u32(*blocks);
            list.put_u32(0);
        }
        let mut cdb = [0u8; 10];
        cdb[0] = 0x42;
        cdb[7..9].copy_from_slice(&(list.len() as u16).to_be_bytes());
        self.command(lun, &cdb, Data::Out(list.freeze())).await.map(drop)
    }

    /// COMPARE AND WRITE of `blocks` blocks; a miscompare is a CHECK CONDITION with sense key 0xe.
    pub async fn compare_and_write(
        &self,
        lun: u16,
        lba: u64,
        blocks: u8,
        compare: &[u8],
        write: &[u8],
    ) -> Result<(), InitiatorError> {
        let mut cdb = cdb16(0x89, 0, lba, 0);
        cdb[13] = blocks;
        let mut data = BytesMut::with_capacity(compare.len() + write.len());
        data.extend_from_slice(compare);
        data.extend_from_slice(write);
        self.command(lun, &cdb, Data::Out(data.freeze())).await.map(drop)
    }

    /// SYNCHRONIZE CACHE (16) of the whole LUN.
    pub async fn sync_cache(&self, lun: u16) -> Result<(), InitiatorError> {
        self.command(lun, &cdb16(0x91, 0, 0, 0), Data::None).await.map(drop)
    }

    /// TEST UNIT READY.
    pub async fn test_unit_ready(&self, lun: u16) -> Result<(), InitiatorError> {
        self.command(lun, &[0; 6], Data::None).await.map(drop)
    }

    /// TEST UNIT READY until the unit attentions of a fresh session are read away.
    pub async fn clear_attentions(&self, lun: u16) -> Result<(), InitiatorError> {
        for _ in 0..16 {
            match self.test_unit_ready(lun).await {
                Err(e) if e.sense().is_some_and(|s| s.key == 6) => {}
                other => return other,
            }
        }
        Err(InitiatorError::Protocol { what: "unit attentions without end" })
    }

    /// Standard INQUIRY.
    pub async fn inquiry(&self, lun: u16) -> Result<InquiryData, InitiatorError> {
        let data = self.command(lun, &[0x12, 0, 0, 0, 255, 0], Data::In(255)).await?.data;
        Ok(InquiryData {
            peripheral: data.first().copied().unwrap_or(0x7f),
            vendor: text(data.get(8..16)),
            product: text(data.get(16..32)),
            revision: text(data.get(32..36)),
        })
    }

    /// A vital product data page, raw.
    pub async fn vital_product_data(&self, lun: u16, page: u8) -> Result<Bytes, InitiatorError> {
        Ok(self.command(lun, &[0x12, 1, page, 4, 0, 0], Data::In(1024)).await?.data)
    }

    /// READ CAPACITY (16).
    pub async fn read_capacity(&self, lun: u16) -> Result<Capacity, InitiatorError> {
        let mut cdb = cdb16(0x9e, 0x10, 0, 32);
        cdb[1] = 0x10;
        let data = self.command(lun, &cdb, Data::In(32)).await?.data;
        let short = InitiatorError::Length { got: data.len(), wanted: 32 };
        let (Some(last), Some(size)) = (data.first_chunk::<8>(), data.get(8..12).and_then(|b| b.try_into().ok()))
        else {
            return Err(short);
        };
        Ok(Capacity {
            blocks: u64::from_be_bytes(*last).saturating_add(1),
            block_size: u32::from_be_bytes(size),
            thin: data.get(14).is_some_and(|b| b & 0x80 != 0),
        })
    }

    /// REPORT LUNS.
    pub async fn report_luns(&self) -> Result<Vec<u16>, InitiatorError> {
        let mut cdb = [0u8; 12];
        cdb[0] = 0xa0;
        cdb[6..10].copy_from_slice(&4096u32.to_be_bytes());
        let data = self.command(0, &cdb, Data::In(4096)).await?.data;
        let len = data.first_chunk::<4>().map_or(0, |b| u32::from_be_bytes(*b)) as usize;
        let list = data.get(8..).unwrap_or_default();
        let list = &list[..list.len().min(len)];
        Ok(list.chunks_exact(8).map(|l| u16::from_be_bytes([l[0] & 0x3f, l[1]])).collect())
    }
}
