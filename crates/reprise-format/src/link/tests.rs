use std::path::PathBuf;

use bytes::Bytes;
use proptest::prelude::*;
use reprise_types::{
    BoxId, BranchId, ByteLen, GroupId, HistoryHash, Point, Sector, SectorCount, Seq, VolumeId, VolumeSlot, WallMicros,
};

use super::*;

fn point(seq: u64) -> Point {
    Point { branch: BranchId::from_raw([0xb1; 16]), seq: Seq::from_raw(seq), hash: HistoryHash::from_raw([0xa5; 16]) }
}

fn volume() -> Volume {
    Volume {
        id: VolumeId::from_raw([0x70; 16]),
        slot: VolumeSlot::from_raw(3),
        name: "data".into(),
        sectors: SectorCount::from_raw(1 << 21),
        lun: 0,
        block_size: 0,
        thin: false,
        read_only: false,
    }
}

fn lineage() -> Vec<BranchLink> {
    let link = |branch, parent, seq| BranchLink {
        branch: BranchId::from_raw([branch; 16]),
        parent: BranchId::from_raw([parent; 16]),
        fork_seq: Seq::from_raw(seq),
        fork_hash: HistoryHash::from_raw([seq as u8; 16]),
    };
    vec![link(0xb1, 0xb0, 40), link(0xb0, 0, 0)]
}

fn instance() -> Instance {
    Instance { acknowledged: [0x1a; 16], current: [0x1c; 16] }
}

fn state() -> GroupState {
    let group = GroupId::from_raw([0x67; 16]);
    let box_id = BoxId::from_raw([0x0b; 16]);
    let cursor = CopyCursor { slot: VolumeSlot::from_raw(3), sector: Sector::from_raw(2048) };
    GroupState {
        group,
        box_id,
        membership: Membership::Known,
        role: Side::Mirror,
        lineage: lineage(),
        durable: Some(point(70)),
        applied: Seq::from_raw(65),
        complete: true,
        copy_cursor: Some(cursor),
        copy_reach: None,
        ceded: Some(point(70)),
        hash_at_offer: Some(HistoryHash::from_raw([0xa5; 16])),
        instance: instance(),
        peer_instance_seen: Some([0x2e; 16]),
    }
}

fn verdict() -> Verdict {
    Verdict {
        row: Row::Resume,
        hash_at_state: Some(HistoryHash::from_raw([0xa5; 16])),
        hash_at_reach: None,
        start: Some(point(70)),
    }
}

fn extent() -> CopyExtent {
    CopyExtent {
        slot: VolumeSlot::from_raw(3),
        sector: Sector::from_raw(2048),
        sectors: SectorCount::from_raw(1),
        view_seq: Seq::from_raw(72),
        zero: false,
        view_hash: None,
    }
}

