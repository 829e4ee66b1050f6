//! Sample files, made to fit a bed that is less than they describe.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::plan::{Ground, Plan, Runtime, Storage};

/// What a sample has to fit.
#[derive(Debug)]
pub(crate) struct Bed<'a> {
    pub(crate) plan: &'a Plan,
    /// The place's own folder.
    pub(crate) folder: &'a Path,
    /// `config/demo`.
    pub(crate) samples: &'a Path,
    /// Where the programs are.
    pub(crate) programs: &'a Path,
    /// The node's pool.
    pub(crate) pool: &'a str,
}

/// The file from which a program of this bed is to be started: the sample itself where
/// nothing has to be changed, else a copy in the place's folder.
pub(crate) fn for_bed(bed: &Bed<'_>, sample: &Path) -> Result<PathBuf> {
    let text =
        fs::read_to_string(sample).with_context(|| format!("cannot read {}", sample.display()))?;
    let before: Table =
        toml::from_str(&text).with_context(|| format!("{} is no TOML", sample.display()))?;
    let mut after = before.clone();
    fit_storage(bed, &mut after);
    if fit_runtime(bed, &mut after) {
        copy_images(bed)?;
    }
    fit_links(bed, &mut after);
    let mut after = Value::Table(after);
    bed.plan.rewrite_toml(&mut after, &folders(bed));
    if after == Value::Table(before) {
        return Ok(sample.to_owned());
    }
    let name = sample.file_name().context("a sample file without a name")?;
    let copy = bed.folder.join(name);
    fs::write(&copy, toml::to_string(&after)?)?;
    Ok(copy)
}

/// Folders of the samples and what they are on this bed.
fn folders(bed: &Bed<'_>) -> Vec<(&'static str, String)> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut folders = vec![
        ("/usr/lib/flocker/images", path(&bed.samples.join("images"))),
        ("/usr/lib/flocker", path(bed.programs)),
    ];
    if bed.plan.ground == Ground::Loopback {
        folders.push(("/run/flocker", path(bed.folder)));
        folders.push(("/var/lib/flocker", path(&bed.folder.join("lib"))));
    }
    folders
}

fn fit_storage(bed: &Bed<'_>, file: &mut Table) {
    if !file.contains_key("storage") {
        return;
    }
    let mut storage = Table::new();
    match bed.plan.storage {
        Storage::Openzfs => {
            if let Some(Value::Table(sample)) = file.get("storage") {
                storage = sample.clone();
            }
            storage.insert("pool".to_owned(), bed.pool.into());
        }
        Storage::ZfsFuse => return,
        Storage::Directory => {
            storage.insert("kind".to_owned(), "directory".into());
            storage.insert("root".to_owned(), "/var/lib/flocker/volumes".into());
        }
    }
    file.insert("storage".to_owned(), Value::Table(storage));
}

/// On loopback both nodes have the same addresses of links: one edge provides them for both.
fn fit_links(bed: &Bed<'_>, file: &mut Table) {
    let Some(Value::Array(edges)) = file.get_mut("edge") else {
        return;
    };
    if bed.plan.ground == Ground::Namespaces {
        return;
    }
    for edge in edges.iter_mut().filter_map(Value::as_table_mut).skip(1) {
        edge.insert("links".to_owned(), false.into());
    }
}

/// Answers whether the file now speaks of the process runtime.
fn fit_runtime(bed: &Bed<'_>, file: &mut Table) -> bool {
    if bed.plan.runtime == Runtime::Docker || !file.contains_key("runtime") {
        return false;
    }
    let images = bed.folder.join("images").to_string_lossy().into_owned();
    let mut runtime = Table::new();
    runtime.insert("kind".to_owned(), "process".into());
    runtime.insert("images".to_owned(), images.into());
    let state = super::ledger::containers(bed.folder);
    runtime.insert(
        "state".to_owned(),
        state.to_string_lossy().into_owned().into(),
    );
    file.insert("runtime".to_owned(), Value::Table(runtime));
    true
}

/// Image files of the process runtime, with the programs where they are on this machine.
fn copy_images(bed: &Bed<'_>) -> Result<()> {
    let to = bed.folder.join("images/flocker");
    fs::create_dir_all(&to)?;
    for image in ["notes", "postgres"] {
        let file = format!("{image}.toml");
        let sample = bed.samples.join("images").join(&file);
        let text = fs::read_to_string(&sample)
            .with_context(|| format!("cannot read {}", sample.display()))?;
        let mut value: Value = toml::from_str(&text)?;
        bed.plan.rewrite_toml(&mut value, &folders(bed));
        fs::write(to.join(file), toml::to_string(&value)?)?;
    }
    Ok(())
}
