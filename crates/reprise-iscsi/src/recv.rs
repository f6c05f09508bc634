//! The receive side: PDUs are cut out of one staging buffer; large data segments are read straight into the task's buffer.

use reprise_types::Mono;

use crate::conn::{CloseReason, Connection, OUT_QUEUE_BYTES_MAX, Output, Permit, Phase};
use crate::pdu::{BHS_LEN, Bhs, DATA_SEGMENT_MAX, LOGIN_DATA_SEGMENT_MAX, Reject, op, padding};
use crate::task::{State, TaskTag};

/// Size of the staging buffer: about fifteen commands with 4 KiB of immediate data in one read of the socket.
pub const STAGING_BYTES: usize = 64 << 10;
/// Its size before the login is complete, so that many who never complete one cost little: a header with everything that may
/// follow it, and more.
const STAGING_LOGIN_BYTES: usize = 4 << 10;

/// Rest of a data segment from which on it is read straight into its buffer; below, one copy is cheaper than one more
/// read of the socket.
const DIRECT_MIN: usize = 8 << 10;

/// Where the next bytes of the socket belong.
#[derive(Debug)]
pub enum RecvTarget<'a> {
    /// Into the staging buffer; never empty.
    Staging(&'a mut [u8]),
    /// Into a task's payload; never empty. Fewer bytes are fine, more must not be read.
    Payload(&'a mut [u8]),
    /// Nothing may be read until a buffer is granted, bytes were sent or a command is admitted.
    Blocked,
    /// The connection is closing.
    Closed,
}

/// Where the bytes of a data segment go.
#[derive(Debug)]
pub(crate) enum Dest {
    /// Collected for a handler: login, text and NOP data.
    Collect(Vec<u8>),
    /// Into a task's buffer from `offset`; bytes past `keep` are dropped.
    Task { tag: TaskTag, offset: u32, keep: u32 },
    /// Nowhere.
    Discard,
}

/// What happens when the segment is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Nothing,
    Handle,
    CommandData(TaskTag),
    DataOut(TaskTag),
}

pub(crate) struct Segment {
    pub bhs: Bhs,
    pub dest: Dest,
    pub then: Then,
    pub got: u32,
    /// Boxed because it is several times as large as all the rest, and rarely used.
    pub digest: Option<Box<crc_fast::Digest>>,
}

pub(crate) enum Cut {
    Header,
    Data(Segment),
}

pub(crate) struct Receiver {
    staging: Box<[u8]>,
    start: usize,
    end: usize,
    pub cut: Cut,
    direct: bool,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self { staging: vec![0; STAGING_LOGIN_BYTES].into(), start: 0, end: 0, cut: Cut::Header, direct: false }
    }

    fn available(&self) -> &[u8] {
        self.staging.get(self.start..self.end).unwrap_or(&[])
    }

    fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Makes the staging buffer as large as a session needs it.
    fn grow(&mut self) {
        if self.staging.len() < STAGING_BYTES {
            let mut staging = vec![0; STAGING_BYTES];
            if let Some(start) = staging.get_mut(..self.staging.len()) {
                start.copy_from_slice(&self.staging);
            }
            self.staging = staging.into();
        }
    }

    /// The free tail of the staging buffer; moves what is left to the front first if the tail is short.
    fn free(&mut self) -> &mut [u8] {
        if self.staging.len() - self.end < self.staging.len() / 2 {
            self.staging.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.staging.get_mut(self.end..).unwrap_or_default()
    }
}

impl Connection {
    /// True while nothing may be read.
    pub fn is_blocked(&self) -> bool {
        self.pending.is_some()
            || self.send.bytes() > OUT_QUEUE_BYTES_MAX
            || matches!(self.permit, Permit::Asked | Permit::Later(_))
    }

