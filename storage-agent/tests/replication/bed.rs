//! Two nodes' volumes in one process, on directories or on ZFS, with a wire that can be bad.
//!
//! ZFS means a daemon of zfs-fuse of the test's own: the test starts itself again in mount and
//! process namespaces, so that whatever happens nothing outlives it. Where that cannot be had
//! the test fails; `FLOCKER_TEST_ZFS=skip` skips it, and says so.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "the test bed starts the file system's programs, and says what it skips"
)]

use std::{
    collections::BTreeMap,
    env, fs,
    future::Future,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, Command, Stdio},
    time::Duration,
};

use flocker_api::{
    agent::{CreateVolume, ReplicateReply, ReplicateRequest},
    name::{NodeName, VolumeId},
    volume::Epoch,
};
use flocker_storage_agent::{
    driver::{
        transport::TransferLimits,
        volumes::{StorageConfig, Volumes, serve_replication},
    },
    error::VolumeError,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

/// Set in the process that runs inside the namespaces.
const INSIDE: &str = "FLOCKER_TEST_INSIDE";

/// A story that is told on either storage.
pub type Story = for<'a> fn(&'a mut Bed) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Tells a story on directories.
pub fn on_directories(story: Story) {
    let place = tempfile::tempdir().unwrap();
    let config = |name: &str| StorageConfig::Directory {
        root: place.path().join(name),
        mount_root: None,
    };
    let configs = [config("a"), config("b")];
    tell(configs, None, story);
    drop(place);
}

/// Tells a story on zfs-fuse; `test` is the name of the calling test.
pub fn on_zfs(test: &str, story: Story) {
    if env::var_os("FLOCKER_TEST_ZFS").is_some_and(|v| v == "skip") {
        eprintln!("SKIPPED {test}: FLOCKER_TEST_ZFS=skip is set, nothing was tested on ZFS");
        return;
    }
    if env::var_os(INSIDE).is_none() {
        // Outside, because mounts would be in the way of its removal inside after a failure.
        let place = tempfile::tempdir().unwrap();
        // A process namespace, because its end is the end of every process in it.
        let status = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--include-ignored"])
            .env(INSIDE, "1")
            .env("TMPDIR", place.path())
            .status()
            .expect("unshare of util-linux is there");
        assert!(
            status.success(),
            "{test} failed on ZFS ({status}); it needs root, /dev/fuse and zfs-fuse, \
             FLOCKER_TEST_ZFS=skip skips it"
        );
        return;
    }
    let daemon = Daemon::start();
    let configs = ["a", "b"].map(|name| StorageConfig::Zfs {
        pool: daemon.pool(name),
        mount_root: daemon.place.path().join("mounts").join(name),
    });
    tell(configs, Some(&daemon), story);
    daemon.stop();
}

fn tell(configs: [StorageConfig; 2], daemon: Option<&Daemon>, story: Story) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let [a, b] = configs;
        let mut bed = Bed {
            a: Node::start("a", a).await,
            b: Node::start("b", b).await,
            zfs: daemon.is_some(),
        };
        story(&mut bed).await;
        bed.a.stop().await;
        bed.b.stop().await;
    });
    runtime.shutdown_timeout(Duration::from_secs(10));
    if let Some(daemon) = daemon {
        daemon.no_leaks();
    }
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

/// A daemon of zfs-fuse with a pool for each node.
pub struct Daemon {
    process: Child,
    place: TempDir,
}