/// One message of every kind, every field set.
fn samples() -> Vec<(&'static str, Message, &'static [u8])> {
    let group = GroupId::from_raw([0x67; 16]);
    let box_id = BoxId::from_raw([0x0b; 16]);
    let cursor = CopyCursor { slot: VolumeSlot::from_raw(3), sector: Sector::from_raw(2048) };
    let request = |command| Message::from(Request { id: 9, command });
    let (slot, sector, sectors) = (VolumeSlot::from_raw(3), Sector::from_raw(2048), SectorCount::from_raw(1));
    let response = |outcome| Message::from(Response { id: 9, outcome });
    let mut samples: Vec<(&'static str, Message, &'static [u8])> = vec![
        (
            "hello",
            Hello {
                protocol_min: 1,
                protocol_max: 2,
                box_id,
                box_name: "alpha".into(),
                kind: HelloKind::GroupData,
                firmware: "0.1.0".into(),
                run: [0x12; 16],
            }
            .into(),
            b"",
        ),
        (
            "group_offer",
            GroupOffer {
                group,
                box_id,
                role: Side::Source,
                lineage: lineage(),
                durable: point(77),
                trimmed: point(50),
                serving: true,
                ceded: Some(point(77)),
                copy: CopyNeed::UnderWay,
                volumes: vec![volume()],
                peer_proven: Some(point(60)),
                instance: instance(),
                peer_instance_seen: Some([0x2e; 16]),
            }
            .into(),
            b"",
        ),
        ("group_state", state().into(), b""),
        ("verdict", verdict().into(), b""),
        ("batch", Batch { first: Seq::from_raw(71), last: Seq::from_raw(72) }.into(), b"the body of a batch"),
        ("copy_extent", extent().into(), &[0x5a; 512]),
        ("copy_done", CopyDone { r1: Seq::from_raw(80) }.into(), b""),
        ("copy_ack", CopyAck { cursor }.into(), b""),
        ("ack", ack(None).into(), b""),
        ("credit", Credit { bytes: 1 << 25, journal_bytes: 1 << 30 }.into(), b""),
        ("heartbeat", Heartbeat { id: 5, echo: 4 }.into(), b""),
        ("close", close(None).into(), b""),
        (
            "request_create_mirror",
            request(Command::CreateMirror(CreateMirror { group, name: "g0".into(), volumes: vec![volume()] })),
            b"",
        ),
        ("request_delete_mirror", request(Command::DeleteMirror(DeleteMirror { group, keep_image: true })), b""),
        ("request_pause_notice", request(Command::PauseNotice(PauseNotice { group, paused: true })), b""),
        ("request_box_info", request(Command::BoxInfo(BoxInfoQuery {})), b""),
        ("request_reserve_volume", request(Command::ReserveVolume(ReserveVolume { group, volume: volume() })), b""),
        ("request_forget_peer", request(Command::ForgetPeer(ForgetPeer {})), b""),
        ("response_done", response(Outcome::Done(Done {})), b""),
        (
            "response_box_info",
            response(Outcome::BoxInfo(BoxInfo {
                name: "beta".into(),
                version: "0.1.0".into(),
                data_free_bytes: ByteLen::from_raw(1 << 40),
                cache_free_bytes: ByteLen::from_raw(1 << 39),
                write_rate: ByteLen::from_raw(90 << 20),
                wall_micros: WallMicros::from_raw(1_700_000_000_000_000),
                link_address: String::new(),
                tells_groups: false,
                mirrored: vec![],
                held: vec![],
                pool: None,
            })),
            b"",
        ),
        (
            "response_box_info_link_address",
            response(Outcome::BoxInfo(BoxInfo {
                name: "beta".into(),
                version: "0.1.0".into(),
                data_free_bytes: ByteLen::from_raw(1 << 40),
                cache_free_bytes: ByteLen::from_raw(1 << 39),
                write_rate: ByteLen::from_raw(90 << 20),
                wall_micros: WallMicros::from_raw(1_700_000_000_000_000),
                link_address: "0.0.0.0:4261".into(),
                tells_groups: false,
                mirrored: vec![],
                held: vec![],
                pool: None,
            })),
            b"",
        ),
        (
            "response_box_info_groups",
            response(Outcome::BoxInfo(BoxInfo {
                name: "beta".into(),
                version: "0.1.0".into(),
                data_free_bytes: ByteLen::from_raw(1 << 40),
                cache_free_bytes: ByteLen::from_raw(1 << 39),
                write_rate: ByteLen::from_raw(90 << 20),
                wall_micros: WallMicros::from_raw(1_700_000_000_000_000),
                link_address: "0.0.0.0:4261".into(),
                tells_groups: true,
                mirrored: vec![group],
                held: vec![group, GroupId::from_raw([0x68; 16])],
                pool: None,
            })),
            b"",
        ),
        (
            "response_box_info_pool",
            response(Outcome::BoxInfo(BoxInfo {
                name: "beta".into(),
                version: "0.1.0".into(),
                data_free_bytes: ByteLen::from_raw(1 << 40),
                cache_free_bytes: ByteLen::from_raw(1 << 39),
                write_rate: ByteLen::from_raw(90 << 20),
                wall_micros: WallMicros::from_raw(1_700_000_000_000_000),
                link_address: "0.0.0.0:4261".into(),
                tells_groups: true,
                mirrored: vec![group],
                held: vec![group, GroupId::from_raw([0x68; 16])],
                pool: Some([0x70; 16]),
            })),
            b"",
        ),
        (
            "response_refused",
            response(Outcome::Refused(Refused {
                reason: RefusalReason::TooSmall,
                detail: "data half too small".into(),
                needed: ByteLen::from_raw(1 << 40),
                available: ByteLen::from_raw(1 << 30),
            })),
            b"",
        ),
        ("pair_start", PairStart { box_id, name: "alpha".into(), share: [0x41; 33] }.into(), b""),
        ("pair_share", PairShare { box_id, name: "beta".into(), share: [0x42; 33] }.into(), b""),
        ("pair_confirm", PairConfirm { mac: [0x4d; 32] }.into(), b""),
        ("pair_commit", PairCommit {}.into(), b""),
        ("pair_committed", PairCommitted {}.into(), b""),
        ("pair_refused", PairRefused { reason: PairRefusal::WrongCode }.into(), b""),
        ("verify_open", VerifyOpen { id: 5, at: point(77) }.into(), b""),
        ("verify_ready", VerifyReady { id: 5, refused: "the cache fills".into() }.into(), b""),
        ("verify_ask", VerifyAsk { id: 5, slot, sector, sectors, grain: SectorCount::from_raw(8) }.into(), b""),
        ("verify_hashes", VerifyHashes { id: 5, slot, sector, hashes: Bytes::from_static(&[0x4a; 32]) }.into(), b""),
        ("verify_fix", VerifyFix { id: 5, slot, sector, sectors }.into(), &[0x5a; 512]),
        ("verify_fixed", VerifyFixed { id: 5, slot, sector, written: sectors }.into(), b""),
        ("verify_close", VerifyClose { id: 5 }.into(), b""),
        ("batch_wanted", BatchWanted { first: Seq::from_raw(71), last: Seq::from_raw(72) }.into(), b""),
        (
            "batch_again",
            BatchAgain { first: Seq::from_raw(71), last: Seq::from_raw(72), found: true }.into(),
            b"the body of a batch",
        ),
    ];
    samples.extend(reach_samples());
    samples.extend(trouble_samples());
    samples
}

