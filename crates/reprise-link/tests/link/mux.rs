//! Chunks: queues and their bounds, what a throttle is asked for, frames that do not belong together.

use bytes::Bytes;
use reprise_format::batch::ReceivedBody;
use reprise_format::link::{
    Batch, CHUNK_BYTES_MAX, CONTROL_MESSAGE_BYTES_MAX, CopyDone, CopyExtent, FRAME_HEADER_BYTES, Frame, Message,
    MessageKind, Stream,
};
use reprise_link::mux::{
    AssembleError, Assembler, BULK_QUEUE_MAX, CONTROL_QUEUE_MAX, Muxer, Payload, QueueFull, headroom,
};
use reprise_types::{PoolBuf, SectorCount};

use crate::common::*;

fn batch() -> Message {
    Batch { first: seq(1), last: seq(1) }.into()
}

fn extent() -> Message {
    let at = cursor(3, 8);
    let sectors = SectorCount::from_raw(8);
    CopyExtent { slot: at.slot, sector: at.sector, sectors, view_seq: seq(5), zero: false, view_hash: None }.into()
}

fn alloc(len: usize) -> Option<PoolBuf> {
    Some(PoolBuf::unpooled(len))
}

fn content(len: usize) -> Bytes {
    (0..len).map(|n| (n % 251) as u8).collect::<Vec<_>>().into()
}

/// Everything that waits, as frames on the wire.
fn wire(muxer: &mut Muxer) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    loop {
        let mut out = b"before".to_vec();
        if !muxer.write_frame(&mut out) {
            assert_eq!(out, b"before", "nothing is written where nothing waits");
            return frames;
        }
        assert_eq!(&out[..6], b"before", "a frame goes behind what is there");
        frames.push(out.split_off(6));
    }
}

fn frames_of(message: &Message, payload: Bytes, compressed_from: Option<u32>) -> Vec<Vec<u8>> {
    let mut muxer = Muxer::default();
    muxer.push(message, payload, compressed_from).unwrap();
    wire(&mut muxer)
}

fn frame(bytes: &[u8]) -> Frame<'_> {
    let (frame, used) = Frame::decode(bytes).unwrap().unwrap();
    assert_eq!(used, bytes.len());
    frame
}

#[test]
fn queues_say_what_waits_in_them() {
    let mut muxer = Muxer::default();
    assert!(muxer.is_empty() && !muxer.has_control() && muxer.has_bulk_room());
    assert_eq!(muxer.next_bulk_len(), None);
    muxer.push(&batch(), content(10), None).unwrap();
    assert!(!muxer.is_empty() && !muxer.has_control() && muxer.has_bulk_room());
    muxer.push(&batch(), content(10), None).unwrap();
    assert!(!muxer.has_bulk_room());
    assert_eq!(muxer.push(&batch(), content(10), None), Err(QueueFull { stream: Stream::Bulk }));
    muxer.push(&heartbeat(1, 0), Bytes::new(), None).unwrap();
    assert!(muxer.has_control() && !muxer.is_empty());
    assert_eq!(wire(&mut muxer).len(), 3);
    assert!(muxer.is_empty() && !muxer.has_control() && muxer.has_bulk_room());
    muxer.push(&heartbeat(1, 0), Bytes::new(), None).unwrap();
    assert!(!muxer.is_empty(), "control alone is not nothing");
    muxer.push(&batch(), content(10), None).unwrap();
    muxer.abandon_bulk();
    assert!(muxer.has_control() && muxer.has_bulk_room());
    assert_eq!(wire(&mut muxer).len(), 1, "control is kept");
    for _ in 0..CONTROL_QUEUE_MAX {
        muxer.push(&heartbeat(1, 0), Bytes::new(), None).unwrap();
    }
    let full = muxer.push(&heartbeat(1, 0), Bytes::new(), None);
    assert_eq!(full, Err(QueueFull { stream: Stream::Control }));
    for _ in 0..BULK_QUEUE_MAX {
        muxer.push(&batch(), content(1), None).unwrap();
    }
}

