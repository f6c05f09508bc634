//! What a group keeps in its superblock, typed.

use reprise_format::link::{BranchLink, CopyCursor, Instance, Nonce, Volume};
use reprise_format::superblock::{
    BranchBody, CopyBody, GroupBody, LUN_MAX, LegBody, PeerBody, PointBody, VOLUMES_MAX, VolumeBody,
};
use reprise_format::unit;
use reprise_format::{COUNTER_MAX, FormatError};
use reprise_link::handshake;
use reprise_types::{
    BlockFormat, BoxId, BranchId, GroupId, HistoryHash, Point, Role, SECTOR_END_MAX, Sector, SectorCount, Seq,
    UnitState, VolumeId, VolumeSlot, WallMicros,
};

/// A superblock whose fields are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// A field.
    #[error("group superblock: field {0} is missing or malformed")]
    Field(&'static str),
    /// Does not decode.
    #[error("group superblock does not decode")]
    Format(#[from] FormatError),
}

/// A line of history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch {
    /// Its id.
    pub id: BranchId,
    /// Where it left its parent; none for the first.
    pub fork: Option<Point>,
    /// Given up to the peer.
    pub ceded: bool,
}

/// A home leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegMeta {
    /// File or device.
    pub path: String,
    /// Taken as it was; never deleted with the volume.
    pub adopted: bool,
    /// Identity of file or device as the media layer names it.
    pub identity: String,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMeta {
    /// Its place in the group.
    pub slot: VolumeSlot,
    /// Its id, the same on both boxes.
    pub id: VolumeId,
    /// Size.
    pub sectors: SectorCount,
    /// Name.
    pub name: String,
    /// LUN under the group's target.
    pub lun: u16,
    /// Where its blocks live.
    pub legs: Vec<LegMeta>,
    /// Not replicated.
    pub local_only: bool,
    /// Home is sparse.
    pub thin: bool,
    /// Blocks as hosts see them.
    pub block_size: BlockFormat,
    /// Hosts may not write.
    pub read_only: bool,
    /// What the unit remembers; none for one that never had anything to.
    pub unit: Option<UnitState>,
}

/// First copy that is not complete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyState {
    /// Everything before is durable at the mirror.
    pub cursor: Option<CopyCursor>,
    /// On the mirror: what is before the cursor contains records up to here.
    pub reach: Option<Point>,
    /// R1, once known.
    pub complete_at: Option<Seq>,
}

/// What is kept about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerMeta {
    /// Which box.
    pub peer: BoxId,
    /// What it has proved to hold; none before its first copy began.
    pub durable: Option<Point>,
    /// First copy under way.
    pub copy: Option<CopyState>,
    /// Paused by a person.
    pub paused: bool,
    /// Our instance towards it.
    pub instance: Instance,
    /// Its instance as accepted last.
    pub seen: Option<Nonce>,
}

impl PeerMeta {
    /// The first copy to it is not complete.
    pub fn is_copying(&self) -> bool {
        self.durable.is_none() || self.copy.is_some()
    }
}

/// What a box is for a group, and what only a box with that role keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleMeta {
    /// Hosts write here.
    Source,
    /// Follows a source.
    Mirror {
        /// The copy, until it is complete. A mirror without history yet has a copy without cursor.
        copy: Option<CopyState>,
        /// Its source has ended the mirror, and this box took note then (its own clock; 0 where that is not known). The image
        /// stays as it is, and nothing follows any more.
        ended: Option<WallMicros>,
    },
}

impl RoleMeta {
    /// A mirror that has nothing yet.
    pub const NEW_MIRROR: Self =
        Self::Mirror { copy: Some(CopyState { cursor: None, reach: None, complete_at: None }), ended: None };
}

/// A group's superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMeta {
    /// Its id.
    pub group: GroupId,
    /// Name.
    pub name: String,
    /// What this box is for it.
    pub role: RoleMeta,
    /// Lines of history, the current one last.
    pub branches: Vec<Branch>,
    /// The journal begins behind it.
    pub trimmed: Point,
    /// Home holds everything up to here.
    pub applied: Seq,
    /// Home may hold records up to here.
    pub applying: Seq,
    /// The end as the last recovery chose it.
    pub seal: Point,
    /// Number of recoveries.
    pub incarnation: u32,
    /// Volumes by slot.
    pub volumes: Vec<VolumeMeta>,
    /// The other boxes; this version has one at most.
    pub peers: Vec<PeerMeta>,
    /// Fenced, with the reason.
    pub fenced: Option<String>,
    /// Next free slot.
    pub next_slot: u16,
    /// Segments up to this generation are of an earlier life of the group.
    pub generation_floor: u64,
}

