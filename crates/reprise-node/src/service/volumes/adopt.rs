//! Devices, images and areas that become volumes as they are.

use std::path::PathBuf;
use std::sync::Arc;

use reprise_api::{ApiError, ErrorCode, VolumeAdopt, VolumeKind, VolumeStarted};
use reprise_media::{Content, Media, MediaKind, MediaOptions, Signature};
use reprise_types::VolumeId;

use super::errors::{data_error, media_error};
use crate::pool::{DataHalf, Home};
use crate::service::groups::Entry;
use crate::service::turn::{Changing, Task};
use crate::service::{Inner, blocking, locked, random16};

/// Format of an image that is something else than the bytes that hosts see, and what to do. LUKS is both: hosts encrypt
/// their volumes, so that it is a format in files from elsewhere only.
fn not_raw(data: &DataHalf, media: &Media, content: &Content) -> Option<(&'static str, String)> {
    let own = matches!(data, DataHalf::Folder(folder) if media.path().starts_with(folder));
    let convert = "convert it first: qemu-img convert -O raw";
    content.signatures.iter().find_map(|signature| match signature {
        Signature::Image(format) => Some((*format, format!("{convert} -f {format}"))),
        Signature::Encrypted("luks") if media.kind() == MediaKind::File && !own => {
            let what = "if hosts shall decrypt it, adopt it by a loop device: losetup -f --show; or";
            Some(("luks", format!("{what} {convert} --image-opts driver=luks,...")))
        }
        _ => None,
    })
}

impl Inner {
    /// Takes an existing device or image as it is.
    pub(in crate::service) async fn adopt_volume(
        self: Arc<Self>,
        mut task: Task,
        request: VolumeAdopt,
    ) -> Result<VolumeStarted, ApiError> {
        let mut command = task.command().await;
        let change = command.change().await;
        self.check_new_name(&request.name)?;
        let bad = |text: String, what: &str| ApiError::new(ErrorCode::DeviceUnusable, text, what);
        if !request.path.is_absolute() {
            return Err(ApiError::new(ErrorCode::BadRequest, "the path is not absolute", "start it with a /"));
        }
        let Some(text) = request.path.to_str().map(str::to_owned) else {
            return Err(bad("the path is not UTF-8".to_owned(), "rename the file, or use another link to the device"));
        };
        let known = self.volume_statuses().into_iter().find(|v| v.home == text);
        if let Some(volume) = known {
            let message = format!("{text} is the home of volume {} already", volume.name);
            return Err(ApiError::new(ErrorCode::InUse, message, "use that volume, or remove it first"));
        }
        if let Some(area) = self.pool.data().area_at(&text) {
            return self.adopt_area(&change, request, area.map_err(|e| data_error(&e))?).await;
        }
        let path = request.path.clone();
        let (media, content) = blocking(move || {
            let media = Media::open(&path, MediaOptions::exclusive()).map_err(|e| media_error(&e))?;
            let content = media.probe_blocking().map_err(|e| media_error(&e))?;
            Ok((media, content))
        })
        .await?;
        let size = media.size();
        if size.get() == 0 || size.sectors().is_none() {
            let message = format!("{text} has {size} bytes, which is no multiple of 512");
            return Err(bad(message, "grow it to a multiple of 512 bytes: truncate -s %4096"));
        }
        if let Some((format, what)) = not_raw(self.pool.data(), &media, &content) {
            let message = format!("{text} is a {format} image; a volume is taken as it is, byte for byte");
            return Err(bad(message, &what));
        }
        let home = Home { path: text, identity: media.identity().to_string(), media };
        self.take_home(&change, &request, VolumeKind::Adopted, &home).await
    }

    /// Makes a volume of a home as it is.
    async fn take_home(
        self: &Arc<Self>,
        change: &Changing<'_>,
        request: &VolumeAdopt,
        kind: VolumeKind,
        home: &Home,
    ) -> Result<VolumeStarted, ApiError> {
        let (group, id) = (self.group_or_new(change, &request.group).await?, random16());
        let added = async {
            self.takes_volumes(&group)?;
            let (id, size, path) = (VolumeId::from_raw(id?), home.media.size().get(), PathBuf::from(&home.path));
            let (status, _reserved) = self.reserve(&group, &request.name, size, kind, request.local_only, &path, id);
            self.add_volume(&group, &status, kind == VolumeKind::Adopted, home).await
        };
        if let Err(error) = added.await {
            self.withdraw_group(change, &group).await;
            return Err(error);
        }
        Ok(VolumeStarted { volume: self.shown_volume(&request.name)?, job: None })
    }

    /// Takes an area of the data half that no volume uses, as it is. It was made by this box: it is thick, and may be
    /// erased.
    async fn adopt_area(
        self: &Arc<Self>,
        change: &Changing<'_>,
        request: VolumeAdopt,
        home: Home,
    ) -> Result<VolumeStarted, ApiError> {
        // A volume that does not run may own it, and one that is being made has no path yet.
        let owned = self.area_owner(&home.identity);
        if let Some(owner) = owned {
            let text = format!("{} is the home of volume {owner} already", home.path);
            return Err(ApiError::new(ErrorCode::InUse, text, "use that volume, or remove it first"));
        }
        self.take_home(change, &request, VolumeKind::Thick, &home).await
    }

    /// Name of the volume whose home is this area.
    fn area_owner(&self, identity: &str) -> Option<String> {
        let metas: Vec<_> = locked(&self.groups).values().filter_map(Entry::meta).collect();
        let volumes = metas.iter().flat_map(|m| &m.volumes);
        volumes.clone().find(|v| v.legs.iter().any(|l| l.identity == identity)).map(|v| v.name.clone())
    }

    /// Areas of a raw data half that no volume uses, as far as the groups that can be read tell: place and size.
    pub(in crate::service) fn spare_areas(&self) -> Vec<(String, String, u64)> {
        let groups = locked(&self.groups);
        let metas: Vec<_> = groups.values().map(Entry::meta).collect();
        drop(groups);
        if metas.iter().any(Option::is_none) || !locked(&self.preparing).is_empty() {
            // What a group that cannot be read owns is not known.
            return Vec::new();
        }
        let homes: Vec<String> = metas
            .into_iter()
            .flatten()
            .flat_map(|m| m.volumes.iter().flat_map(|v| v.legs.iter().map(|l| l.path.clone())).collect::<Vec<_>>())
            .collect();
        self.pool.data().areas().into_iter().filter(|(_, path, _)| !homes.contains(path)).collect()
    }
}