/// A throttle pays for bulk before it is sent: for the next chunk, which may be the rest of a message.
#[test]
fn the_next_chunk_of_bulk_has_a_length_and_control_goes_first() {
    let payload = 2 * CHUNK_BYTES_MAX + 100;
    let meta = batch().encode_meta().len();
    let mut muxer = Muxer::default();
    muxer.push(&batch(), content(payload), None).unwrap();
    let mut lens = Vec::new();
    while let Some(len) = muxer.next_bulk_len() {
        let mut out = Vec::new();
        assert!(muxer.write_frame(&mut out));
        assert_eq!(out.len(), FRAME_HEADER_BYTES + len);
        lens.push(len);
        if lens.len() == 1 {
            muxer.push(&heartbeat(1, 0), Bytes::new(), None).unwrap();
            assert_eq!(muxer.next_bulk_len(), None, "control is not paid for");
            out.clear();
            assert!(muxer.write_frame(&mut out));
            assert_eq!(frame(&out).kind, MessageKind::Heartbeat);
        }
    }
    assert_eq!(lens, [CHUNK_BYTES_MAX, CHUNK_BYTES_MAX, meta + 100]);
    muxer.push(&batch(), Bytes::new(), None).unwrap();
    assert_eq!(muxer.next_bulk_len(), Some(meta), "a message without payload");
}

#[test]
fn a_message_ends_exactly_with_its_last_chunk() {
    let meta = batch().encode_meta().len();
    for (payload, chunks) in [(CHUNK_BYTES_MAX - meta, 1), (CHUNK_BYTES_MAX - meta + 1, 2), (1, 1)] {
        let frames = frames_of(&batch(), content(payload), None);
        assert_eq!(frames.len(), chunks, "{payload} bytes");
        let ends: Vec<bool> = frames.iter().map(|f| frame(f).is_last()).collect();
        assert!(ends[chunks - 1] && ends.iter().filter(|e| **e).count() == 1);
        let mut assembler = Assembler::default();
        let mut done: Vec<_> = frames.iter().map(|f| assembler.accept(&frame(f), &mut alloc).unwrap()).collect();
        let (message, Payload::Plain(buf)) = done.pop().unwrap().unwrap() else { panic!("plain") };
        assert_eq!(message, batch());
        assert!(done.iter().all(Option::is_none));
        assert_eq!(buf.len(), ReceivedBody::ROOM + payload);
        assert!(buf[ReceivedBody::ROOM..] == content(payload) && buf[..ReceivedBody::ROOM].iter().all(|b| *b == 0));
    }
}

#[test]
fn only_a_batch_has_room_in_front_of_its_payload() {
    assert_eq!((headroom(MessageKind::Batch), headroom(MessageKind::CopyExtent)), (ReceivedBody::ROOM, 0));
    let mut assembler = Assembler::default();
    let mut asked = Vec::new();
    let mut counting = |len: usize| {
        asked.push(len);
        alloc(len)
    };
    let frames = frames_of(&extent(), content(4_096), None);
    let (message, Payload::Plain(buf)) = assembler.accept(&frame(&frames[0]), &mut counting).unwrap().unwrap() else {
        panic!("plain")
    };
    assert_eq!(message, extent());
    assert!(buf[..] == content(4_096));
    let frames = frames_of(&batch(), content(512), None);
    assembler.accept(&frame(&frames[0]), &mut counting).unwrap().unwrap();
    assert_eq!(asked, [4_096, ReceivedBody::ROOM + 512]);
}

