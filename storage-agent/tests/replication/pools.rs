//! Two pools on files: of a daemon of zfs-fuse of the test's own, or of the machine's OpenZFS.
//!
//! Where there is `/dev/zfs` that is taken, as in the guest of `scripts/openzfs-guest`; anywhere
//! else zfs-fuse. The test starts itself again in mount and process namespaces, so that whatever
//! happens no process and no mount outlives it. Where that cannot be had the test fails;
//! `FLOCKER_TEST_ZFS=skip` skips it, and says so.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "the test bed starts the file system's programs, and says what it skips"
)]

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rustix::process::Pid;
use tempfile::TempDir;

/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(10);
/// Set in the process that runs inside the namespaces, to what makes its pools' names its own.
const INSIDE: &str = "FLOCKER_TEST_INSIDE";
/// In there too: where programs are found first, and where else.
const PROGRAMS: &str = "FLOCKER_TEST_PROGRAMS";
const PATH: &str = "FLOCKER_TEST_PATH";

/// Tests of this process that have begun.
static TESTS: AtomicUsize = AtomicUsize::new(0);

/// Which of the two file systems a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    Fuse,
    OpenZfs,
}

/// The pools, and what keeps them.
pub struct Pools {
    pub kind: FileSystem,
    daemon: Option<Child>,
    tag: String,
    place: TempDir,
}

/// Runs `story` in namespaces of its own; `test` is the name of the calling test. The story is
/// told in another process, which this one waits for.
pub fn enclosed(test: &str, story: impl FnOnce()) {
    if env::var_os("FLOCKER_TEST_ZFS").is_some_and(|v| v == "skip") {
        eprintln!("SKIPPED {test}: FLOCKER_TEST_ZFS=skip is set, nothing was tested on ZFS");
        return;
    }
    if env::var_os(INSIDE).is_some() {
        return story();
    }
    // Outside, because mounts would be in the way of its removal inside after a failure.
    let place = tempfile::tempdir().unwrap();
    // Several tests of one process may run at once, on one OpenZFS.
    let number = TESTS.fetch_add(1, Ordering::Relaxed);
    let programs = place.path().join("programs");
    fs::create_dir(&programs).unwrap();
    let path = env::var("PATH").unwrap_or_default();
    // A process namespace, because its end is the end of every process in it.
    let status = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(INSIDE, format!("{}-{number}", std::process::id()))
        .env("TMPDIR", place.path())
        .env("PATH", format!("{}:{path}", programs.to_str().unwrap()))
        .env(PROGRAMS, &programs)
        .env(PATH, &path)
        .status()
        .expect("unshare of util-linux is there");
    assert!(
        status.success(),
        "{test} failed on ZFS ({status}); it needs root, and OpenZFS or zfs-fuse with /dev/fuse; \
         FLOCKER_TEST_ZFS=skip skips it"
    );
}

impl Pools {
    pub fn start() -> Self {
        run("mount", &["--make-rprivate", "/"]);
        let place = tempfile::tempdir().unwrap();
        let mut pools = Self {
            kind: FileSystem::OpenZfs,
            daemon: None,
            tag: env::var(INSIDE).unwrap(),
            place,
        };
        if !Path::new("/dev/zfs").exists() {
            pools.kind = FileSystem::Fuse;
            // In memory: a pool waits for its disks at each step, and tests share them. OpenZFS
            // opens files as the machine sees them, not as this namespace does.
            let memory = ["-t", "tmpfs", "none", pools.place.path().to_str().unwrap()];
            run("mount", &memory);
            // Its socket, its locks and its list of pools.
            for place in ["/run/zfs", "/run/lock/zfs", "/var/lib/zfs"] {
                fs::create_dir_all(place).unwrap();
                run("mount", &["-t", "tmpfs", "none", place]);
            }
            pools.start_daemon();
        }
        for node in ["a", "b"] {
            let file = pools.place.path().join(format!("{node}.img"));
            fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
            let mount = pools.place.path().join(format!("pool-{node}"));
            let (file, mount) = (file.to_str().unwrap(), mount.to_str().unwrap());
            let mut create = vec!["create", "-m", mount];
            if pools.kind == FileSystem::OpenZfs {
                // No trace of it in the machine's own list of pools.
                create.extend(["-o", "cachefile=none"]);
            }
            let pool = pools.pool(node);
            create.extend([pool.as_str(), file]);
            run("zpool", &create);
        }
        pools
    }