fn ack(trouble: Option<Trouble>) -> Ack {
    Ack { received: Seq::from_raw(75), durable: point(74), applied: Seq::from_raw(70), trouble }
}

fn close(trouble: Option<Trouble>) -> Close {
    Close { reason: CloseReason::Paused, detail: "by command".into(), trouble }
}

/// What was added with the state of a mirror's home and journal.
fn trouble_samples() -> [(&'static str, Message, &'static [u8]); 2] {
    let rotten = Some(Rotten { first: Seq::from_raw(71), last: Seq::from_raw(72), lost: true });
    let trouble = Trouble { home_detached: true, rotten, ..Trouble::NONE };
    let closed = Trouble { fenced: true, not_open: true, ..Trouble::NONE };
    [("ack_trouble", ack(Some(trouble)).into(), b""), ("close_trouble", close(Some(closed)).into(), b"")]
}

/// What was added with the reach of copied regions.
fn reach_samples() -> [(&'static str, Message, &'static [u8]); 3] {
    let (state, verdict, extent) = (state(), verdict(), extent());
    let hash_at_reach = Some(HistoryHash::from_raw([0xa7; 16]));
    [
        ("group_state_reach", GroupState { complete: false, copy_reach: Some(point(71)), ..state }.into(), b""),
        ("verdict_reach", Verdict { row: Row::RestartCopy, hash_at_reach, ..verdict }.into(), b""),
        (
            "copy_extent_view_hash",
            CopyExtent { view_hash: Some(HistoryHash::from_raw([0xa7; 16])), ..extent }.into(),
            &[0x5a; 512],
        ),
    ]
}

fn single_frame(message: &Message, payload: &[u8]) -> Vec<u8> {
    let meta = message.encode_meta();
    let mut whole = meta.to_vec();
    whole.extend_from_slice(payload);
    let kind = message.kind();
    Frame {
        kind,
        stream: kind.stream(),
        zstd: false,
        message_len: whole.len() as u32,
        meta_len: meta.len() as u32,
        raw_len: payload.len() as u32,
        offset: 0,
        chunk: &whole,
    }
    .encode()
}