#[test]
fn a_compressed_payload_comes_through_as_it_is() {
    let sent = content(40_000);
    let frames = frames_of(&extent(), sent.clone(), Some(100_000));
    assert!(frames.len() > 2 && frames.iter().all(|f| frame(f).zstd));
    let mut assembler = Assembler::default();
    let mut none = |_: usize| -> Option<PoolBuf> { panic!("what is compressed needs no aligned buffer") };
    let mut last = None;
    for bytes in &frames {
        last = assembler.accept(&frame(bytes), &mut none).unwrap();
    }
    match last {
        Some((message, Payload::Zstd { bytes, raw_len })) => {
            assert_eq!((message, raw_len), (extent(), 100_000));
            assert!(bytes == sent);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_streams_are_put_together_side_by_side() {
    let bulk = frames_of(&batch(), content(30_000), None);
    let control = frames_of(&heartbeat(5, 6), Bytes::new(), None);
    let mut assembler = Assembler::default();
    assert!(assembler.accept(&frame(&bulk[0]), &mut alloc).unwrap().is_none());
    let (message, payload) = assembler.accept(&frame(&control[0]), &mut alloc).unwrap().unwrap();
    assert_eq!(message, heartbeat(5, 6));
    assert!(matches!(payload, Payload::None));
    let done = assembler.accept(&frame(&bulk[1]), &mut alloc).unwrap().unwrap();
    assert_eq!(done.0, batch());
    let end = frames_of(&CopyDone { r1: seq(7) }.into(), Bytes::new(), None);
    let (message, payload) = assembler.accept(&frame(&end[0]), &mut alloc).unwrap().unwrap();
    assert_eq!(message, CopyDone { r1: seq(7) }.into());
    assert!(matches!(payload, Payload::None), "nothing stands beside it");
}

#[test]
fn a_chunk_continues_the_message_that_is_under_way_and_no_other() {
    let frames = frames_of(&batch(), content(40_000), None);
    let (first, second) = (frame(&frames[0]), frame(&frames[1]));
    let chunk = CHUNK_BYTES_MAX as u32;
    let cases = [
        ("another kind", Frame { kind: MessageKind::CopyExtent, ..second }),
        ("compressed", Frame { zstd: true, ..second }),
        ("another length", Frame { message_len: second.message_len + 1, ..second }),
        ("another meta length", Frame { meta_len: second.meta_len + 1, ..second }),
        ("another raw length", Frame { raw_len: second.raw_len + 1, ..second }),
        ("a gap", Frame { offset: chunk + 1, ..second }),
        ("an overlap", Frame { offset: chunk - 1, ..second }),
    ];
    for (name, wrong) in cases {
        let mut assembler = Assembler::default();
        assembler.accept(&first, &mut alloc).unwrap();
        let refused = assembler.accept(&wrong, &mut alloc).unwrap_err();
        let expected = AssembleError::Chunk { kind: wrong.kind, offset: wrong.offset, expected: chunk };
        assert_eq!(refused, expected, "{name}");
        assert!(assembler.accept(&second, &mut alloc).unwrap().is_none(), "{name}: the right one still fits");
    }
    let refused = Assembler::default().accept(&second, &mut alloc).unwrap_err();
    assert_eq!(refused, AssembleError::Chunk { kind: MessageKind::Batch, offset: chunk, expected: 0 }, "a middle");
}

#[test]
fn a_control_message_has_a_bound_of_its_own() {
    let bytes = vec![0; CHUNK_BYTES_MAX];
    let frame = |kind: MessageKind, len: u32| Frame {
        kind,
        stream: kind.stream(),
        zstd: false,
        message_len: len,
        meta_len: if kind.has_payload() { 10 } else { len },
        raw_len: if kind.has_payload() { len - 10 } else { 0 },
        offset: 0,
        chunk: &bytes,
    };
    let max = CONTROL_MESSAGE_BYTES_MAX;
    let accept = |frame: &Frame<'_>| Assembler::default().accept(frame, &mut alloc).map(|done| done.is_some());
    assert_eq!(accept(&frame(MessageKind::Response, max)), Ok(false));
    assert_eq!(accept(&frame(MessageKind::Response, max + 1)), Err(AssembleError::ControlTooLong { len: max + 1 }));
    assert_eq!(accept(&frame(MessageKind::Batch, max + 1)), Ok(false), "bulk may be longer");
}

#[test]
fn a_message_that_found_no_buffer_is_taken_at_the_next_try() {
    let frames = frames_of(&batch(), content(600), None);
    let mut assembler = Assembler::default();
    for _ in 0..3 {
        let waits = assembler.accept(&frame(&frames[0]), &mut |_| None).unwrap_err();
        assert_eq!(waits, AssembleError::NoBuffer { len: ReceivedBody::ROOM + 600 });
    }
    assert!(assembler.accept(&frame(&frames[0]), &mut alloc).unwrap().is_some());
}