impl Daemon {
    fn start() -> Self {
        run("mount", &["--make-rprivate", "/"]);
        for place in ["/run/zfs", "/run/lock/zfs", "/var/lib/zfs"] {
            fs::create_dir_all(place).unwrap();
            run("mount", &["-t", "tmpfs", "none", place]);
        }
        let process = Command::new("zfs-fuse")
            .args(["--no-daemon", "--no-kstat-mount", "-m", "64"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("zfs-fuse is installed");
        let place = tempfile::tempdir().unwrap();
        let daemon = Self { process, place };
        until("zfs-fuse answers", || attempt("zpool", &["list"]));
        for name in ["a", "b"] {
            let file = daemon.place.path().join(format!("{name}.img"));
            fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
            let mount = daemon.place.path().join(format!("pool-{name}"));
            let (file, mount) = (file.to_str().unwrap(), mount.to_str().unwrap());
            run("zpool", &["create", "-m", mount, &daemon.pool(name), file]);
        }
        daemon
    }

    #[expect(clippy::unused_self, reason = "there is a pool only while it runs")]
    fn pool(&self, name: &str) -> String {
        format!("pool{name}")
    }

    /// Nothing but the daemon is left of what the test started, or soon will be.
    fn no_leaks(&self) {
        let ours = [std::process::id(), self.process.id()];
        until("every process has ended", || {
            let mut others = Vec::new();
            for entry in fs::read_dir("/proc").unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let Ok(pid) = name.parse::<u32>() else {
                    continue;
                };
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                // One that has ended and is not yet waited for is no leak.
                if !ours.contains(&pid) && !stat.is_empty() && !stat.contains(") Z ") {
                    others.push(stat);
                }
            }
            others
                .is_empty()
                .then_some(())
                .ok_or_else(|| format!("{others:?}"))
        });
    }

    fn stop(mut self) {
        for name in ["a", "b"] {
            let pool = self.pool(name);
            until("the pool is destroyed", || {
                attempt("zfs", &["unmount", "-a"])?;
                attempt("zpool", &["destroy", &pool])
            });
        }
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn attempt(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or(complaint)
}

/// Tries until it is so, for a while.
fn until(what: &str, mut attempt: impl FnMut() -> Result<(), String>) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while let Err(reason) = attempt() {
        assert!(std::time::Instant::now() < deadline, "{what}: {reason}");
        std::thread::yield_now();
    }
}

/// Two nodes.
pub struct Bed {
    pub a: Node,
    pub b: Node,
    pub zfs: bool,
}

/// A node's volumes and their replication address.
pub struct Node {
    pub name: NodeName,
    pub volumes: Volumes,
    pub address: SocketAddr,
    config: StorageConfig,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// Limits under which faults are soon noticed, and nothing is tried twice.
pub fn impatient() -> TransferLimits {
    TransferLimits {
        silence: Duration::from_secs(8),
        heartbeat: Duration::from_millis(500),
        stall: Duration::from_secs(20),
        retries: Vec::new(),
        ..TransferLimits::default()
    }
}

impl Node {
    async fn start(name: &str, config: StorageConfig) -> Self {
        let name: NodeName = name.parse().unwrap();
        let volumes = Volumes::open_with(config.clone(), name.clone(), impatient())
            .await
            .unwrap();
        let mut node = Self {
            name,
            volumes,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            config,
            server: None,
        };
        node.serve().await;
        node
    }

    async fn serve(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let volumes = self.volumes.clone();
        let server = tokio::spawn(async move {
            let stopped = async {
                stopped.await.ok();
            };
            serve_replication(listener, volumes, stopped).await.unwrap();
        });
        self.server = Some((stop, server));
    }

    /// Ends its server, and with it every stream that it receives.
    pub async fn stop(&mut self) {
        if let Some((stop, server)) = self.server.take() {
            stop.send(()).ok();
            server.await.unwrap();
        }
    }

    /// Ends it and starts it anew: all that it had in memory is gone.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.patience(impatient()).await;
    }

    /// Starts it anew with other limits.
    pub async fn patience(&mut self, limits: TransferLimits) {
        self.stop().await;
        self.volumes = Volumes::open_with(self.config.clone(), self.name.clone(), limits)
            .await
            .unwrap();
        self.serve().await;
    }

    /// A new volume, mounted.
    pub async fn create(&self, name: &str) -> VolumeId {
        let id = VolumeId::random();
        let request = CreateVolume {
            id,
            name: name.parse().unwrap(),
            size_bytes: None,
            epoch: Epoch(1),
        };
        self.volumes.create(request).await.unwrap();
        id
    }

    /// Where a volume is mounted.
    pub async fn path(&self, id: VolumeId) -> PathBuf {
        self.volumes.mount_path(id).await.unwrap().unwrap()
    }

    /// Replicates to another node.
    pub async fn replicate(
        &self,
        id: VolumeId,
        epoch: u64,
        to: &Self,
    ) -> Result<ReplicateReply, VolumeError> {
        self.replicate_by(id, epoch, to, to.address).await
    }

    /// Replicates to another node by way of an address.
    pub async fn replicate_by(
        &self,
        id: VolumeId,
        epoch: u64,
        to: &Self,
        by: SocketAddr,
    ) -> Result<ReplicateReply, VolumeError> {
        let request = ReplicateRequest {
            to: by,
            ..self.request(epoch, to)
        };
        self.volumes.replicate(id, request).await
    }

    /// A request to replicate to another node.
    pub fn request(&self, epoch: u64, to: &Self) -> ReplicateRequest {
        assert_ne!(self.name, to.name, "nodes replicate to others");
        ReplicateRequest {
            peer: to.name.clone(),
            to: to.address,
            epoch: Epoch(epoch),
        }
    }

    /// Names of a volume's snapshots.
    pub async fn snapshots(&self, id: VolumeId) -> Vec<String> {
        match self.volumes.get(id).await {
            Ok(status) => status.snapshots.into_iter().map(|s| s.name).collect(),
            Err(_) => Vec::new(),
        }
    }
}

/// Small numbers that look random and are the same each time.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: u64) -> u64 {
        // The constants of Knuth's MMIX.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    pub fn bytes(&mut self, length: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..length.div_ceil(4) {
            self.roll(1);
            bytes.extend_from_slice(&self.0.to_be_bytes()[..4]);
        }
        bytes.truncate(usize::try_from(length).unwrap());
        bytes
    }
}