/// The bytes of every message are kept and only ever added to. `REPRISE_GOLDEN_ADD=1` writes those that are missing; it
/// never changes one that is there.
#[test]
fn golden_bytes_of_every_message() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/link");
    let add = std::env::var_os("REPRISE_GOLDEN_ADD").is_some();
    let mut kinds = std::collections::BTreeSet::new();
    for (name, message, payload) in samples() {
        kinds.insert(message.kind().code());
        let path = dir.join(format!("v{WIRE_VERSION}_{name}.bin"));
        let bytes = single_frame(&message, payload);
        if add && !path.exists() {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        let golden = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(bytes, golden, "{name}: bytes on the wire changed");
        let (frame, consumed) = Frame::decode(&golden).unwrap().unwrap();
        assert_eq!(consumed, golden.len());
        assert!(frame.is_last());
        let (meta, rest) = frame.chunk.split_at(frame.meta_len as usize);
        assert_eq!(Message::decode_meta(frame.kind, meta).unwrap(), message, "{name}");
        assert_eq!(rest, payload, "{name}");
    }
    assert_eq!(kinds.len(), MessageKind::ALL.len(), "every kind has a sample");
}

#[test]
fn every_single_bit_error_is_found_and_every_prefix_waits() {
    let good = single_frame(&Message::from(Heartbeat { id: 5, echo: 4 }), b"");
    for len in 0..good.len() {
        assert_eq!(Frame::decode(&good[..len]), Ok(None), "prefix of {len}");
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(!matches!(Frame::decode(&bad), Ok(Some(_))), "bit {bit} accepted");
    }
}

#[test]
fn limits_hold_before_the_chunk_is_waited_for() {
    let header = |kind: MessageKind, message_len, meta_len, raw_len, offset, chunk: &[u8]| {
        Frame { kind, stream: kind.stream(), zstd: false, message_len, meta_len, raw_len, offset, chunk }
            .encode_header()
            .to_vec()
    };
    let big = vec![0u8; CHUNK_BYTES_MAX + 1];
    let cases: [(&str, Vec<u8>); 6] = [
        ("giant meta", header(MessageKind::Request, u32::MAX, u32::MAX, 0, 0, &[0; 8])),
        ("giant payload", header(MessageKind::Batch, u32::MAX, 8, u32::MAX - 8, 0, &[0; 8])),
        ("payload on control", header(MessageKind::Ack, 16, 8, 8, 0, &[0; 8])),
        ("chunk past end", header(MessageKind::Batch, 16, 8, 8, 12, &[0; 8])),
        ("chunk too long", header(MessageKind::Batch, 1 << 20, 8, (1 << 20) - 8, 0, &big)),
        ("empty chunk", header(MessageKind::Batch, 16, 8, 8, 0, &[])),
    ];
    for (name, bytes) in cases {
        let answer = Frame::decode(&bytes);
        assert!(matches!(answer, Err(FrameError::TooLong { .. } | FrameError::Lengths { .. })), "{name}: {answer:?}");
    }
    assert_eq!(Frame::decode(b"GET / HTTP/1.1\r\n"), Err(FrameError::Magic { found: *b"GET " }));
}

#[test]
fn loose_protobuf_is_refused() {
    use prost::Message as _;
    let bad_id = wire::pb::Ack {
        received: 1,
        durable: Some(wire::pb::Point { branch: vec![1; 15], seq: 1, hash: vec![0; 16] }),
        ..Default::default()
    };
    let answer = Message::decode_meta(MessageKind::Ack, &bad_id.encode_to_vec());
    assert_eq!(answer, Err(MessageError::Length { field: "Point.branch", len: 15, expected: 16 }));
    let none = Message::decode_meta(MessageKind::Ack, &[]);
    assert_eq!(none, Err(MessageError::Missing { field: "Ack.durable" }));
    let verdict = wire::pb::Verdict { row: 99, hash_at_state: vec![], start: None, hash_at_reach: vec![] };
    let answer = Message::decode_meta(MessageKind::Verdict, &verdict.encode_to_vec());
    assert_eq!(answer, Err(MessageError::Value { field: "Verdict.row", value: 99 }));
    let long = wire::pb::Close { reason: 1, detail: "x".repeat(513), trouble: None };
    let answer = Message::decode_meta(MessageKind::Close, &long.encode_to_vec());
    assert!(matches!(answer, Err(MessageError::TooLong { .. })));
}

