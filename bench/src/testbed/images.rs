//! Images for the demo's Docker Engines, made from what is installed on this machine.
//!
//! An image is a root filesystem of a few programs and the libraries that `ldd` names for
//! them, packed by tar and taken in by `docker import`: no registry, no network. A tar file
//! is kept and used again as long as all that went into it is unchanged.
#![expect(
    clippy::disallowed_methods,
    reason = "ldd and tar do the work; file times decide what can be used again"
)]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};

use super::probe;

/// Where Debian keeps PostgreSQL 15.
pub const POSTGRES: &str = "/usr/lib/postgresql/15";

/// An image as a tar file, and how it is to be imported.
#[derive(Debug, Clone)]
pub struct Image {
    /// `repository:tag`.
    pub name: &'static str,
    /// Its root filesystem.
    pub tar: PathBuf,
    /// Changes for `docker import -c`.
    pub changes: Vec<String>,
}

/// The image of the notes service.
///
/// # Errors
/// When the program is not built, or the files cannot be written.
pub fn notes(program: &Path, folder: &Path) -> Result<Image> {
    let tar = folder.join("notes.tar");
    if !is_newer(&tar, &[program])? {
        let root = Root::new(folder.join("notes"))?;
        root.place(program, "usr/lib/flocker/notes")?;
        root.libraries(&[program.to_owned()])?;
        root.pack(&tar)?;
    }
    Ok(Image {
        name: "flocker/notes:latest",
        tar,
        changes: vec![r#"CMD ["/usr/lib/flocker/notes"]"#.to_owned()],
    })
}

/// The image of PostgreSQL 15; `start` is its start script.
///
/// # Errors
/// When it is not installed, or the files cannot be written.
pub fn postgres(start: &Path, folder: &Path) -> Result<Image> {
    let home = Path::new(POSTGRES);
    let tar = folder.join("postgres.tar");
    if !is_newer(&tar, &[start, &home.join("bin/postgres")])? {
        let root = Root::new(folder.join("postgres"))?;
        fill_postgres(&root, home, start)?;
        root.pack(&tar)?;
    }
    Ok(Image {
        name: "flocker/postgres:15",
        tar,
        changes: vec![
            format!("ENV PATH={POSTGRES}/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            r#"CMD ["/bin/sh", "/usr/lib/flocker/images/postgres.sh"]"#.to_owned(),
        ],
    })
}

fn fill_postgres(root: &Root, home: &Path, start: &Path) -> Result<()> {
    let mut programs = Vec::new();
    for name in ["postgres", "initdb", "psql", "pg_isready", "pg_controldata"] {
        programs.push(home.join("bin").join(name));
    }
    for name in ["busybox", "setpriv"] {
        programs.push(probe::find(name).map_err(anyhow::Error::msg)?);
    }
    // The JIT compiler is the largest part of the server and nothing here needs it.
    for module in fs::read_dir(home.join("lib"))? {
        let path = module?.path();
        if path.extension().is_some_and(|e| e == "so") && !path.ends_with("llvmjit.so") {
            programs.push(path);
        }
    }
    for program in &programs {
        root.copy(program)?;
    }
    root.libraries(&programs)?;
    root.copy_tree(Path::new("/usr/share/postgresql/15"))?;
    for zone in ["UTC", "Etc/UTC", "GMT"] {
        root.copy(&Path::new("/usr/share/zoneinfo").join(zone))?;
    }
    root.place(start, "usr/lib/flocker/images/postgres.sh")?;
    root.cluster(home)?;
    for tool in [
        "sh", "id", "rm", "mv", "mkdir", "chown", "sync", "cat", "sleep",
    ] {
        root.link("/usr/bin/busybox", &format!("bin/{tool}"))?;
    }
    root.copy_lines("/etc/passwd", &["root:", "postgres:"])?;
    root.copy_lines("/etc/group", &["root:", "postgres:"])?;
    root.write("etc/nsswitch.conf", "passwd: files\ngroup: files\n")?;
    root.folder("tmp", 0o1777)
}

/// Whether `made` is newer than everything that it is made of.
fn is_newer(made: &Path, of: &[&Path]) -> Result<bool> {
    let time = |path: &Path| -> Result<SystemTime> {
        fs::metadata(path)
            .and_then(|facts| facts.modified())
            .with_context(|| format!("{} is not there", path.display()))
    };
    let newest = of
        .iter()
        .map(|path| time(path))
        .try_fold(SystemTime::UNIX_EPOCH, |newest, time| {
            anyhow::Ok(newest.max(time?))
        })?;
    Ok(time(made).is_ok_and(|made| made > newest))
}

/// A root filesystem in the making.
struct Root(PathBuf);

impl Root {
    fn new(path: PathBuf) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        for folder in ["bin", "etc", "proc", "sys", "dev"] {
            fs::create_dir_all(path.join(folder))?;
        }
        Ok(Self(path))
    }

    /// Puts a file of this machine at a path inside.
    fn place(&self, file: &Path, inside: &str) -> Result<()> {
        let to = self.0.join(inside);
        make_parent(&to)?;
        fs::copy(file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
        Ok(())
    }

    /// Puts a file where it is on this machine. `/bin` and `/lib` are links there: so that
    /// each file has one place, those become `/usr/bin` and keep `/lib`.
    fn copy(&self, file: &Path) -> Result<()> {
        let path = file.to_str().context("a path that is no UTF-8")?;
        let inside = match path.strip_prefix("/bin/") {
            Some(name) => format!("usr/bin/{name}"),
            None => path.trim_start_matches('/').to_owned(),
        };
        self.place(file, &inside)
    }

    fn copy_tree(&self, folder: &Path) -> Result<()> {
        for entry in
            fs::read_dir(folder).with_context(|| format!("{} is not there", folder.display()))?
        {
            let path = entry?.path();
            // Links among the documentation may lead nowhere.
            if path.is_dir() {
                self.copy_tree(&path)?;
            } else if path.is_file() {
                self.copy(&path)?;
            }
        }
        Ok(())
    }

    /// Adds the shared libraries of these programs, the loader among them.
    fn libraries(&self, programs: &[PathBuf]) -> Result<()> {
        let mut libraries = BTreeSet::new();
        let output = Command::new("ldd").args(programs).output()?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if line.contains("not found") {
                bail!("a library is missing on this machine: {}", line.trim());
            }
            // `libc.so.6 => /lib/.../libc.so.6 (0x...)` or `/lib64/ld-linux... (0x...)`
            let path = line.split_whitespace().find(|word| word.starts_with('/'));
            libraries.extend(path.filter(|path| !path.ends_with(':')).map(PathBuf::from));
        }
        for library in &libraries {
            self.copy(library)?;
        }
        Ok(())
    }

    /// Adds an empty database cluster, which the start script copies: initdb takes its time
    /// on a file system in user space. It refuses to run as root.
    fn cluster(&self, home: &Path) -> Result<()> {
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
        let data = folder.path().join("cluster");
        let output = Command::new("setpriv")
            .args([
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
                "--",
            ])
            .arg(home.join("bin/initdb"))
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
            ])
            .arg("--wal-segsize=1")
            .arg("--pgdata")
            .arg(&data)
            .output()
            .context("cannot start setpriv")?;
        if !output.status.success() {
            bail!("initdb: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        // Readable to the server's user, which copies it; root owns what is in the image.
        let to = self.0.join("usr/lib/flocker/cluster");
        let copied = Command::new("cp").arg("-r").arg(&data).arg(&to).status()?;
        let opened = Command::new("chmod")
            .args(["-R", "a+rX"])
            .arg(&to)
            .status()?;
        if !copied.success() || !opened.success() {
            bail!("cannot copy {}", data.display());
        }
        Ok(())
    }

    fn link(&self, to: &str, inside: &str) -> Result<()> {
        let path = self.0.join(inside);
        make_parent(&path)?;
        symlink(to, path)?;
        Ok(())
    }

    fn copy_lines(&self, file: &str, beginnings: &[&str]) -> Result<()> {
        let text = fs::read_to_string(file)?;
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| beginnings.iter().any(|start| line.starts_with(start)))
            .collect();
        self.write(
            file.trim_start_matches('/'),
            &format!("{}\n", lines.join("\n")),
        )
    }

    fn write(&self, inside: &str, text: &str) -> Result<()> {
        fs::write(self.0.join(inside), text)?;
        Ok(())
    }

    fn folder(&self, inside: &str, mode: u32) -> Result<()> {
        let path = self.0.join(inside);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// Packs it: aside first, so that a tar file under its own name is a whole one.
    fn pack(&self, tar: &Path) -> Result<()> {
        let new = tar.with_extension(format!("{}.new", std::process::id()));
        let status = Command::new("tar")
            .args([
                "--create",
                "--owner=0",
                "--group=0",
                "--numeric-owner",
                "--file",
            ])
            .arg(&new)
            .arg("--directory")
            .arg(&self.0)
            .arg(".")
            .status()
            .context("cannot start tar")?;
        if !status.success() {
            bail!("tar could not pack {}", self.0.display());
        }
        fs::rename(&new, tar)?;
        fs::remove_dir_all(&self.0)?;
        Ok(())
    }
}

fn make_parent(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    Ok(())
}