fn id16(bytes: &[u8], field: &'static str) -> Result<[u8; 16], MetaError> {
    bytes.try_into().map_err(|_| MetaError::Field(field))
}

fn put_point(p: &Point) -> PointBody {
    PointBody { branch: p.branch.as_bytes().to_vec(), seq: p.seq.get(), hash: p.hash.as_bytes().to_vec() }
}

fn get_point(p: &PointBody, field: &'static str) -> Result<Point, MetaError> {
    Ok(Point {
        branch: BranchId::from_raw(id16(&p.branch, field)?),
        seq: get_seq(p.seq, field)?,
        hash: HistoryHash::from_raw(id16(&p.hash, field)?),
    })
}

fn get_seq(raw: u64, field: &'static str) -> Result<Seq, MetaError> {
    Seq::from_outside(raw).ok_or(MetaError::Field(field))
}

fn get_sectors(raw: u64, field: &'static str) -> Result<SectorCount, MetaError> {
    (raw <= SECTOR_END_MAX).then_some(SectorCount::from_raw(raw)).ok_or(MetaError::Field(field))
}

/// A name goes into logs and onto screens.
fn get_name(name: &str) -> Result<String, MetaError> {
    (!name.chars().any(char::is_control)).then(|| name.to_owned()).ok_or(MetaError::Field("name"))
}

fn put_copy(c: &CopyState) -> CopyBody {
    CopyBody {
        slot: c.cursor.map_or(0, |c| c.slot.get().into()),
        sector: c.cursor.map_or(0, |c| c.sector.get()),
        complete_at: c.complete_at.map_or(0, Seq::get),
        reach: c.reach.as_ref().map(put_point),
    }
}

fn get_copy(c: &CopyBody) -> Result<CopyState, MetaError> {
    let slot = u16::try_from(c.slot).map_err(|_| MetaError::Field("copy"))?;
    let sector = Sector::from_raw(get_sectors(c.sector, "copy")?.get());
    let cursor = CopyCursor { slot: VolumeSlot::from_raw(slot), sector };
    let started = c.slot != 0 || c.sector != 0;
    Ok(CopyState {
        cursor: started.then_some(cursor),
        reach: c.reach.as_ref().map(|r| get_point(r, "copy")).transpose()?,
        complete_at: Some(get_seq(c.complete_at, "copy")?).filter(|at| *at != Seq::ZERO),
    })
}

/// Nobody pauses a mirror at its own end: a release without the field says with `paused` that the source has ended it.
fn ended(body: &GroupBody) -> Option<WallMicros> {
    let paused = body.role == 2 && body.peers.iter().any(|p| p.paused);
    (body.detached_by_source || paused).then(|| WallMicros::from_raw(body.detached_wall))
}

impl GroupMeta {
    /// What this box is for the group.
    pub fn role(&self) -> Role {
        match self.role {
            RoleMeta::Source => Role::Source,
            RoleMeta::Mirror { .. } => Role::Mirror,
        }
    }

    /// The other box, if there is one.
    pub fn peer(&self) -> Option<&PeerMeta> {
        self.peers.first()
    }

    /// On a mirror: the copy, until it is complete.
    pub fn copy(&self) -> Option<CopyState> {
        match self.role {
            RoleMeta::Source => None,
            RoleMeta::Mirror { copy, .. } => copy,
        }
    }

    /// On a mirror: when this box took note that its source has ended the mirror.
    pub fn ended(&self) -> Option<WallMicros> {
        match self.role {
            RoleMeta::Source => None,
            RoleMeta::Mirror { ended, .. } => ended,
        }
    }

    pub(crate) fn copy_mut(&mut self) -> Option<&mut CopyState> {
        match &mut self.role {
            RoleMeta::Source => None,
            RoleMeta::Mirror { copy, .. } => copy.as_mut(),
        }
    }

    /// Its source has ended this mirror.
    pub(crate) fn end(&mut self, at: WallMicros) {
        if let RoleMeta::Mirror { ended, .. } = &mut self.role {
            *ended = Some(at);
        }
    }

    /// A source has no copy of its own: nothing changes there.
    pub(crate) fn set_copy(&mut self, next: Option<CopyState>) {
        if let RoleMeta::Mirror { copy, .. } = &mut self.role {
            *copy = next;
        }
    }

    /// The current branch.
    pub fn branch(&self) -> BranchId {
        self.branches.last().map_or(BranchId::NIL, |b| b.id)
    }

