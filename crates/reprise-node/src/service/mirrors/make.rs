//! A mirror of a peer's group is made on this box.

use std::ops::ControlFlow;
use std::sync::Arc;

use reprise_api::{ApiError, Name};
use reprise_engine::{GroupMeta, LegMeta, PeerMeta, RoleMeta, VolumeMeta};
use reprise_format::link::{CreateMirror, RefusalReason, Refused, Volume};
use reprise_format::superblock::{LUN_MAX, VOLUMES_MAX};
use reprise_link::instance;
use reprise_types::{BlockFormat, BoxId, ByteLen, Point, SECTOR_END_MAX, Seq, VolumeSlot};

use super::{is_fresh, reason_of, refused};
use crate::group::HomeMedia;
use crate::pool::{DataHalf, HomeName, Make};
use crate::service::groups::Running;
use crate::service::told::Message;
use crate::service::turn::Changing;
use crate::service::volumes::data_error;
use crate::service::{Inner, blocking, budget, locked, random16};

impl Inner {
    pub(super) async fn create_mirror(
        self: &Arc<Self>,
        change: &Changing<'_>,
        peer: BoxId,
        create: CreateMirror,
    ) -> Result<(), Refused> {
        if self.store.peer(peer).is_none() {
            return Err(refused(RefusalReason::OtherPeer, "this box has removed the other from its peers"));
        }
        let name: Name = create.name.parse().map_err(|_| refused(RefusalReason::Invalid, "no name of a group"))?;
        check_volumes(&create.volumes)?;
        if let Some(known) = self.running_by_id(create.group) {
            return already_there(&known, peer, &create);
        }
        if locked(&self.groups).contains_key(&create.group) {
            return Err(refused(RefusalReason::HasImage, "the group is here and does not run"));
        }
        if locked(&self.groups).values().any(|e| e.name == name) {
            let text = format!("there is another group {name} on this box");
            return Err(refused(RefusalReason::NameTaken, &text));
        }
        if let Some(volume) = create.volumes.iter().find(|v| self.volume_name_taken(&v.name)) {
            let text = format!("there is another volume {} on this box", volume.name);
            return Err(refused(RefusalReason::NameTaken, &text));
        }
        let needed: u64 = create.volumes.iter().map(|v| v.sectors.bytes().get()).fold(0, u64::saturating_add);
        self.within_share(peer, 1, needed).map_err(|r| self.tell_refused(peer, name.as_str(), r))?;
        // Each makes files and takes a slot: a loop of them is none that anybody runs.
        if self.budget(peer, "mirror-made") != budget::Verdict::Told {
            return Err(refused(RefusalReason::TooMany, "too many mirrors were made in a short time"));
        }
        let available = self.data_room().map_err(|e| refused(RefusalReason::Io, &e.message))?;
        if needed > available {
            return Err(Refused {
                reason: RefusalReason::TooSmall,
                detail: "the data half is too small".to_owned(),
                needed: ByteLen::from_raw(needed),
                available: ByteLen::from_raw(available),
            });
        }
        let random = random16().map_err(|e| refused(RefusalReason::Io, &e.message))?;
        let (inner, group, volumes) = (self.clone(), name.to_string(), create.volumes.clone());
        let made = blocking(move || make_homes(inner.pool.data(), &group, &volumes)).await;
        let (volumes, homes) = made.map_err(|e| refused(reason_of(&e), &e.message))?;
        let legs: Vec<LegMeta> = volumes.iter().flat_map(|v| v.legs.iter().cloned()).collect();
        let meta = mirror_meta(&create, volumes, peer, random);
        if let Err(error) = self.make_group(change, meta, homes).await {
            legs.iter().for_each(|leg| self.remove_home(&leg.path, &leg.identity));
            return Err(refused(reason_of(&error), &error.message));
        }
        let message = Message::MirrorCreated { group: name.as_str(), peer: &self.peer_name(peer) };
        self.event_of(peer, message.about(format!("group {name}")));
        Ok(())
    }
}

/// A repeated command, whose first answer was lost, is done already.
fn already_there(known: &Running, peer: BoxId, create: &CreateMirror) -> Result<(), Refused> {
    let meta = known.now().meta;
    if meta.peer().is_none_or(|p| p.peer != peer) {
        return Err(refused(RefusalReason::OtherPeer, "the group belongs to another pair"));
    }
    // How hosts see them may differ: what this box cannot give, or a volume that was made read-only since.
    let bytes = |v: &Volume| (v.id, v.slot, v.name.clone(), v.sectors);
    let same = meta.link_volumes().iter().map(bytes).eq(create.volumes.iter().map(bytes));
    if same && is_fresh(&meta) {
        return Ok(());
    }
    Err(refused(RefusalReason::HasImage, "there is an image of the group on this box"))
}

fn check_volumes(volumes: &[Volume]) -> Result<(), Refused> {
    let invalid = |text: &str| Err(refused(RefusalReason::Invalid, text));
    if volumes.is_empty() || volumes.len() > VOLUMES_MAX {
        return invalid("a group has 1 to 64 volumes");
    }
    for (at, volume) in volumes.iter().enumerate() {
        let earlier = &volumes[..at];
        if earlier.iter().any(|v| v.slot == volume.slot || v.id == volume.id || v.name == volume.name) {
            return invalid("two volumes have the same slot, identity or name");
        }
        if volume.slot.get() == u16::MAX {
            return invalid("no slot of a volume: another one could not follow");
        }
        if volume.lun > LUN_MAX.into() || earlier.iter().any(|v| v.lun == volume.lun) {
            return invalid("no LUN of a volume, or twice the same");
        }
        if BlockFormat::from_code(volume.block_size).is_none() {
            return invalid("blocks of a size that this version does not know");
        }
        if volume.name.parse::<Name>().is_err() {
            return invalid("no name of a volume");
        }
        if volume.sectors.get() == 0 || volume.sectors.get() > SECTOR_END_MAX {
            return invalid("no size of a volume");
        }
    }
    Ok(())
}

