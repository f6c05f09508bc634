//! What clusters of Windows and hosts of ESXi send, command by command, replayed with the project's own initiator. None of
//! it is a test with the product itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use reprise_testkit::initiator::{Data, InitiatorError, LoginOptions, Session};
use serde_json::json;

use crate::boxes::{Appliance, BoxPlan, drained, no_errors_logged, pair, until};
use crate::faults::fail;
use crate::{Part, Setup};

const MIB: u64 = 1 << 20;
/// LUNs of the pair: fully provisioned, and thin.
const THICK: u16 = 0;
const THIN: u16 = 1;
/// Blocks of a write of these tests.
const BLOCKS: u32 = 8;
const CONFLICT: u8 = 0x18;

pub(crate) async fn run(setup: &Setup) -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut a, b) = match boxes(setup).await {
        Ok(boxes) => boxes,
        Err(error) => return vec![Part { name: "sequences", outcome: Err(error) }],
    };
    let cluster = cluster(&mut a, &b).await;
    parts.push(Part { name: "Windows cluster validation, persistent reservations", outcome: cluster });
    let thin = thin_provisioning(&a).await;
    parts.push(Part { name: "Windows thin provisioning compliance", outcome: thin });
    parts.push(Part { name: "VAAI", outcome: vaai(&a, &b).await });
    parts.push(Part { name: "RESERVE(6) of VMFS", outcome: reserve(&a).await });
    parts.push(Part { name: "aborts of ESXi", outcome: aborts(&a).await });
    let quiet = no_errors_logged(&[&a, &b], &[]).map(|()| "nothing".to_owned());
    parts.push(Part { name: "what the boxes say of it", outcome: quiet });
    parts
}

async fn boxes(setup: &Setup) -> Result<(Appliance, Appliance)> {
    let a = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "source", size: "1G" }).await?;
    let b = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "mirror", size: "1G" }).await?;
    pair(&a, &b, b.link).await?;
    for (name, thin) in [("thick", false), ("thin", true)] {
        a.done("/api/v1/volumes", json!({ "name": name, "group": "main", "size": 32 * MIB, "thin": thin })).await?;
    }
    a.done("/api/v1/mirrors", json!({ "group": "main", "peer": "mirror" })).await?;
    drained(&a, &b, "main").await?;
    Ok((a, b))
}

/// A node of the cluster: the same initiator port at every login.
async fn login(of: &Appliance, node: u16) -> Result<Session> {
    login_to(of, &of.iqn("main").await?, node).await
}

async fn login_to(of: &Appliance, target: &str, node: u16) -> Result<Session> {
    let initiator = format!("iqn.1991-05.com.microsoft:node{node}");
    let options = LoginOptions { initiator, isid: node, ..LoginOptions::new(target) };
    let session = Session::login(of.iscsi, &options).await?;
    for lun in [THICK, THIN] {
        clear_attentions(&session, lun).await?;
    }
    Ok(session)
}

/// Reads unit attentions away; a unit that is not ready, as at a mirror, has then told them.
async fn clear_attentions(session: &Session, lun: u16) -> Result<()> {
    match session.clear_attentions(lun).await {
        Err(e) if e.sense().is_some_and(|s| s.key == 2) || conflicts(&e) => Ok(()),
        other => Ok(other?),
    }
}

fn conflicts(error: &InitiatorError) -> bool {
    matches!(error, InitiatorError::Status { status: CONFLICT, .. })
}

fn sense<T>(result: Result<T, InitiatorError>) -> Result<(u8, u8, u8)> {
    match result {
        Ok(_) => bail!("the command was carried out"),
        Err(error) => {
            let s = error.sense().with_context(|| format!("no sense: {error}"))?;
            Ok((s.key, s.asc, s.ascq))
        }
    }
}

