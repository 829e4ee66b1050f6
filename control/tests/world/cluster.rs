//! A cluster of two nodes and three edges around one app, and a store that can die.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use flocker_api::{
    app::{App, AppRoute, MovePolicy},
    client::Endpoint,
    container::{ContainerSpec, ContainerState, Mount},
    control::{MoveRequest, MoveState, MoveStatus},
    gate::Token,
    name::{AppName, EdgeName, MoveId, VolumeId},
    route::{OnMove, Route, RouteKey},
    volume::{Epoch, Role},
};
use flocker_control::{
    config::{EdgeSite, Limits, Topology},
    driver::{
        context::{Clock, Context},
        control::Control,
        store::{Durability, MemoryStore, Store, StoreError},
    },
    logic::state::{AppRecord, Change, Primary, State},
};
use tokio::{sync::Notify, time::Instant};

use super::{Container, Copy, Edge, Inner, Node, World, edges, node_name};

/// Nothing in a test takes longer than this, on the virtual clock.
const DEADLINE: Duration = Duration::from_secs(600);

pub struct Cluster {
    pub world: Arc<World>,
    pub store: Arc<MemoryStore>,
}

/// A store whose control dies at a commit.
pub struct BrittleStore {
    inner: Arc<MemoryStore>,
    left: AtomicUsize,
    died: AtomicBool,
    loses: Loses,
    pub dead: Notify,
}

/// What is lost with a control that dies at a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loses {
    /// The commit itself.
    Commit,
    /// Only the news that it is committed.
    Answer,
    /// The commit and all before it that were not synced.
    Unsynced,
}

impl BrittleStore {
    /// Commits `good` times, then dies.
    pub fn new(inner: &Arc<MemoryStore>, good: usize, loses: Loses) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            left: AtomicUsize::new(good),
            died: AtomicBool::new(false),
            loses,
            dead: Notify::new(),
        })
    }

    /// How many more commits it takes.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

impl Store for BrittleStore {
    fn read(&self) -> Result<State, StoreError> {
        self.inner.read()
    }

    fn commit(&self, changes: &[Change], durability: Durability) -> Result<(), StoreError> {
        let take = |left: usize| left.checked_sub(1);
        let order = Ordering::Relaxed;
        if self.left.fetch_update(order, order, take).is_ok() {
            return self.inner.commit(changes, durability);
        }
        // Whatever is tried after its death is lost in either case.
        let first = !self.died.swap(true, order);
        if first && self.loses == Loses::Answer {
            self.inner.commit(changes, durability)?;
        }
        self.dead.notify_one();
        Err(StoreError::Storage("killed".into()))
    }
}

pub fn notes() -> AppName {
    "notes".parse().expect("a name")
}

pub fn volume() -> VolumeId {
    VolumeId(uuid::Uuid::from_u128(7))
}

pub fn key() -> RouteKey {
    "http:notes.demo".parse().expect("a key")
}

pub fn app() -> App {
    App {
        container: ContainerSpec {
            ports: vec![8081],
            volumes: vec![Mount {
                volume: volume(),
                name: "notes".parse().expect("a name"),
                mountpoint: "/data".into(),
            }],
            pre_stop: Some(vec!["true".to_owned()]),
            ..ContainerSpec::new(notes(), "notes")
        },
        volume_sizes: vec![None],
        routes: vec![AppRoute {
            key: key(),
            port: 8081,
            on_move: OnMove::Close,
            options: flocker_api::options::RouteOptions::default(),
        }],
        depends_on: Vec::new(),
        move_policy: MovePolicy::default(),
        replication: None,
    }
}

impl Cluster {
    /// Nodes and edges, and nothing on them.
    pub fn empty() -> Self {
        let cluster = Self {
            world: Arc::default(),
            store: Arc::default(),
        };
        let mut inner = cluster.world.lock();
        for (name, address) in [("n1", "127.0.1.1"), ("n2", "127.0.2.1")] {
            let node = Node {
                address: address.parse().expect("an address"),
                alive: true,
                copies: std::collections::BTreeMap::new(),
                containers: std::collections::BTreeMap::new(),
                objections: Vec::new(),
                owned: Vec::new(),
            };
            inner.nodes.insert(node_name(name), node);
        }
        for name in edge_names() {
            inner.edges.insert(name, blank_edge());
        }
        drop(inner);
        cluster
    }