    /// Where to read the next bytes of the socket into; follow with [`Self::received`].
    pub fn recv_target(&mut self) -> RecvTarget<'_> {
        if matches!(self.phase, Phase::Closing(_)) {
            return RecvTarget::Closed;
        }
        if self.is_blocked() {
            return RecvTarget::Blocked;
        }
        self.receiver.direct = false;
        if !matches!(self.phase, Phase::Login(_)) {
            self.receiver.grow();
        }
        if let Cut::Data(Segment { dest: Dest::Task { tag, offset, keep }, got, .. }) = &self.receiver.cut
            && self.receiver.start == self.receiver.end
        {
            let (from, to) = ((*offset + *got) as usize, (*offset + *keep) as usize);
            if to.saturating_sub(from) >= DIRECT_MIN
                && let Some(task) = self.tasks.get_mut(*tag)
                && let State::Collect { buf, .. } = &mut task.state
                && let Some(slice) = buf.get_mut(from..to)
            {
                self.receiver.direct = true;
                return RecvTarget::Payload(slice);
            }
        }
        RecvTarget::Staging(self.receiver.free())
    }

    /// `count` bytes were read into the last target.
    pub fn received(&mut self, now: Mono, count: usize) {
        self.last_received = now;
        if self.receiver.direct {
            self.receiver.direct = false;
            if let Cut::Data(segment) = &mut self.receiver.cut {
                let from = match &segment.dest {
                    Dest::Task { tag, offset, .. } => Some((*tag, (*offset + segment.got) as usize)),
                    _ => None,
                };
                if let (Some(digest), Some((tag, from))) = (&mut segment.digest, from)
                    && let Some(task) = self.tasks.get_mut(tag)
                    && let State::Collect { buf, .. } = &task.state
                {
                    digest.update(buf.get(from..from + count).unwrap_or(&[]));
                }
                segment.got += count as u32;
            }
        } else {
            self.receiver.end = (self.receiver.end + count).min(self.receiver.staging.len());
        }
        self.process(now);
    }

    /// Takes PDUs out of the staging buffer until bytes are missing or something blocks.
    pub(crate) fn process(&mut self, now: Mono) {
        loop {
            if matches!(self.phase, Phase::Closing(_)) || self.is_blocked() {
                return;
            }
            let went_on = match &self.receiver.cut {
                Cut::Header => self.cut_header(now),
                Cut::Data(_) => self.cut_data(now),
            };
            if !went_on {
                return;
            }
        }
    }

    fn cut_header(&mut self, now: Mono) -> bool {
        let available = self.receiver.available();
        let Some(bhs) = Bhs::read(available) else { return false };
        let header_len = BHS_LEN + bhs.ahs_len();
        let digest_len = if self.send.header_digest { 4 } else { 0 };
        let Some(bytes) = available.get(..header_len + digest_len) else { return false };
        let (header, digest) = bytes.split_at(header_len);
        if digest_len > 0 && crate::pdu::crc32c(&[header]) != digest {
            // Nothing in the header can be believed, not even the length (RFC 7143, section 7.7).
            self.close(CloseReason::HeaderDigest);
            return false;
        }
        let limit = if matches!(self.phase, Phase::Login(_)) { LOGIN_DATA_SEGMENT_MAX } else { DATA_SEGMENT_MAX };
        if bhs.data_len() > limit {
            self.fail(&bhs, Reject::Protocol);
            return false;
        }
        if self.limited && bhs.opcode() == op::SCSI_COMMAND {
            if self.permit != Permit::Given {
                self.permit = Permit::Asked;
                self.outputs.push_back(Output::Admit { bytes: bhs.get32(20) });
                return false;
            }
            self.permit = Permit::NotAsked;
        }
        self.receiver.consume(header_len + digest_len);
        let (dest, then) = self.begin(now, &bhs);
        self.start_segment(bhs, dest, then);
        true
    }

    /// From here on the data segment of `bhs` is received.
    pub(crate) fn start_segment(&mut self, bhs: Bhs, dest: Dest, then: Then) {
        let with_digest = self.send.data_digest && bhs.data_len() > 0;
        let digest = with_digest.then(|| Box::new(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi)));
        self.receiver.cut = Cut::Data(Segment { bhs, dest, then, got: 0, digest });
    }

    fn cut_data(&mut self, now: Mono) -> bool {
        let receiver = &mut self.receiver;
        let Cut::Data(segment) = &mut receiver.cut else { return false };
        let len = segment.bhs.data_len();
        let available = receiver.staging.get(receiver.start..receiver.end).unwrap_or(&[]);
        let take = available.len().min((len - segment.got) as usize);
        let bytes = available.get(..take).unwrap_or(&[]);
        if take > 0 {
            if let Some(digest) = &mut segment.digest {
                digest.update(bytes);
            }
            match &mut segment.dest {
                Dest::Collect(collected) => collected.extend_from_slice(bytes),
                Dest::Discard => {}
                Dest::Task { tag, offset, keep } => {
                    let kept = take.min(keep.saturating_sub(segment.got) as usize);
                    let from = (*offset + segment.got) as usize;
                    if let Some(task) = self.tasks.get_mut(*tag)
                        && let State::Collect { buf, .. } = &mut task.state
                        && let Some(to) = buf.get_mut(from..from + kept)
                        && let Some(bytes) = bytes.get(..kept)
                    {
                        to.copy_from_slice(bytes);
                    }
                }
            }
            segment.got += take as u32;
        }
        if segment.got < len {
            receiver.consume(take);
            return false;
        }
        let pad = padding(len);
        let trailer = pad + if segment.digest.is_some() { 4 } else { 0 };
        let Some(trailer_bytes) = available.get(take..take + trailer) else {
            receiver.consume(take);
            return false;
        };
        let (pad_bytes, digest_bytes) = trailer_bytes.split_at(pad);
        let intact = segment.digest.take().is_none_or(|mut digest| {
            digest.update(pad_bytes);
            (digest.finalize() as u32).to_le_bytes() == *digest_bytes
        });
        receiver.consume(take + trailer);
        let Cut::Data(segment) = std::mem::replace(&mut receiver.cut, Cut::Header) else { return false };
        if intact {
            self.end_segment(now, segment);
        } else {
            // At error recovery level 0 nothing is retransmitted: the session starts again (RFC 7143, section 7.8).
            self.fail(&segment.bhs, Reject::DataDigest);
        }
        true
    }
}