    /// The lineage as the link speaks of it, current branch first.
    pub fn lineage(&self) -> Vec<BranchLink> {
        let link = |b: &Branch| BranchLink {
            branch: b.id,
            parent: b.fork.map_or(BranchId::NIL, |f| f.branch),
            fork_seq: b.fork.map_or(Seq::ZERO, |f| f.seq),
            fork_hash: b.fork.map_or(HistoryHash::NIL, |f| f.hash),
        };
        self.branches.iter().rev().map(link).collect()
    }

    /// Takes over a lineage from the peer.
    pub fn set_lineage(&mut self, lineage: &[BranchLink]) {
        let branch = |l: &BranchLink| Branch {
            id: l.branch,
            fork: (!l.parent.is_nil()).then_some(Point { branch: l.parent, seq: l.fork_seq, hash: l.fork_hash }),
            ceded: false,
        };
        self.branches = lineage.iter().rev().map(branch).collect();
    }

    /// The volumes as the link speaks of them.
    pub fn link_volumes(&self) -> Vec<Volume> {
        let volume = |v: &VolumeMeta| Volume {
            id: v.id,
            slot: v.slot,
            name: v.name.clone(),
            sectors: v.sectors,
            lun: v.lun.into(),
            block_size: v.block_size.code(),
            thin: v.thin,
            read_only: v.read_only,
        };
        self.volumes.iter().map(volume).collect()
    }

    /// The volume with this slot.
    pub fn volume(&self, slot: VolumeSlot) -> Option<&VolumeMeta> {
        self.volumes.iter().find(|v| v.slot == slot)
    }

    /// True where the peer has yet to get the record.
    pub fn peer_needs(&self, seq: Seq) -> bool {
        self.peer().is_some_and(|p| p.durable.is_none_or(|d| d.seq < seq))
    }

    /// As it stands in the superblock.
    pub fn to_body(&self) -> GroupBody {
        let volume = |v: &VolumeMeta| VolumeBody {
            slot: v.slot.get().into(),
            id: v.id.as_bytes().to_vec(),
            sectors: v.sectors.get(),
            name: v.name.clone(),
            lun: v.lun.into(),
            legs: v
                .legs
                .iter()
                .map(|l| LegBody {
                    path: l.path.clone(),
                    adopted: l.adopted,
                    identity: l.identity.clone(),
                    detached: false,
                })
                .collect(),
            local_only: v.local_only,
            thin: v.thin,
            unit: v.unit.as_ref().map(unit::to_body),
            block_size: v.block_size.code(),
            read_only: v.read_only,
        };
        let peer = |p: &PeerMeta| PeerBody {
            peer: p.peer.as_bytes().to_vec(),
            durable: p.durable.as_ref().map(put_point),
            copy: p.copy.as_ref().map(put_copy),
            paused: p.paused,
            instance_acknowledged: p.instance.acknowledged.to_vec(),
            instance_current: p.instance.current.to_vec(),
            instance_seen: p.seen.map_or(Vec::new(), |s| s.to_vec()),
        };
        GroupBody {
            group: self.group.as_bytes().to_vec(),
            name: self.name.clone(),
            role: if self.role() == Role::Source { 1 } else { 2 },
            branches: self
                .branches
                .iter()
                .map(|b| BranchBody {
                    id: b.id.as_bytes().to_vec(),
                    fork: b.fork.as_ref().map(put_point),
                    ceded: b.ceded,
                })
                .collect(),
            trimmed: Some(put_point(&self.trimmed)),
            applied: self.applied.get(),
            applying: self.applying.get(),
            seal: Some(put_point(&self.seal)),
            incarnation: self.incarnation,
            volumes: self.volumes.iter().map(volume).collect(),
            peers: self.peers.iter().map(peer).collect(),
            copy: self.copy().as_ref().map(put_copy),
            fenced: self.fenced.clone().unwrap_or_default(),
            next_slot: self.next_slot.into(),
            generation_floor: self.generation_floor,
            detached_by_source: self.ended().is_some(),
            detached_wall: self.ended().map_or(0, WallMicros::get),
        }
    }