    /// The app is declared, and nothing has been done for it.
    pub fn declared() -> Self {
        let cluster = Self::empty();
        cluster.declare(AppRecord::new(app()));
        let primary = Primary {
            node: node_name("n1"),
            epoch: Epoch(1),
        };
        let app = notes();
        let placed = cluster
            .store
            .commit(&[Change::PlacePrimary { app, primary }], Durability::Synced);
        placed.expect("memory works");
        cluster
    }

    /// The app serves on n1.
    pub fn serving() -> Self {
        Self::serving_with(app())
    }

    pub fn serving_with(app: App) -> Self {
        let cluster = Self::declared();
        let mut record = AppRecord::new(app.clone());
        record.made.insert(volume());
        record.started = true;
        cluster.declare(record);
        let mut inner = cluster.world.lock();
        let node = inner.nodes.get_mut(&node_name("n1")).expect("n1 exists");
        let copy = Copy {
            name: "notes".parse().expect("a name"),
            role: Role::Primary,
            epoch: Epoch(1),
            mounted: true,
            content: Vec::new(),
            replication: None,
        };
        node.copies.insert(volume(), copy);
        let container = Container {
            spec: app.container,
            epoch: Epoch(1),
            state: ContainerState::Running,
        };
        node.containers.insert(notes(), container);
        let upstream = std::net::SocketAddr::new(node.address, 8081);
        for edge in inner.edges.values_mut() {
            let route = Route::new(key(), [upstream]);
            edges::put(edge, route);
        }
        drop(inner);
        cluster
    }

    pub fn declare(&self, record: AppRecord) {
        let record = Box::new(record);
        let put = self
            .store
            .commit(&[Change::PutApp { record }], Durability::Synced);
        put.expect("memory works");
    }

    /// A control on the cluster's own store.
    pub fn control(&self) -> Arc<Control> {
        self.control_on(Arc::clone(&self.store) as Arc<dyn Store>)
    }

    pub fn control_on(&self, store: Arc<dyn Store>) -> Arc<Control> {
        let wire = Arc::clone(&self.world);
        let clock = Clock::starting_at(1_000_000.0 + since_start_ms());
        let context = Context::new(store, wire, topology(), Limits::default(), clock);
        Control::new(context.expect("memory works"))
    }

    /// A fresh control brings everything to an end; then all must be well.
    pub async fn finish(&self) -> State {
        let control = self.control();
        control.resume_moves();
        control.start();
        self.settled().await;
        control.stop().await;
        self.check();
        self.store.read().expect("memory works")
    }

    /// Waits until no move runs and the world is as the store says.
    pub async fn settled(&self) {
        let settled = self.until(|state, inner| {
            state.unfinished().next().is_none() && disorder_of(state, inner).is_empty()
        });
        if !settled.await {
            let state = self.store.read().expect("memory works");
            let unfinished: Vec<_> = state.unfinished().collect();
            panic!(
                "{:?}; {unfinished:#?}",
                disorder_of(&state, &self.world.lock())
            );
        }
    }

    /// Waits until something is so; `false` when it does not come to be.
    pub async fn until(&self, so: impl Fn(&State, &Inner) -> bool) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            let state = self.store.read().expect("memory works");
            if so(&state, &self.world.lock()) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// What must hold at the end of everything.
    pub fn check(&self) {
        let state = self.store.read().expect("memory works");
        let mut inner = self.world.lock();
        inner.traffic();
        assert_eq!(inner.violations, Vec::<String>::new());
        assert_eq!(disorder_of(&state, &inner), Vec::<String>::new());
        let primary = &state.primaries[&notes()];
        let copies = inner.nodes[&primary.node].copies.values();
        let kept: BTreeSet<_> = copies.flat_map(|copy| &copy.content).collect();
        let mut acknowledged = inner.acknowledged.iter();
        let lost = acknowledged.find(|number| !kept.contains(number));
        assert_eq!(lost, None, "an acknowledged write is lost");
        assert!(!inner.acknowledged.is_empty(), "there was no traffic");
    }
}