/// True if it was done, false if it conflicts with a reservation.
fn allowed<T>(result: Result<T, InitiatorError>) -> Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if conflicts(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn pattern(fill: u8, blocks: u32) -> Bytes {
    Bytes::from(vec![fill; blocks as usize * 512])
}

async fn may_write(session: &Session, lun: u16) -> Result<bool> {
    allowed(session.write(lun, 0, BLOCKS, pattern(1, BLOCKS)).await)
}

async fn may_read(session: &Session, lun: u16) -> Result<bool> {
    allowed(session.read(lun, 0, BLOCKS, 512).await)
}

/// Service actions of PERSISTENT RESERVE OUT.
#[derive(Debug, Clone, Copy)]
enum Out {
    Register = 0,
    Reserve = 1,
    Release = 2,
    Clear = 3,
    Preempt = 4,
    PreemptAndAbort = 5,
    RegisterAndIgnore = 6,
}

/// APTPL is set with registrations, as Windows does.
async fn reserve_out(
    session: &Session,
    action: Out,
    kind: u8,
    key: u64,
    action_key: u64,
) -> Result<(), InitiatorError> {
    let mut list = [key.to_be_bytes(), action_key.to_be_bytes(), [0; 8]].concat();
    list[20] = u8::from(matches!(action, Out::Register | Out::RegisterAndIgnore));
    let cdb = [0x5f, action as u8, kind, 0, 0, 0, 0, 0, 24, 0];
    session.command(THICK, &cdb, Data::Out(list.into())).await.map(drop)
}

/// Keys, and the reservation's key and type.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    keys: Vec<u64>,
    held: Option<(u64, u8)>,
}

async fn reserve_in(session: &Session) -> Result<Told> {
    let ask = async |action| {
        let answer = session.command(THICK, &[0x5e, action, 0, 0, 0, 0, 0, 1, 0, 0], Data::In(256)).await?.data;
        let len = answer.get(4..8).and_then(|l| l.try_into().ok()).map_or(0, u32::from_be_bytes) as usize;
        answer.get(8..8 + len).map(<[u8]>::to_vec).context("shorter than it says")
    };
    let key = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u64::from_be_bytes(*b));
    let mut keys: Vec<u64> = ask(0).await?.chunks_exact(8).map(key).collect();
    keys.sort_unstable();
    let held = ask(1).await?;
    Ok(Told { keys, held: held.get(13).map(|kind| (key(&held), kind & 0x0f)) })
}

const KEY_1: u64 = 0x6f6e_655f_6e6f_6465;
const KEY_2: u64 = 0x7477_6f5f_6e6f_6465;

/// For each type: may a registered node write, and read; may a stranger.
const TYPES: [(u8, [bool; 4]); 6] = [
    (1, [false, true, false, true]),
    (3, [false, false, false, false]),
    (5, [true, true, false, true]),
    (6, [true, true, false, false]),
    (7, [true, true, false, true]),
    (8, [true, true, false, false]),
];
const RELEASED: (u8, u8, u8) = (6, 0x2a, 0x04);
const PREEMPTED: (u8, u8, u8) = (6, 0x2a, 0x03);
const REGISTRATIONS_PREEMPTED: (u8, u8, u8) = (6, 0x2a, 0x05);