#[test]
fn a_text_that_writes_lines_of_its_own_is_refused_and_never_sent() {
    use prost::Message as _;
    let forged = "x\n2026-11-28T03:00:00Z  INFO audit: done who=\"uid 0\" what=\"token_create\"";
    for bad in [forged, "a\rb", "\u{1b}[2Jgone", "\u{9b}2J", "a\u{2028}b", "a\u{202e}b", "a\u{2067}b", "a\0b"] {
        let close = wire::pb::Close { reason: 1, detail: bad.to_owned(), trouble: None };
        let answer = Message::decode_meta(MessageKind::Close, &close.encode_to_vec());
        assert_eq!(answer, Err(MessageError::Control { field: "Close.detail" }), "{bad:?}");
        let hello = wire::pb::PairStart { box_id: vec![1; 16], name: bad.to_owned(), share: vec![0; 33] };
        let answer = Message::decode_meta(MessageKind::PairStart, &hello.encode_to_vec());
        assert_eq!(answer, Err(MessageError::Control { field: "PairStart.name" }), "{bad:?}");
        // What this end says of its own, such as the text of an error, is cleaned.
        let ours = Message::from(Close { reason: CloseReason::Busy, detail: bad.to_owned(), trouble: None });
        let Ok(Message::Close(told)) = Message::decode_meta(MessageKind::Close, &ours.encode_meta()) else {
            panic!("{bad:?} is not cleaned")
        };
        assert_eq!(told.detail.chars().count(), bad.chars().count());
    }
    let long = Message::from(Close { reason: CloseReason::Busy, detail: "\u{e9}".repeat(300), trouble: None });
    assert!(Message::decode_meta(MessageKind::Close, &long.encode_meta()).is_ok(), "cut between characters");
}

#[test]
fn numbers_and_lists_past_their_bounds_are_refused() {
    use prost::Message as _;
    let ack = |seq: u64| {
        let durable = Some(wire::pb::Point { branch: vec![1; 16], seq, hash: vec![0; 16] });
        let raw = wire::pb::Ack { received: 1, durable, ..Default::default() };
        Message::decode_meta(MessageKind::Ack, &raw.encode_to_vec())
    };
    assert!(ack(1 << 62).is_ok());
    assert_eq!(ack((1 << 62) + 1), Err(MessageError::Value { field: "Point.seq", value: (1 << 62) + 1 }));
    assert_eq!(ack(u64::MAX), Err(MessageError::Value { field: "Point.seq", value: i64::MAX }));
    let ask = |sectors: u64, grain: u64| {
        let raw = wire::pb::VerifyAsk { id: 1, slot: 0, sector: 0, sectors, grain };
        Message::decode_meta(MessageKind::VerifyAsk, &raw.encode_to_vec())
    };
    assert!(ask(1 << 48, 1 << 48).is_ok());
    assert!(ask((1 << 48) + 1, 1).is_err() && ask(1, u64::MAX).is_err());
    let offer = |branches: usize, volumes: usize| {
        let sample = samples().into_iter().find_map(|(_, m, _)| match m {
            Message::GroupOffer(offer) => Some(offer),
            _ => None,
        });
        let sample = sample.expect("one of the samples is an offer");
        let long =
            GroupOffer { lineage: vec![lineage().remove(0); branches], volumes: vec![volume(); volumes], ..sample };
        Message::decode_meta(MessageKind::GroupOffer, &Message::from(long).encode_meta())
    };
    assert!(offer(48, 64).is_ok());
    assert_eq!(offer(49, 1), Err(MessageError::TooLong { field: "GroupOffer.lineage", len: 49, limit: 48 }));
    assert_eq!(offer(1, 65), Err(MessageError::TooLong { field: "GroupOffer.volumes", len: 65, limit: 64 }));
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), code in 1u8..=29) {
        let _ = Frame::decode(&bytes);
        let mut framed = b"RPLK\x01".to_vec();
        framed.extend_from_slice(&bytes);
        let _ = Frame::decode(&framed);
        if let Some(kind) = MessageKind::from_code(code) {
            let _ = Message::decode_meta(kind, &bytes);
        }
    }
}
