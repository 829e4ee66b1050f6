//! Two nodes' volumes in one process, on directories or on ZFS.

use std::{
    env, fs,
    future::Future,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    pin::Pin,
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
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::{
    pools::{FileSystem, Pools, attempt, enclosed, mounts, run, slow, until},
    tree::{Facts, Keeps, assert_same, facts},
};

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

/// Tells a story on directories of which the receiver's has a small disk for itself, which is
/// mounted in a namespace; `test` is the name of the calling test.
pub fn on_a_small_disk(test: &str, mib: u32, story: Story) {
    enclosed(test, || {
        let place = tempfile::tempdir().unwrap();
        let config = |name: &str| StorageConfig::Directory {
            root: place.path().join(name),
            mount_root: None,
        };
        let disk = place.path().join("b");
        fs::create_dir(&disk).unwrap();
        let (size, disk) = (format!("size={mib}m"), disk.to_str().unwrap());
        run("mount", &["-t", "tmpfs", "-o", &size, "none", disk]);
        tell([config("a"), config("b")], None, story);
        run("umount", &[disk]);
    });
}

/// Tells a story on ZFS; `test` is the name of the calling test.
pub fn on_zfs(test: &str, story: Story) {
    enclosed(test, || {
        let pools = Pools::start();
        let configs = ["a", "b"].map(|name| StorageConfig::Zfs {
            pool: pools.pool(name),
            mount_root: pools.mount_root(name),
        });
        if let Some(pools) = tell(configs, Some(pools), story) {
            pools.stop();
        }
    });
}

/// `FLOCKER_TEST_LOG=1` shows what the agents say.
fn tell(configs: [StorageConfig; 2], pools: Option<Pools>, story: Story) -> Option<Pools> {
    if env::var_os("FLOCKER_TEST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let pools = runtime.block_on(async {
        let [a, b] = configs;
        let mut bed = Bed {
            a: Node::start("a", a).await,
            b: Node::start("b", b).await,
            pools,
        };
        story(&mut bed).await;
        bed.a.stop().await;
        bed.b.stop().await;
        bed.pools
    });
    runtime.shutdown_timeout(Duration::from_secs(10));
    if let Some(pools) = &pools {
        pools.no_leaks();
    }
    pools
}

/// Two nodes.
pub struct Bed {
    pub a: Node,
    pub b: Node,
    /// Where the nodes store on ZFS.
    pub pools: Option<Pools>,
}

impl Bed {
    /// Whatever happened before: the next replication brings the replica to the primary's
    /// state, and nothing is left of what was broken off.
    pub async fn is_made_good(&self, from: &Node, to: &Node, id: VolumeId, epoch: u64) {
        from.replicate_surely(id, epoch, to).await;
        let ours = from.facts(id).await;
        assert_same(&ours, &to.replica_facts(id).await, "afterwards");
        self.nothing_leaks(from, to, id).await;
    }

    /// No more snapshots than are kept on purpose, and no hold, mount, process or half-received
    /// state at all.
    pub async fn nothing_leaks(&self, primary: &Node, replica: &Node, id: VolumeId) {
        for node in [primary, replica] {
            node.volumes.tidy(id).await.unwrap();
            let snapshots = node.snapshots(id).await;
            assert!(snapshots.len() <= 5, "{} has {snapshots:?}", node.name);
        }
        let Some(pools) = &self.pools else {
            for node in [primary, replica] {
                let incoming = node.place(id).join("incoming");
                assert!(!incoming.exists(), "{} is left", incoming.display());
            }
            return;
        };
        pools.no_leaks();
        let mounted: Vec<_> = mounts()
            .into_iter()
            .map(|(path, _)| path)
            .filter(|path| {
                ["a", "b"]
                    .iter()
                    .any(|n| path.starts_with(pools.mount_root(n)))
            })
            .collect();
        assert_eq!(mounted, [primary.path(id).await]);
    }