/// Starts a move of the app to n2.
pub async fn begin(control: &Control) -> MoveStatus {
    let request = MoveRequest {
        app: notes(),
        to: node_name("n2"),
    };
    control
        .begin_move(&request)
        .await
        .expect("nothing stands against it")
}

/// Waits until a move has ended, or got stuck.
pub async fn ended(control: &Control, id: MoveId) -> MoveStatus {
    let deadline = Instant::now() + DEADLINE;
    let mut revision = 0;
    while Instant::now() < deadline {
        let status = control
            .move_status(id, revision, Duration::from_secs(60))
            .await;
        let status = status.expect("the move exists");
        if !matches!(status.state, MoveState::Running | MoveState::Undoing) {
            return status;
        }
        revision = status.revision;
    }
    panic!("the move does not end")
}

/// In what the world differs from what the store says it should be.
pub fn disorder_of(state: &State, inner: &Inner) -> Vec<String> {
    let mut disorder = Vec::new();
    let Some(primary) = state.primaries.get(&notes()) else {
        return vec!["the app has no primary".to_owned()];
    };
    let mounts = &state.apps[&notes()].app.container.volumes;
    let volume = mounts.first().map_or_else(volume, |mount| mount.volume);
    for (name, node) in inner.nodes.iter().filter(|(_, node)| node.alive) {
        let here = *name == primary.node;
        let container = node.containers.get(&notes());
        let runs = container.is_some_and(|c| c.state == ContainerState::Running);
        if here != runs || (!here && container.is_some()) {
            disorder.push(format!("{name}: its container runs: {runs}"));
        }
        let copy = node.copies.get(&volume);
        let writable = copy.is_some_and(|c| c.role == Role::Primary);
        if here != writable || (here && copy.is_some_and(|c| c.epoch != primary.epoch)) {
            disorder.push(format!("{name}: its copy is primary: {writable}"));
        }
    }
    let address = inner.nodes[&primary.node].address;
    for (name, edge) in inner.edges.iter().filter(|(_, edge)| edge.alive) {
        match edge.routes.get(&key()) {
            None => disorder.push(format!("{name} has no route")),
            Some(entry) if edges::upstream(entry).ip() != address => {
                disorder.push(format!("{name} leads to {:?}", entry.route.upstreams));
            }
            Some(entry) => {
                if entry
                    .paused
                    .is_some_and(|(_, lapses)| Instant::now() < lapses)
                {
                    disorder.push(format!("{name} is paused by {}", entry.token));
                }
            }
        }
    }
    disorder
}

pub fn blank_edge() -> Edge {
    Edge {
        alive: true,
        generation: flocker_api::route::Generation(1),
        routes: std::collections::BTreeMap::new(),
    }
}

/// An edge has seen a pause by someone else.
pub fn with_token(edge: &mut Edge, token: u64) {
    for entry in edge.routes.values_mut() {
        entry.token = Token(token);
    }
}

pub fn edge_names() -> [EdgeName; 3] {
    ["e1", "e2", "e3"].map(|name| name.parse().expect("a name"))
}

fn topology() -> Topology {
    let node = |name: &str, port: u16| (node_name(name), ([127, 0, 0, 1], port).into());
    let site = |(name, port): (EdgeName, u16)| {
        let admin = Endpoint::Tcp(([127, 0, 0, 1], port).into());
        let node = node_name("n1");
        let tls = false;
        let links = true;
        let site = EdgeSite {
            node,
            admin,
            tls,
            links,
        };
        (name, site)
    };
    Topology {
        nodes: [node("n1", 1), node("n2", 2)].into(),
        edges: edge_names().into_iter().zip(3..).map(site).collect(),
    }
}

/// Time of the virtual clock, so that a fresh control's clock goes on where the last one's was.
fn since_start_ms() -> f64 {
    static START: std::sync::OnceLock<std::sync::Mutex<Option<Instant>>> =
        std::sync::OnceLock::new();
    let start = START.get_or_init(std::sync::Mutex::default);
    let mut start = start.lock().expect("nobody panics with it");
    let now = Instant::now();
    let start = start.get_or_insert(now);
    // Each test has a clock of its own; one that began later counts from its own beginning.
    now.saturating_duration_since(*start).as_secs_f64() * 1e3
}
