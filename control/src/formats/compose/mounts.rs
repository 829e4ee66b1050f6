//! `volumes` of a file and of its services.

use std::collections::BTreeMap;

use flocker_api::name::VolumeName;

use super::{
    super::{
        error::Problem,
        keys, quantity,
        reader::{Fields, Reader},
        volumes::{DeclaredVolume, mountpoint},
        yaml::{Kind, Mark, Node, Value},
    },
    Dialect, Frame,
};

const SHORT: &str = "\"NAME:/path\", such as \"data:/var/lib/data\", with NAME under 'volumes' of \
                     the file, or \"/path\" alone";
const TARGET: &str = "an absolute path in the container, such as /data, in ASCII";
const BIND: &str = "a folder of the host does not move: use a named volume, \"NAME:/path\", \
                    with NAME under 'volumes' of the file";

/// A volume of the file.
pub(super) struct NamedVolume {
    /// `None` when it has errors.
    name: Option<VolumeName>,
    size: Option<u64>,
}

impl Reader<'_> {
    /// `volumes` of the file.
    pub(super) fn named_volumes(&mut self, node: &Node) -> BTreeMap<String, NamedVolume> {
        let mut volumes = BTreeMap::new();
        for entry in self.map(node, "volumes").unwrap_or_default() {
            let path = format!("volumes.{}", entry.key.text);
            let mut volume = NamedVolume {
                name: None,
                size: None,
            };
            let mut own_name = None;
            if entry.value.kind() != Kind::Null {
                let fields = self.extensible(&entry.value, entry.at, &path, keys::VOLUME);
                if let Some(fields) = fields {
                    self.driver(&fields, &path);
                    volume.size = self.driver_opts(&fields, &path);
                    own_name = fields.get("name");
                }
            }
            volume.name = match own_name {
                Some(node) => self.parsed(node, &format!("{path}.name"), "a volume's name"),
                None => match entry.key.text.parse() {
                    Ok(name) => Some(name),
                    Err(error) => {
                        self.refused(entry.at, "volumes", &error);
                        None
                    }
                },
            };
            volumes.insert(entry.key.text.clone(), volume);
        }
        volumes
    }

    fn driver(&mut self, fields: &Fields<'_>, path: &str) {
        if let Some(node) = fields.get("driver") {
            self.word(node, &format!("{path}.driver"), &[("flocker", ())]);
        }
    }

    fn driver_opts(&mut self, fields: &Fields<'_>, path: &str) -> Option<u64> {
        let path = format!("{path}.driver_opts");
        let (node, at) = (fields.get("driver_opts")?, fields.at("driver_opts"));
        let fields = self.fields(node, at, &path, keys::DRIVER_OPTS)?;
        self.bytes(fields.get("size")?, &format!("{path}.size"))
    }

    /// A size as Compose files have it.
    pub(super) fn bytes(&mut self, node: &Node, path: &str) -> Option<u64> {
        const EXPECTED: &str =
            "a size above zero: bytes, or with a unit such as 512M, 1.5G or 1T (powers of 1024)";
        let text = self.word_or_number(node, path, EXPECTED)?;
        let bytes = quantity::bytes(text);
        if bytes.is_none() {
            self.bad(node, path, EXPECTED);
        }
        bytes
    }

    /// `volumes` of a service.
    pub(super) fn service_volumes(
        &mut self,
        fields: &Fields<'_>,
        path: &str,
        frame: &Frame<'_>,
    ) -> Vec<DeclaredVolume> {
        let path = format!("{path}.volumes");
        let mut volumes = Vec::new();
        let items = fields
            .get("volumes")
            .and_then(|node| self.list(node, &path, SHORT));
        for (index, item) in items.unwrap_or_default().iter().enumerate() {
            let path = format!("{path}[{index}]");
            let volume = match (&item.value, frame.dialect) {
                (Value::Map(_), Dialect::Compose) => self.long_volume(item, &path, frame),
                _ => self.short_volume(item, &path, frame),
            };
            volumes.extend(volume);
        }
        self.distinct_mountpoints(&volumes);
        volumes
    }

    fn short_volume(
        &mut self,
        item: &Node,
        path: &str,
        frame: &Frame<'_>,
    ) -> Option<DeclaredVolume> {
        let text = self.text(item, path, SHORT)?;
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            [target] => self.volume_at(item, path, None, target),
            [_, _] | [_, _, "rw"] if frame.dialect == Dialect::Fig => {
                self.bad(
                    item,
                    path,
                    "an absolute path in the container, such as /data",
                );
                None
            }
            [source, target] | [source, target, "rw"] => {
                let named = self.source(item, path, source, frame)?;
                self.volume_at(item, path, Some(named), target)
            }
            [_, _, mode] => {
                let problem = Problem::Unsupported {
                    path: path.to_owned(),
                    what: format!("the mode '{mode}'"),
                    instead: "volumes are writable for their one app; leave it out",
                };
                self.note(item.at, problem);
                None
            }
            _ => {
                self.bad(item, path, SHORT);
                None
            }
        }
    }

    fn long_volume(
        &mut self,
        item: &Node,
        path: &str,
        frame: &Frame<'_>,
    ) -> Option<DeclaredVolume> {
        let fields = self.fields(item, item.at, path, keys::SERVICE_VOLUME)?;
        if let Some(node) = fields.get("type") {
            let path = format!("{path}.type");
            match self.text(node, &path, "volume") {
                Some("bind") => {
                    self.unsupported_bind(node.at, &path);
                    return None;
                }
                Some("volume") | None => {}
                Some(_) => self.bad(node, &path, "volume"),
            }
        }
        let named = match fields.get("source") {
            Some(node) => {
                let path = format!("{path}.source");
                let source = self.text(node, &path, "the name of a volume of the file")?;
                Some(self.source(node, &path, source, frame)?)
            }
            None => None,
        };
        let node = self.required(&fields, path, "target", TARGET)?;
        let path = format!("{path}.target");
        let target = self.text(node, &path, TARGET)?;
        self.volume_at(node, &path, named, target)
    }

    /// The volume of the file that a service names.
    fn source(
        &mut self,
        item: &Node,
        path: &str,
        source: &str,
        frame: &Frame<'_>,
    ) -> Option<(VolumeName, Option<u64>)> {
        if source.starts_with(['/', '.', '~']) {
            self.unsupported_bind(item.at, path);
            return None;
        }
        let Some(volume) = frame.volumes.get(source) else {
            let declared: Vec<&str> = frame.volumes.keys().map(String::as_str).collect();
            let declared = match declared[..] {
                [] => "none".to_owned(),
                _ => declared.join(", "),
            };
            let problem = Problem::Refused {
                path: path.to_owned(),
                reason: format!(
                    "the volume '{source}' is not declared under 'volumes' of the file; declared: \
                     {declared}"
                ),
            };
            self.note(item.at, problem);
            return None;
        };
        Some((volume.name.clone()?, volume.size))
    }

    fn unsupported_bind(&mut self, at: Mark, path: &str) {
        let problem = Problem::Unsupported {
            path: path.to_owned(),
            what: "a folder of the host".to_owned(),
            instead: BIND,
        };
        self.note(at, problem);
    }

    fn volume_at(
        &mut self,
        item: &Node,
        path: &str,
        named: Option<(VolumeName, Option<u64>)>,
        target: &str,
    ) -> Option<DeclaredVolume> {
        let Some(mountpoint) = mountpoint(target) else {
            self.bad(item, path, if named.is_some() { SHORT } else { TARGET });
            return None;
        };
        let (name, size) = match named {
            Some((name, size)) => (Some(name), size),
            None => (None, None),
        };
        Some(DeclaredVolume {
            at: item.at,
            mountpoint,
            size,
            id: None,
            name,
        })
    }
}