    /// Which ZFS the nodes store on, if they do.
    pub fn zfs(&self) -> Option<FileSystem> {
        self.pools.as_ref().map(|pools| pools.kind)
    }
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
    let slow = slow();
    TransferLimits {
        silence: slow * Duration::from_secs(8),
        heartbeat: Duration::from_millis(500),
        stall: slow * Duration::from_secs(20),
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
        let limits = TransferLimits {
            lock: slow() * limits.lock,
            ..limits
        };
        self.volumes = Volumes::open_with(self.config.clone(), self.name.clone(), limits)
            .await
            .unwrap();
        self.serve().await;
    }

    /// Whether the node stores on ZFS.
    pub fn zfs(&self) -> bool {
        matches!(self.config, StorageConfig::Zfs { .. })
    }

    /// Another agent on the same storage, of which this one knows nothing.
    pub async fn twin(&self) -> Volumes {
        Volumes::open_with(self.config.clone(), self.name.clone(), impatient())
            .await
            .unwrap()
    }

    /// The dataset of a volume, where the node stores on ZFS.
    pub fn dataset(&self, id: VolumeId) -> String {
        match &self.config {
            StorageConfig::Zfs { pool, .. } => format!("{pool}/flocker/{id}"),
            StorageConfig::Directory { .. } => panic!("directories have no datasets"),
        }
    }

    /// The directory of a volume, where the node stores in directories.
    pub fn place(&self, id: VolumeId) -> PathBuf {
        match &self.config {
            StorageConfig::Directory { root, .. } => root.join("volumes").join(id.to_string()),
            StorageConfig::Zfs { .. } => panic!("datasets are no directories"),
        }
    }

    /// The node's pool, where it stores on ZFS.
    pub fn pool(&self) -> &str {
        match &self.config {
            StorageConfig::Zfs { pool, .. } => pool,
            StorageConfig::Directory { .. } => panic!("directories have no pool"),
        }
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

    /// Where its volumes are.
    pub fn config(&self) -> StorageConfig {
        self.config.clone()
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

    /// The same, again and again while what stands against it may pass: on a busy machine an end
    /// that was broken off takes its time.
    pub async fn replicate_surely(&self, id: VolumeId, epoch: u64, to: &Self) -> ReplicateReply {
        let begun = tokio::time::Instant::now();
        loop {
            match self.replicate(id, epoch, to).await {
                Ok(reply) => return reply,
                Err(error) => assert!(
                    error.code().is_transient()
                        && begun.elapsed() < slow() * Duration::from_secs(120),
                    "{error}"
                ),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
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

    /// What the node's storage keeps of files.
    pub fn keeps(&self) -> Keeps {
        let zfs = self.zfs();
        let openzfs = zfs && Path::new("/dev/zfs").exists();
        Keeps {
            hard_links: zfs,
            touched: zfs,
            special: zfs,
            // zfs-fuse has no attributes that could be relied upon, and does not tell holes.
            holes: openzfs,
            attributes: openzfs,
        }
    }

    /// What is in a volume where it is the primary.
    pub async fn facts(&self, id: VolumeId) -> Facts {
        facts(&self.path(id).await, self.keeps())
    }

    /// What is in the newest snapshot of a replica.
    pub async fn replica_facts(&self, id: VolumeId) -> Facts {
        if !self.zfs() {
            let newest = self.snapshots(id).await.pop().unwrap();
            let tree = self.place(id).join("snapshots").join(newest).join("tree");
            return facts(&tree, self.keeps());
        }
        let dataset = self.dataset(id);
        run("zfs", &["mount", &dataset]);
        let facts = self.facts(id).await;
        until("it can be unmounted", || {
            attempt("zfs", &["unmount", &dataset])
        });
        facts
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
        for _ in 0..length.div_ceil(8) {
            self.roll(1);
            bytes.extend_from_slice(&(self.0 ^ (self.0 >> 31)).to_be_bytes());
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