async fn cluster(a: &mut Appliance, b: &Appliance) -> Result<String> {
    let (one, two, stranger) = (login(a, 1).await?, login(a, 2).await?, login(a, 3).await?);
    // The target has the same name at the mirror, whose unit is unavailable and tells who holds it all the same. A session
    // there sees what was known when it logged in, so each look is one of its own.
    let target = a.iqn("main").await?;
    let at_mirror = async || reserve_in(&login_to(b, &target, 4).await.context("log in at the mirror")?).await;
    ensure!(!allowed(reserve_out(&stranger, Out::Reserve, 5, KEY_1, 0).await)?, "who is not registered reserves");
    reserve_out(&one, Out::Register, 0, 0, KEY_1).await?;
    reserve_out(&two, Out::RegisterAndIgnore, 0, 0, KEY_2).await?;
    ensure!(!allowed(reserve_out(&one, Out::Register, 0, KEY_2, KEY_1).await)?, "a registration by another's key");
    ensure!(reserve_in(&one).await? == Told { keys: vec![KEY_1, KEY_2], held: None });
    for (kind, wanted) in TYPES {
        reserve_out(&one, Out::Reserve, kind, KEY_1, 0).await?;
        let held = Some((if kind >= 7 { 0 } else { KEY_1 }, kind));
        ensure!(reserve_in(&stranger).await?.held == held, "type {kind}");
        ensure!(may_write(&one, THICK).await? && may_read(&one, THICK).await?, "type {kind}: the holder");
        let found = [
            may_write(&two, THICK).await?,
            may_read(&two, THICK).await?,
            may_write(&stranger, THICK).await?,
            may_read(&stranger, THICK).await?,
        ];
        ensure!(found == wanted, "type {kind}: {found:?}");
        ensure!(may_write(&stranger, THIN).await?, "the other unit is not reserved");
        // For all registrants every one of them holds it.
        let again = allowed(reserve_out(&two, Out::Reserve, kind, KEY_2, 0).await)?;
        ensure!(again == (kind >= 7), "type {kind}: RESERVE by the other node");
        reserve_out(&one, Out::Release, kind, KEY_1, 0).await?;
        if kind >= 5 {
            ensure!(sense(two.test_unit_ready(THICK).await)? == RELEASED, "type {kind}: nobody is told of its release");
        }
        two.test_unit_ready(THICK).await.with_context(|| format!("type {kind}: more to tell"))?;
    }
    // The disk is taken from a node that hangs.
    reserve_out(&one, Out::Reserve, 5, KEY_1, 0).await?;
    reserve_out(&two, Out::Preempt, 5, KEY_2, KEY_1).await?;
    let taken = Told { keys: vec![KEY_2], held: Some((KEY_2, 5)) };
    ensure!(reserve_in(&two).await? == taken, "PREEMPT: {:?}", reserve_in(&two).await?);
    ensure!(sense(one.test_unit_ready(THICK).await)? == REGISTRATIONS_PREEMPTED, "the node is not told");
    ensure!(!may_write(&one, THICK).await? && may_read(&one, THICK).await?, "the preempted node");
    ensure!(!allowed(reserve_out(&one, Out::Release, 5, KEY_1, 0).await)?, "it has no registration any more");
    reserve_out(&one, Out::RegisterAndIgnore, 0, 0, KEY_1).await?;
    reserve_out(&one, Out::PreemptAndAbort, 5, KEY_1, KEY_2).await?;
    ensure!(reserve_in(&one).await? == Told { keys: vec![KEY_1], held: Some((KEY_1, 5)) }, "PREEMPT AND ABORT");
    clear_attentions(&two, THICK).await?;
    reserve_out(&two, Out::Register, 0, 0, KEY_2).await?;
    let kept = Told { keys: vec![KEY_1, KEY_2], held: Some((KEY_1, 5)) };
    let arrived = until("the mirror has the reservation", async || Ok(at_mirror().await? == kept)).await?;

    a.kill()?;
    a.run().await?;
    let (one, two, stranger) = (login(a, 1).await?, login(a, 2).await?, login(a, 3).await?);
    ensure!(reserve_in(&stranger).await? == kept, "after SIGKILL: {:?}", reserve_in(&stranger).await?);
    ensure!(may_write(&one, THICK).await? && may_write(&two, THICK).await?, "registered nodes after SIGKILL");
    ensure!(!may_write(&stranger, THICK).await?, "a stranger after SIGKILL");
    reserve_out(&one, Out::Clear, 0, KEY_1, 0).await?;
    ensure!(sense(two.test_unit_ready(THICK).await)? == PREEMPTED, "nobody is told of CLEAR");
    let none = Told { keys: vec![], held: None };
    ensure!(reserve_in(&two).await? == none && may_write(&stranger, THICK).await?, "CLEAR");
    until("the mirror has none", async || Ok(at_mirror().await? == none)).await?;
    Ok(format!("six types, preempted twice, kept over SIGKILL, at the mirror after {} ms", arrived.as_millis()))
}

