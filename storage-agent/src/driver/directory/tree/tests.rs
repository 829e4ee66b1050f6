//! Trees made alike.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn snapshot_of(root: &Path) -> Vec<(PathBuf, Kind, Attributes, Vec<u8>)> {
    fn walk(root: &Path, path: &Path, seen: &mut Vec<(PathBuf, Kind, Attributes, Vec<u8>)>) {
        let (kind, attributes) = look(&root.join(path)).unwrap().unwrap();
        let content = match kind {
            Kind::File { .. } => fs::read(root.join(path)).unwrap(),
            _ => Vec::new(),
        };
        let is_directory = kind == Kind::Directory;
        seen.push((path.to_owned(), kind, attributes, content));
        if is_directory {
            for name in list(&root.join(path)).unwrap().keys() {
                walk(root, &path.join(name), seen);
            }
        }
    }
    let mut seen = Vec::new();
    walk(root, Path::new(""), &mut seen);
    seen
}

fn sample(root: &Path) {
    fs::create_dir_all(root.join("pg/base/1")).unwrap();
    fs::write(root.join("pg/PG_VERSION"), "15\n").unwrap();
    fs::write(root.join("pg/base/1/112"), vec![7; 300_000]).unwrap();
    fs::write(root.join("script"), "#!/bin/sh\n").unwrap();
    symlink("pg/PG_VERSION", root.join("link")).unwrap();
    symlink("/nowhere", root.join("dangling")).unwrap();
    fs::set_permissions(root.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(root.join("pg"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_copy_is_the_same_in_content_modes_times_and_links() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("a"), place.path().join("b"));
    sample(&from);
    copy(&from, &to).unwrap();
    assert_eq!(snapshot_of(&from), snapshot_of(&to));
}

#[test]
fn sync_carries_over_every_kind_of_change() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("a"), place.path().join("b"));
    sample(&from);
    copy(&from, &to).unwrap();
    // Rewritten at equal size, and with the time put back: only the content tells.
    let times = look(&from.join("pg/PG_VERSION")).unwrap().unwrap().1;
    fs::write(from.join("pg/PG_VERSION"), "16\n").unwrap();
    Applier::new(&from)
        .attributes(&from.join("pg/PG_VERSION"), times, false)
        .unwrap();
    fs::remove_file(from.join("script")).unwrap();
    fs::create_dir(from.join("script")).unwrap();
    fs::remove_dir_all(from.join("pg/base")).unwrap();
    fs::write(from.join("pg/base"), "a file now").unwrap();
    fs::remove_file(from.join("link")).unwrap();
    symlink("elsewhere", from.join("link")).unwrap();
    fs::remove_file(from.join("dangling")).unwrap();
    sync(&from, &to).unwrap();
    assert_eq!(snapshot_of(&from), snapshot_of(&to));
}

#[test]
fn what_is_the_same_makes_no_change() {
    struct None;
    impl Sink for None {
        fn take(&mut self, path: &Path, _: Change<'_>) -> Result<(), VolumeError> {
            panic!("{} has not changed", path.display());
        }
    }
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("a"), place.path().join("b"));
    sample(&from);
    copy(&from, &to).unwrap();
    diff(Some(&to), &from, &mut None).unwrap();
}

#[test]
fn an_applier_does_not_leave_its_tree() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::create_dir(place.path().join("outside")).unwrap();
    symlink("../outside", root.join("link")).unwrap();
    let mut applier = Applier::new(&root);
    for path in ["../outside/x", "/etc/x", "link/x", "a/../../x"] {
        let result = applier.take(Path::new(path), Change::Directory);
        assert!(result.is_err(), "{path}");
    }
    assert!(list(&place.path().join("outside")).unwrap().is_empty());
}