/// Writes `files` files in some directories; each call rewrites every one of them.
pub fn fill(root: &Path, files: u64, bytes_max: u64, dice: &mut Dice) {
    for number in 0..files {
        let directory = root.join(format!("d{}", number % 7));
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        let path = directory.join(format!("f{number}"));
        // Half are replaced by a new file, half rewritten in place.
        if dice.roll(2) == 0 {
            fs::remove_file(&path).ok();
        }
        let length = dice.roll(bytes_max) + 1;
        let content = dice.bytes(length);
        fs::write(&path, content).unwrap();
        let mode = if dice.roll(2) == 0 { 0o600 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let extra = root.join("extra");
    fs::remove_dir_all(&extra).ok();
    fs::create_dir(&extra).unwrap();
    let link = format!("target-{}", dice.roll(1000));
    std::os::unix::fs::symlink(link, extra.join("link")).unwrap();
    fs::write(extra.join(format!("once-{}", dice.roll(1_000_000))), "x").unwrap();
}

/// What is in a tree: path to a hash of its kind, mode, owner and content.
pub fn tree_hash(root: &Path) -> BTreeMap<PathBuf, u64> {
    fn walk(root: &Path, path: &Path, seen: &mut BTreeMap<PathBuf, u64>) {
        let place = root.join(path);
        let metadata = fs::symlink_metadata(&place).unwrap();
        let mut hash = DefaultHasher::new();
        (metadata.mode(), metadata.uid(), metadata.gid()).hash(&mut hash);
        if metadata.is_symlink() {
            fs::read_link(&place).unwrap().hash(&mut hash);
        } else if metadata.is_file() {
            metadata.mtime().hash(&mut hash);
            fs::read(&place).unwrap().hash(&mut hash);
        } else {
            for entry in fs::read_dir(&place).unwrap() {
                walk(root, &path.join(entry.unwrap().file_name()), seen);
            }
        }
        seen.insert(path.to_owned(), hash.finish());
    }
    let mut seen = BTreeMap::new();
    let root = fs::canonicalize(root).unwrap();
    walk(&root, Path::new(""), &mut seen);
    seen
}