fn number(bytes: &[u8], at: usize, len: usize) -> Result<u64> {
    let field = bytes.get(at..at + len).with_context(|| format!("{} bytes, no field at {at}", bytes.len()))?;
    Ok(field.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
}

/// GET LBA STATUS: where, how many, and whether they are mapped.
async fn lba_status(session: &Session, lba: u64) -> Result<Vec<(u64, u64, bool)>> {
    let mut cdb = [0u8; 16];
    (cdb[0], cdb[1], cdb[12]) = (0x9e, 0x12, 4);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    let answer = session.command(THIN, &cdb, Data::In(1024)).await?.data;
    let list = answer.get(8..).unwrap_or_default();
    list.chunks_exact(16).map(|d| Ok((number(d, 0, 8)?, number(d, 8, 4)?, d[12] & 0x0f == 0))).collect()
}

async fn thin_provisioning(a: &Appliance) -> Result<String> {
    let session = login(a, 1).await?;
    let capacity = session.read_capacity(THIN).await?;
    ensure!(capacity.thin && !session.read_capacity(THICK).await?.thin, "LBPME: {capacity:?}");
    let limits = session.vital_product_data(THIN, 0xb0).await?;
    let (most, descriptors, grain) = (number(&limits, 20, 4)?, number(&limits, 24, 4)?, number(&limits, 28, 4)?);
    ensure!(most > 0 && descriptors > 0 && grain > 0 && number(&limits, 32, 1)? & 0x80 != 0, "VPD B0h: {limits:?}");
    let provisioning = session.vital_product_data(THIN, 0xb2).await?;
    let exponent = number(&provisioning, 4, 1)?;
    // LBPU, LBPWS, LBPRZ; thin. A threshold set is 2^exponent blocks.
    ensure!(number(&provisioning, 5, 1)? & 0xc4 == 0xc4 && number(&provisioning, 6, 1)? & 7 == 2, "VPD B2h");
    ensure!(exponent > 0, "no threshold sets");
    // The room is measured every 2 s; until then there is none to report.
    let mut page = Bytes::new();
    until("the room is measured", async || {
        page = session.command(THIN, &[0x4d, 0, 0x40 | 0x0c, 0, 0, 0, 0, 1, 0, 0], Data::In(256)).await?.data;
        Ok(number(&page, 8, 4)? > 0)
    })
    .await?;
    ensure!(number(&page, 0, 1)? & 0x3f == 0x0c && number(&page, 2, 2)? + 4 == page.len() as u64, "{page:?}");
    ensure!((number(&page, 4, 2)?, number(&page, 16, 2)?) == (1, 2), "available and used: {page:?}");
    let refused = session.command(THICK, &[0x4d, 0, 0x40 | 0x0c, 0, 0, 0, 0, 1, 0, 0], Data::In(256)).await;
    ensure!(sense(refused)? == (5, 0x24, 0), "a thick unit has the page");

    ensure!(lba_status(&session, 16_384).await?.first() == Some(&(16_384, capacity.blocks - 16_384, false)));
    for lba in (16_384..24_576).step_by(2048) {
        session.write(THIN, lba, 2048, pattern(0x77, 2048)).await?;
    }
    session.unmap(THIN, &[(18_432, 2048), (22_528, 1024)]).await?;
    let wanted = [
        (16_384, 2048, true),
        (18_432, 2048, false),
        (20_480, 2048, true),
        (22_528, 1024, false),
        (23_552, 1024, true),
        (24_576, capacity.blocks - 24_576, false),
    ];
    let found = lba_status(&session, 16_384).await?;
    ensure!(found == wanted, "GET LBA STATUS: {found:?}");
    ensure!(session.read(THIN, 18_432, 2048, 512).await? == pattern(0, 2048), "LBPRZ");
    ensure!(session.read(THIN, 20_480, 2048, 512).await? == pattern(0x77, 2048), "what was not unmapped");
    let behind = session.unmap(THIN, &[(capacity.blocks - 8, 16)]).await;
    ensure!(sense(behind)? == (5, 0x21, 0), "UNMAP past the end");
    Ok("VPD B0h and B2h, READ CAPACITY(16), LOG SENSE 0Ch, GET LBA STATUS, UNMAP".into())
}

/// NAA designator of a unit, from VPD 83h.
async fn naa(session: &Session, lun: u16) -> Result<Vec<u8>> {
    let page = session.vital_product_data(lun, 0x83).await?;
    let mut rest = page.get(4..).unwrap_or_default();
    while let Some((head, behind)) = rest.split_at_checked(4) {
        let (name, next) = behind.split_at_checked(usize::from(head[3])).context("VPD 83h")?;
        if head[1] & 0x3f == 3 {
            return Ok(name.to_vec());
        }
        rest = next;
    }
    bail!("no NAA in VPD 83h: {page:?}")
}

/// EXTENDED COPY as ESXi's data mover sends it: two identification descriptors, one segment.
async fn copy(session: &Session, names: [&[u8]; 2], from: u64, to: u64, blocks: u16) -> Result<(), InitiatorError> {
    let mut list = vec![1, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0];
    for name in names {
        let at = list.len();
        list.extend_from_slice(&[0xe4, 0, 0, 0, 1, 3, 0, name.len() as u8]);
        list.extend_from_slice(name);
        list.resize(at + 29, 0);
        list.extend_from_slice(&[0, 2, 0]);
    }
    list.extend_from_slice(&[0x02, 0x02, 0, 24, 0, 0, 0, 1, 0, 0]);
    list.extend_from_slice(&blocks.to_be_bytes());
    list.extend_from_slice(&[from.to_be_bytes(), to.to_be_bytes()].concat());
    let cdb = [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0, 0];
    session.command(THICK, &cdb, Data::Out(list.into())).await.map(drop)
}

async fn vaai(a: &Appliance, b: &Appliance) -> Result<String> {
    let session = login(a, 1).await?;
    // ATS: one wins, the other hears where it differs.
    let (free, taken) = (pattern(0, 1), pattern(9, 1));
    session.write(THICK, 64, 1, free.clone()).await?;
    session.compare_and_write(THICK, 64, 1, &free, &taken).await?;
    let mut wrong = taken.to_vec();
    wrong[100] ^= 1;
    let Err(lost) = session.compare_and_write(THICK, 64, 1, &wrong, &free).await else { bail!("both win") };
    let told = lost.sense().with_context(|| format!("{lost}"))?;
    ensure!((told.key, told.asc, told.ascq, told.information) == (0xe, 0x1d, 0, Some(100)), "{told:?}");
    ensure!(session.read(THICK, 64, 1, 512).await? == taken, "who lost has written");
    // Clone blocks, between units and within one.
    let content: Bytes = (0..2048u32 * 512).map(|n| (n / 512 * 7 + n) as u8).collect();
    session.write(THICK, 4096, 2048, content.clone()).await?;
    let (thick, thin) = (naa(&session, THICK).await?, naa(&session, THIN).await?);
    session.command(THICK, &[0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], Data::In(256)).await?;
    copy(&session, [&thick, &thin], 4096, 32_768, 2048).await.context("to the other unit")?;
    ensure!(session.read(THIN, 32_768, 2048, 512).await? == content, "what came to the other unit");
    copy(&session, [&thin, &thin], 32_768, 36_864, 1024).await.context("within a unit")?;
    ensure!(session.read(THIN, 36_864, 1024, 512).await? == content[..1024 * 512], "what was copied within a unit");
    let nowhere = copy(&session, [&thick, &[0x30, 1, 2, 3, 4, 5, 6, 7]], 4096, 0, 8).await;
    ensure!(sense(nowhere)?.0 == 0xa, "to a unit that there is not");
    // Zero blocks and delete blocks.
    for lun in [THICK, THIN] {
        session.write_same(lun, 4096, 1024, pattern(0, 1), false).await?;
        ensure!(session.read(lun, 4096, 1024, 512).await? == pattern(0, 1024), "WRITE SAME(16) of zeros, LUN {lun}");
    }
    ensure!(session.read(THICK, 5120, 1024, 512).await? == content[1024 * 512..], "what WRITE SAME left alone");
    session.unmap(THIN, &[(32_768, 2048)]).await?;
    ensure!(session.read(THIN, 32_768, 2048, 512).await? == pattern(0, 2048), "UNMAP");
    drained(a, b, "main").await?;
    Ok("COMPARE AND WRITE with the offset, EXTENDED COPY between units, WRITE SAME(16), UNMAP".into())
}

async fn reserve(a: &Appliance) -> Result<String> {
    let (one, two) = (login(a, 1).await?, login(a, 2).await?);
    let six = async |session: &Session, opcode: u8| session.command(THICK, &[opcode, 0, 0, 0, 0, 0], Data::None).await;
    six(&one, 0x16).await?;
    ensure!(may_write(&one, THICK).await? && !may_write(&two, THICK).await? && !may_read(&two, THICK).await?);
    ensure!(!allowed(six(&two, 0x16).await)?, "both have it");
    six(&two, 0x17).await.context("RELEASE(6) by another is GOOD")?;
    ensure!(!may_write(&two, THICK).await?, "RELEASE(6) by another ends it");
    six(&one, 0x17).await?;
    ensure!(may_write(&two, THICK).await?, "after RELEASE(6)");
    // A host that is gone leaves its reservation; another breaks it.
    six(&one, 0x16).await?;
    two.lun_reset(THICK).await?;
    clear_attentions(&two, THICK).await?;
    ensure!(may_write(&two, THICK).await?, "after LOGICAL UNIT RESET");
    Ok("taken, refused, released, broken by a reset".into())
}

/// Disks that are slow by so much: longer than ESXi's abort may take.
const STUCK: Duration = Duration::from_millis(1500);

async fn aborts(a: &Appliance) -> Result<String> {
    let (one, two) = (login(a, 1).await?, login(a, 2).await?);
    let unknown = one.abort_task(THICK, 0x1234).await;
    ensure!(matches!(unknown, Err(InitiatorError::TaskManagement { response: 1 })), "an unknown tag: {unknown:?}");
    fail(a, "main", &format!("write /cache delay={}", STUCK.as_millis())).await?;
    let start = Instant::now();
    let write = tokio::spawn(one.write(THICK, 8192, BLOCKS, pattern(0xaa, BLOCKS)));
    until("the write is under way", async || Ok(one.tags_in_flight().len() == 1)).await?;
    let [tag] = one.tags_in_flight()[..] else { bail!("the write has ended although disks are slow") };
    let aborted = one.abort_task(THICK, tag).await;
    let took = start.elapsed();
    // Aborted and never answered, or answered before and no task any more: both must be done within the disk's time.
    match (&aborted, write.await?) {
        (Ok(()), Err(InitiatorError::Aborted)) | (Err(InitiatorError::TaskManagement { response: 1 }), Ok(())) => {}
        (response, write) => bail!("ABORT TASK ended with {response:?} and the write with {write:?}"),
    }
    ensure!(took < 3 * STUCK, "ABORT TASK took {took:?}");
    let start = Instant::now();
    let write = tokio::spawn(one.write(THICK, 8192, BLOCKS, pattern(0xbb, BLOCKS)));
    until("the write is under way", async || Ok(!one.tags_in_flight().is_empty())).await?;
    // Answered in the connection's order: the target has the write, which would hear of the reset if it came after it.
    one.ping().await?;
    two.lun_reset(THICK).await?;
    let reset = start.elapsed();
    ensure!(reset < 3 * STUCK, "LOGICAL UNIT RESET took {reset:?}");
    fail(a, "main", "").await?;
    // I/O goes on in both sessions, and the reset was told to the other host.
    clear_attentions(&two, THICK).await?;
    let told = sense(one.test_unit_ready(THICK).await)?;
    ensure!(told.0 == 6 && told.1 == 0x29, "the reset was told as {told:x?}");
    one.write(THICK, 8192, BLOCKS, pattern(0xcc, BLOCKS)).await?;
    ensure!(two.read(THICK, 8192, BLOCKS, 512).await? == pattern(0xcc, BLOCKS), "I/O after aborts");
    one.ping().await?;
    write.abort();
    let what = if aborted.is_ok() { "aborted" } else { "done before its abort" };
    Ok(format!("a write {what} in {} ms, a reset in {} ms, an unknown tag", took.as_millis(), reset.as_millis()))
}
