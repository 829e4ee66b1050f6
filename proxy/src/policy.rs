//! What a configuration says of HTTP, limits apart: whose word about a request's way is taken,
//! and the pages in place of the edge's own answers. Pages are read once, at the start.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    sync::Arc,
};

use flocker_api::network::Network;
use serde::Deserialize;

use crate::logic::{
    http::{
        accept::Format,
        origin::{Ids, Origins, Style},
        pages::{ANSWERS, Page, Pages},
    },
    session::Policy,
};

/// Longest page, in bytes.
const PAGE_BYTES_MAX: usize = 64 << 10;

/// The `[http]` table.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HttpFile {
    trusted: Vec<Network>,
    forwarded: StyleFile,
    request_ids: bool,
}

impl Default for HttpFile {
    fn default() -> Self {
        Self {
            trusted: Vec::new(),
            forwarded: StyleFile::XForwarded,
            request_ids: true,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StyleFile {
    XForwarded,
    Forwarded,
    Both,
}

/// The `[error_pages.SET]` tables: files by status.
pub(crate) type PagesFile = BTreeMap<String, BTreeMap<String, Files>>;

/// One file or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Files {
    One(PathBuf),
    Several(Vec<PathBuf>),
}

/// Checks both and reads the pages.
///
/// # Errors
/// Names the key and what would be right.
pub(crate) fn policy(http: HttpFile, files: PagesFile) -> Result<Arc<Policy>, String> {
    let seed = || RandomState::new().hash_one(0);
    let mut pages = Pages::default();
    for (set, by_status) in files {
        for (status, files) in by_status {
            let key = format!("error_pages.{set}.{status}");
            let known = status
                .parse()
                .ok()
                .filter(|status| ANSWERS.iter().any(|(known, ..)| known == status));
            let status = known.ok_or_else(|| {
                format!("{key}: the edge never answers with this status by itself")
            })?;
            let files = match files {
                Files::One(file) => vec![file],
                Files::Several(files) => files,
            };
            for file in files {
                let page =
                    page(&file).map_err(|reason| format!("{key}: {}: {reason}", file.display()))?;
                pages.add(&set, status, page);
            }
        }
    }
    Ok(Arc::new(Policy {
        origins: Origins {
            trusted: http.trusted,
            style: match http.forwarded {
                StyleFile::XForwarded => Style::XForwarded,
                StyleFile::Forwarded => Style::Forwarded,
                StyleFile::Both => Style::Both,
            },
            request_ids: http.request_ids,
            ids: Ids::new([seed(), seed()]),
        },
        pages,
    }))
}

fn page(file: &Path) -> Result<Page, String> {
    let format = match file.extension().and_then(|extension| extension.to_str()) {
        Some("html") => Format::Html,
        Some("json") => Format::Json,
        Some("txt") => Format::Text,
        _ => return Err("its name must end in .html, .json or .txt".to_owned()),
    };
    if !file.is_absolute() {
        return Err("give an absolute path".to_owned());
    }
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    match bytes.len() {
        ..=PAGE_BYTES_MAX => Ok(Page { format, bytes }),
        _ => Err(format!("it is longer than {PAGE_BYTES_MAX} bytes")),
    }
}