    /// From a superblock.
    ///
    /// # Errors
    /// A field that is missing or malformed.
    pub fn from_body(body: &GroupBody) -> Result<Self, MetaError> {
        let point = |p: &Option<PointBody>, f| p.as_ref().ok_or(MetaError::Field(f)).and_then(|p| get_point(p, f));
        let branches = body.branches.iter().map(|b| {
            Ok(Branch {
                id: BranchId::from_raw(id16(&b.id, "branch")?),
                fork: b.fork.as_ref().map(|f| get_point(f, "fork")).transpose()?,
                ceded: b.ceded,
            })
        });
        let narrow = |v: u32, field| u16::try_from(v).map_err(|_| MetaError::Field(field));
        let volumes = body.volumes.iter().map(|v| {
            Ok(VolumeMeta {
                slot: VolumeSlot::from_raw(narrow(v.slot, "slot")?),
                id: VolumeId::from_raw(id16(&v.id, "volume")?),
                sectors: get_sectors(v.sectors, "sectors")?,
                name: get_name(&v.name)?,
                lun: narrow(v.lun, "lun")?,
                legs: v
                    .legs
                    .iter()
                    .map(|l| LegMeta { path: l.path.clone(), adopted: l.adopted, identity: l.identity.clone() })
                    .collect(),
                local_only: v.local_only,
                thin: v.thin,
                block_size: BlockFormat::from_code(v.block_size).ok_or(MetaError::Field("block_size"))?,
                read_only: v.read_only,
                unit: v.unit.as_ref().map(unit::from_body).transpose()?,
            })
        });
        let peers = body.peers.iter().map(|p| {
            Ok(PeerMeta {
                peer: BoxId::from_raw(id16(&p.peer, "peer")?),
                durable: p.durable.as_ref().map(|d| get_point(d, "peer durable")).transpose()?,
                copy: p.copy.as_ref().map(get_copy).transpose()?,
                paused: p.paused,
                instance: Instance {
                    acknowledged: id16(&p.instance_acknowledged, "instance")?,
                    current: id16(&p.instance_current, "instance")?,
                },
                seen: if p.instance_seen.is_empty() { None } else { Some(id16(&p.instance_seen, "seen")?) },
            })
        });
        let copy = body.copy.as_ref().map(get_copy).transpose()?;
        let peers = peers.collect::<Result<Vec<_>, MetaError>>()?;
        if peers.len() > 1 {
            return Err(MetaError::Field("peers"));
        }
        let meta = Self {
            group: GroupId::from_raw(id16(&body.group, "group")?),
            name: get_name(&body.name)?,
            role: match body.role {
                1 => RoleMeta::Source,
                2 => RoleMeta::Mirror { copy, ended: ended(body) },
                _ => return Err(MetaError::Field("role")),
            },
            branches: branches.collect::<Result<_, MetaError>>()?,
            trimmed: point(&body.trimmed, "trimmed")?,
            applied: get_seq(body.applied, "applied")?,
            applying: get_seq(body.applying, "applying")?,
            seal: point(&body.seal, "seal")?,
            incarnation: body.incarnation,
            volumes: volumes.collect::<Result<_, MetaError>>()?,
            peers,
            fenced: (!body.fenced.is_empty()).then(|| body.fenced.clone()),
            next_slot: narrow(body.next_slot, "next_slot")?,
            generation_floor: body.generation_floor,
        };
        if meta.trimmed.seq > meta.applied || meta.applied > meta.applying {
            return Err(MetaError::Field("applied"));
        }
        meta.check()?;
        Ok(meta)
    }

    /// What has to hold together for a group to be opened at all: a disk may have rotted, or lie.
    fn check(&self) -> Result<(), MetaError> {
        let is_source = self.role() == Role::Source;
        if self.branches.is_empty() && is_source || !self.branches.is_empty() && !handshake::is_line(&self.lineage()) {
            return Err(MetaError::Field("branches"));
        }
        // A source's journal begins no later than what its mirror has.
        let proven = self.peer().and_then(|p| p.durable).filter(|_| is_source);
        if proven.is_some_and(|proven| proven.seq < self.trimmed.seq) {
            return Err(MetaError::Field("peer durable"));
        }
        let same = |a: &VolumeMeta, b: &VolumeMeta| a.slot == b.slot || a.lun == b.lun;
        let twice = |at: usize, v: &VolumeMeta| self.volumes.iter().skip(at + 1).any(|o| same(o, v));
        let past = |v: &VolumeMeta| v.slot.get() >= self.next_slot || v.lun > LUN_MAX;
        if self.volumes.len() > VOLUMES_MAX || self.volumes.iter().enumerate().any(|(at, v)| past(v) || twice(at, v)) {
            return Err(MetaError::Field("volumes"));
        }
        if self.generation_floor > COUNTER_MAX {
            return Err(MetaError::Field("generation_floor"));
        }
        Ok(())
    }
}
