//! Volumes of an app: `volume` and `volumes`, their sizes, names and ids.

use std::path::{Component, Path, PathBuf};

use flocker_api::{
    container::Mount,
    name::{AppName, VolumeId, VolumeName},
};
use uuid::Uuid;

use super::{
    error::Problem,
    keys, quantity,
    reader::{Fields, Reader},
    yaml::{Kind, Mark, Node, Value},
};

/// Volumes without a `dataset_id` get the UUIDv5 of `APP/INDEX` in this namespace, so that the
/// same files always mean the same volumes. Changing it would orphan the volumes of everyone.
const VOLUME_NAMESPACE: Uuid = Uuid::from_u128(0x0b5b_5b1e_53c6_4d5c_9f0a_7c1d_6e0f_10c4);

/// A volume as it is declared.
pub(super) struct DeclaredVolume {
    pub(super) at: Mark,
    pub(super) mountpoint: PathBuf,
    pub(super) size: Option<u64>,
    pub(super) id: Option<VolumeId>,
    /// A name of its own; else it is called like its app.
    pub(super) name: Option<VolumeName>,
}

impl Reader<'_> {
    /// `volume`, then the entries of `volumes`: their order gives them their names and ids.
    pub(super) fn volumes(&mut self, fields: &Fields<'_>, path: &str) -> Vec<DeclaredVolume> {
        let mut volumes = Vec::new();
        if let Some(node) = fields.get("volume") {
            volumes.extend(self.volume(node, fields.at("volume"), &format!("{path}.volume")));
        }
        let path = format!("{path}.volumes");
        let items = fields
            .get("volumes")
            .and_then(|node| self.list(node, &path, "mappings {mountpoint: PATH, ...}"));
        for (index, item) in items.unwrap_or_default().iter().enumerate() {
            volumes.extend(self.volume(item, item.at, &format!("{path}[{index}]")));
        }
        self.distinct_mountpoints(&volumes);
        volumes
    }

    /// Refuses two volumes at one place of the container.
    pub(super) fn distinct_mountpoints(&mut self, volumes: &[DeclaredVolume]) {
        for (index, volume) in volumes.iter().enumerate() {
            let same = |other: &&DeclaredVolume| other.mountpoint == volume.mountpoint;
            if let Some(first) = volumes[..index].iter().find(same) {
                let what = format!("mountpoint {}", volume.mountpoint.display());
                let first = self.place(first.at);
                self.note(volume.at, Problem::Repeated { what, first });
            }
        }
    }

    fn volume(&mut self, node: &Node, at: Mark, path: &str) -> Option<DeclaredVolume> {
        const MOUNTPOINT: &str = "an absolute path in the container, such as /data, in ASCII";
        let fields = self.fields(node, at, path, keys::APP_VOLUME)?;
        let size = fields
            .get("maximum_size")
            .and_then(|node| self.size(node, &format!("{path}.maximum_size")));
        let id = fields.get("dataset_id").and_then(|node| {
            let path = format!("{path}.dataset_id");
            self.parsed::<VolumeId>(node, &path, "a UUID")
        });
        let node = self.required(&fields, path, "mountpoint", MOUNTPOINT)?;
        let path = format!("{path}.mountpoint");
        let text = self.text(node, &path, MOUNTPOINT)?;
        let Some(mountpoint) = mountpoint(text) else {
            self.bad(node, &path, MOUNTPOINT);
            return None;
        };
        Some(DeclaredVolume {
            at,
            mountpoint,
            size,
            id,
            name: None,
        })
    }

    fn size(&mut self, node: &Node, path: &str) -> Option<u64> {
        let Value::Scalar(scalar) = &node.value else {
            self.wrong_type(node, path, quantity::SIZE_EXPECTED);
            return None;
        };
        if node.kind() != Kind::Text {
            self.wrong_type(node, path, quantity::SIZE_EXPECTED);
            return None;
        }
        let size = quantity::size_bytes(&scalar.text);
        if size.is_none() {
            self.bad(node, path, quantity::SIZE_EXPECTED);
        }
        size
    }

    /// Names and ids for the volumes: the first is called like its app, the others `APP-2`, ...
    /// One that has a name of its own is the one that the cluster knows by it: its id is left
    /// open (nil).
    pub(super) fn mounts(
        &mut self,
        app: &AppName,
        volumes: &[DeclaredVolume],
        path: &str,
    ) -> Option<Vec<Mount>> {
        let mut mounts = Vec::with_capacity(volumes.len());
        for (index, volume) in volumes.iter().enumerate() {
            if let Some(name) = &volume.name {
                mounts.push(Mount {
                    volume: VolumeId(Uuid::nil()),
                    name: name.clone(),
                    mountpoint: volume.mountpoint.clone(),
                });
                continue;
            }
            let name = match index {
                0 => app.to_string(),
                _ => format!("{app}-{}", index + 1),
            };
            match name.parse() {
                Ok(name) => mounts.push(Mount {
                    volume: volume.id.unwrap_or_else(|| volume_id(app, index)),
                    name,
                    mountpoint: volume.mountpoint.clone(),
                }),
                Err(error) => {
                    self.refused(volume.at, path, &error);
                    return None;
                }
            }
        }
        Some(mounts)
    }
}

/// The id of an app's volume that is given none.
fn volume_id(app: &AppName, index: usize) -> VolumeId {
    let name = format!("{app}/{index}");
    VolumeId(Uuid::new_v5(&VOLUME_NAMESPACE, name.as_bytes()))
}

/// A mountpoint in one form: absolute, ASCII, without `..`, trailing or doubled slashes.
pub(super) fn mountpoint(text: &str) -> Option<PathBuf> {
    let printable = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    let path: PathBuf = Path::new(text).components().collect();
    let climbs = path.components().any(|part| part == Component::ParentDir);
    (printable && path.is_absolute() && !climbs && path != Path::new("/")).then_some(path)
}