/// Makes the homes of a mirror, all or none.
fn make_homes(data: &DataHalf, group: &str, volumes: &[Volume]) -> Result<(Vec<VolumeMeta>, Vec<HomeMedia>), ApiError> {
    let (mut metas, mut homes) = (Vec::new(), Vec::new());
    for volume in volumes {
        let name = HomeName { group, volume: &volume.name, id: volume.id };
        let made = data.create(name, volume.sectors.bytes(), Make::Reserved, &mut |_| ControlFlow::Continue(()));
        let home = match made {
            Ok(home) => home,
            Err(error) => {
                for leg in metas.iter().flat_map(|m: &VolumeMeta| &m.legs) {
                    if let Err(error) = data.remove(&leg.path, &leg.identity) {
                        tracing::warn!(leg.path, error = &error as &dyn std::error::Error, "unused home stays");
                    }
                }
                return Err(data_error(&error));
            }
        };
        metas.push(VolumeMeta {
            slot: volume.slot,
            id: volume.id,
            sectors: volume.sectors,
            name: volume.name.clone(),
            lun: u16::try_from(volume.lun).unwrap_or(u16::MAX),
            legs: vec![LegMeta { path: home.path, adopted: false, identity: home.identity }],
            local_only: false,
            // Its home is thick, but hosts are told the same on both boxes.
            thin: volume.thin && !data.is_raw(),
            block_size: BlockFormat::from_code(volume.block_size).unwrap_or_default(),
            read_only: volume.read_only,
            unit: None,
        });
        homes.push(HomeMedia { slot: volume.slot, media: home.media });
    }
    Ok((metas, homes))
}

/// A mirror without history yet: its journal begins where the copy begins.
fn mirror_meta(create: &CreateMirror, volumes: Vec<VolumeMeta>, peer: BoxId, random: [u8; 16]) -> GroupMeta {
    let next_slot = volumes.iter().map(|v| v.slot).max().unwrap_or(VolumeSlot::default()).get().saturating_add(1);
    GroupMeta {
        group: create.group,
        name: create.name.clone(),
        role: RoleMeta::NEW_MIRROR,
        branches: Vec::new(),
        trimmed: Point::default(),
        applied: Seq::ZERO,
        applying: Seq::ZERO,
        seal: Point::default(),
        incarnation: 0,
        volumes,
        peers: vec![PeerMeta {
            peer,
            durable: None,
            copy: None,
            paused: false,
            instance: instance::first(random),
            seen: None,
        }],
        fenced: None,
        next_slot,
        generation_floor: 0,
    }
}

#[cfg(test)]
mod tests {
    use reprise_types::{GroupId, SectorCount, VolumeId};

    use super::*;

    fn volume(n: u8) -> Volume {
        Volume {
            id: VolumeId::from_raw([n; 16]),
            slot: VolumeSlot::from_raw(n.into()),
            name: format!("v{n}"),
            sectors: SectorCount::from_raw(2048),
            lun: n.into(),
            block_size: 0,
            thin: false,
            read_only: false,
        }
    }

    #[test]
    fn what_a_peer_may_ask_for_is_checked() {
        assert!(check_volumes(&[volume(1), volume(2)]).is_ok());
        assert!(check_volumes(&[]).is_err());
        assert!(check_volumes(&[volume(1), volume(1)]).is_err());
        assert!(check_volumes(&[Volume { name: "../x".into(), ..volume(1) }]).is_err());
        assert!(check_volumes(&[Volume { sectors: SectorCount::ZERO, ..volume(1) }]).is_err());
        let many: Vec<Volume> = (0..65).map(volume).collect();
        assert!(check_volumes(&many).is_err());
    }

    #[test]
    fn homes_of_a_mirror_are_made_all_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataHalf::Folder(dir.path().to_owned());
        let volumes = [volume(1), volume(2)];
        let (metas, homes) = make_homes(&data, "pg", &volumes).unwrap();
        assert_eq!((metas.len(), homes.len()), (2, 2));
        let create = CreateMirror { group: GroupId::from_raw([3; 16]), name: "pg".into(), volumes: volumes.to_vec() };
        let meta = mirror_meta(&create, metas, BoxId::from_raw([4; 16]), [5; 16]);
        assert_eq!(meta.link_volumes(), create.volumes);
        assert_eq!(meta.next_slot, 3);
        assert_eq!(GroupMeta::from_body(&meta.to_body()).unwrap(), meta);
        drop(homes);
        std::fs::remove_file(&meta.volumes[0].legs[0].path).unwrap();
        let error = make_homes(&data, "pg", &volumes).unwrap_err();
        assert_eq!(reason_of(&error), RefusalReason::HasImage);
        assert!(!std::path::Path::new(&meta.volumes[0].legs[0].path).exists(), "what was made is taken back");
    }
}