    fn start_daemon(&mut self) {
        let daemon = Command::new("zfs-fuse")
            .args(["--no-daemon", "--no-kstat-mount", "-m", "64"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("zfs-fuse is installed");
        self.daemon = Some(daemon);
        until("zfs-fuse answers", || attempt("zpool", &["list"]));
    }

    /// Kills the daemon of zfs-fuse in whatever it does, and starts another on the same pools.
    pub fn kill_daemon(&mut self) {
        let daemon = self.daemon.as_mut().expect("only zfs-fuse has a daemon");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        // What was mounted answers no more; the next daemon mounts anew.
        for (path, kind) in mounts() {
            if kind.starts_with("fuse") {
                run("umount", &["-l", path.to_str().unwrap()]);
            }
        }
        self.start_daemon();
        for node in ["a", "b"] {
            let pool = self.pool(node);
            let place = self.place.path().to_str().unwrap().to_owned();
            until("the pool is back", || {
                attempt("zpool", &["list", &pool])
                    .or_else(|_| attempt("zpool", &["import", "-d", &place, "-f", &pool]))
            });
        }
    }

    /// The pool of a node.
    pub fn pool(&self, node: &str) -> String {
        format!("flocker-{}-{node}", self.tag)
    }

    /// Processes of a program, by the words that its command line begins with.
    pub fn running(words: &[&str]) -> Vec<Pid> {
        let line: Vec<u8> = words
            .iter()
            .flat_map(|w| [w.as_bytes(), b"\0"].concat())
            .collect();
        processes()
            .into_iter()
            .filter(|(pid, _)| {
                let found = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                found.starts_with(&line)
            })
            .filter_map(|(pid, _)| Pid::from_raw(pid.try_into().unwrap()))
            .collect()
    }

    /// Where a node's volumes are mounted.
    pub fn mount_root(&self, node: &str) -> PathBuf {
        self.place.path().join("mounts").join(node)
    }

    /// Nothing but the daemon is left of what the test started, or soon will be; nothing is held.
    pub fn no_leaks(&self) {
        let mut ours = vec![std::process::id()];
        ours.extend(self.daemon.as_ref().map(Child::id));
        until("every process has ended", || {
            let others: Vec<_> = processes()
                .into_iter()
                .filter(|(pid, _)| !ours.contains(pid))
                .collect();
            nothing(&others)
        });
        for node in ["a", "b"] {
            let text = run(
                "zfs",
                &[
                    "get",
                    "-Hp",
                    "-r",
                    "-o",
                    "name,value",
                    "userrefs",
                    &self.pool(node),
                ],
            );
            let held: Vec<_> = text
                .lines()
                .filter(|line| !line.ends_with("\t0") && !line.ends_with("\t-"))
                .collect();
            assert!(held.is_empty(), "snapshots are held: {held:?}");
        }
    }

    pub fn stop(mut self) {
        for node in ["a", "b"] {
            let pool = self.pool(node);
            until("the pool is destroyed", || {
                for (path, kind) in mounts() {
                    if path.starts_with(self.place.path()) && kind.contains("zfs") {
                        attempt("umount", &[path.to_str().unwrap()])?;
                    }
                }
                attempt("zpool", &["destroy", &pool])
            });
        }
        if let Some(daemon) = &mut self.daemon {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
        // Nothing is mounted there on OpenZFS.
        attempt("umount", &["-l", self.place.path().to_str().unwrap()]).ok();
    }
}

/// A `zfs` that changes nothing on a pool any more once it has been used so and so often. To the
/// agent that is as if it ended there: nothing that it does afterwards has any effect.
pub struct Lame {
    place: PathBuf,
}

impl Lame {
    /// Lets so many commands through.
    pub fn after(pool: &str, commands: usize) -> Self {
        let place = PathBuf::from(env::var(PROGRAMS).unwrap());
        let script = format!(
            "#!/bin/sh\n\
             PATH={path}\n\
             case \"$1 $*\" in\n\
             'get '*|'list '*|'send '*|'receive '*) exec zfs \"$@\" ;;\n\
             *' {pool}/'*) echo \"$*\" >>{spent} ;;\n\
             *) exec zfs \"$@\" ;;\n\
             esac\n\
             [ $(wc -l <{spent}) -gt {commands} ] || exec zfs \"$@\"\n\
             echo 'nothing is changed any more' >&2\n\
             exit 1\n",
            path = env::var(PATH).unwrap(),
            spent = place.join("spent").display(),
        );
        fs::write(place.join("spent"), "").unwrap();
        fs::write(place.join("new"), script).unwrap();
        fs::set_permissions(place.join("new"), PermissionsExt::from_mode(0o755)).unwrap();
        fs::rename(place.join("new"), place.join("zfs")).unwrap();
        Self { place }
    }

    /// The commands that were to change something.
    pub fn spent(&self) -> Vec<String> {
        let text = fs::read_to_string(self.place.join("spent")).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Lame {
    fn drop(&mut self) {
        fs::remove_file(self.place.join("zfs")).ok();
    }
}

/// Processes of this namespace and their `stat`; one that has ended and is not yet waited for
/// does not count.
pub fn processes() -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Ok(pid) = name.parse() else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if !stat.is_empty() && !stat.contains(") Z ") {
            found.push((pid, stat));
        }
    }
    found
}

/// What is mounted in this namespace, and its file system's type.
pub fn mounts() -> Vec<(PathBuf, String)> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((PathBuf::from(fields.next()?), fields.next()?.to_owned()))
        })
        .collect()
}

/// Fails with what there is, if there is any.
fn nothing<T: std::fmt::Debug>(found: &[T]) -> Result<(), String> {
    found
        .is_empty()
        .then_some(())
        .ok_or_else(|| format!("{found:?}"))
}

/// Runs a program to its end and gives its output.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {complaint}"
    );
    text
}

/// The same where it may fail; then what it complained of.
pub fn attempt(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or(complaint)
}

/// How much longer everything may take: an emulated machine says so by `FLOCKER_TEST_SLOW`.
pub fn slow() -> u32 {
    env::var("FLOCKER_TEST_SLOW").map_or(1, |text| text.parse().unwrap())
}

/// Tries until it is so, for a while.
pub fn until(what: &str, mut attempt: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + slow() * Duration::from_secs(30);
    while let Err(reason) = attempt() {
        assert!(Instant::now() < deadline, "{what}: {reason}");
        // Others need the processor meanwhile, of which the guest has little.
        std::thread::sleep(PAUSE);
    }
}
