//! The HTTP API on a real socket of each kind, over a simulated world.

mod world;

use std::{os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc, time::Duration};

use flocker_api::{
    ErrorBody, ErrorCode,
    client::{Client, Endpoint},
    control::{
        AppStatus, ClusterStatus, DeployReply, DeployRequest, EdgeOutcome, FanOut, MoveRequest,
        MoveState, MoveStatus, SourceFile,
    },
    doctor::{Diagnosis, Level},
    edge::{RouteTable, TransactionReply},
    gate::{PauseReply, PauseRequest, QuiesceReply, QuiesceRequest, ResumeReply, ResumeRequest},
    route::{Operation, Route, Transaction},
};
use flocker_control::driver::{control::Control, server};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use world::{Cluster, edge_names, key, node_name, notes};

const LONG: Duration = Duration::from_secs(20);

/// A control of a serving app, and clients of both its sockets.
struct Api {
    cluster: Cluster,
    control: Arc<Control>,
    tcp: Client,
    unix: Client,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

async fn api() -> Api {
    let cluster = Cluster::serving();
    let control = cluster.control();
    control.start();
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control.sock");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let unix = server::bind_unix(&socket).expect("a socket");
    let served = server::serve(
        Arc::clone(&control),
        listener,
        Some(unix),
        std::future::pending(),
    );
    tokio::spawn(served);
    Api {
        cluster,
        control,
        tcp: Client::new(Endpoint::Tcp(address), "control"),
        unix: Client::new(Endpoint::Unix(socket.clone()), "control"),
        socket,
        _folder: folder,
    }
}

impl Api {
    async fn get<A: serde::de::DeserializeOwned>(&self, path: &str) -> Result<A, ErrorBody> {
        self.tcp.get(path, LONG).await
    }

    async fn post<Q: serde::Serialize + Sync, A: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<A, ErrorBody> {
        self.tcp.post(path, request, LONG).await
    }
}

#[tokio::test]
async fn status_is_served_on_both_sockets_and_only_to_their_owner() {
    let api = api().await;
    let status: ClusterStatus = api.get("/v2/status").await.unwrap();
    assert_eq!(
        (status.nodes.len(), status.edges.len(), status.apps.len()),
        (2, 3, 1)
    );
    let app: AppStatus = api.unix.get("/v2/apps/notes", LONG).await.unwrap();
    assert_eq!(app.node, node_name("n1"));
    let mode = std::fs::metadata(&api.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let taken = server::bind_unix(&api.socket).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    api.control.stop().await;
}

#[tokio::test]
async fn a_move_is_followed_by_its_revisions() {
    let api = api().await;
    let request = MoveRequest {
        app: notes(),
        to: node_name("n2"),
    };
    let mut status: MoveStatus = api.post("/v2/moves", &request).await.unwrap();
    let mut revisions = vec![status.revision];
    while status.state == MoveState::Running {
        let path = format!(
            "/v2/moves/{}?after={}&wait_ms=10000",
            status.id, status.revision
        );
        status = api.get(&path).await.unwrap();
        revisions.push(status.revision);
    }
    assert_eq!(status.state, MoveState::Done, "{status:#?}");
    assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    // Nothing newer comes: the answer comes when the wait is over.
    let path = format!(
        "/v2/moves/{}?after={}&wait_ms=10",
        status.id, status.revision
    );
    assert_eq!(
        api.get::<MoveStatus>(&path).await.unwrap().revision,
        status.revision
    );
    let all: Vec<MoveStatus> = api.get("/v2/moves").await.unwrap();
    assert_eq!(all.len(), 1);
    api.control.stop().await;
    api.cluster.world.lock().traffic();
}

#[tokio::test]
async fn gates_and_routes_reach_all_edges() {
    let api = api().await;
    let keys = vec![key()];
    let pause = PauseRequest {
        token: None,
        keys: keys.clone(),
        limits: flocker_api::gate::HoldLimits::default(),
    };
    let paused: FanOut<PauseReply> = api.post("/v2/gates/pause", &pause).await.unwrap();
    assert_eq!(paused.edges.len(), edge_names().len());
    let token = paused.token;
    assert!(
        paused
            .edges
            .iter()
            .all(|edge| edge.result == Ok(PauseReply { token }))
    );
    let quiesce = QuiesceRequest {
        token,
        keys: keys.clone(),
        deadline_ms: 100,
    };
    let quiet: FanOut<QuiesceReply> = api.post("/v2/gates/quiesce", &quiesce).await.unwrap();
    assert!(quiet.edges.iter().all(|edge| edge.result.is_ok()));
    let resume = ResumeRequest { token, keys };
    let resumed: FanOut<ResumeReply> = api.post("/v2/gates/resume", &resume).await.unwrap();
    assert!(resumed.edges.iter().all(|edge| edge.result.is_ok()));
    let again: FanOut<ResumeReply> = api.post("/v2/gates/resume", &resume).await.unwrap();
    let codes = again
        .edges
        .iter()
        .map(|edge| edge.result.as_ref().unwrap_err().code);
    assert!(codes.into_iter().all(|code| code == ErrorCode::NotPaused));
    let route = Route::new(
        "tcp:9".parse().unwrap(),
        ["127.0.1.1:8081".parse::<std::net::SocketAddr>().unwrap()],
    );
    let change = Transaction {
        against: None,
        operations: vec![Operation::Add { route }],
    };
    let changed: Vec<EdgeOutcome<TransactionReply>> =
        api.post("/v2/routes", &change).await.unwrap();
    assert!(changed.iter().all(|edge| edge.result.is_ok()));
    let tables: Vec<EdgeOutcome<RouteTable>> = api.get("/v2/routes").await.unwrap();
    assert!(
        tables
            .iter()
            .all(|edge| edge.result.as_ref().unwrap().routes.len() == 2)
    );
    api.control.stop().await;
}

#[tokio::test]
async fn errors_carry_code_and_words() {
    let api = api().await;
    let error = api.get::<Value>("/v2/nonsense").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
    let error = api.get::<Value>("/v2/apps/x").await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (ErrorCode::NotFound, "there is no app 'x'")
    );
    let error = api.get::<Value>("/v2/moves/7").await.unwrap_err();
    assert!(error.message.starts_with("'7' is no move: "), "{error}");
    let wrong = json!({ "app": "notes", "to": "n2", "fast": true });
    let error = api.post::<_, Value>("/v2/moves", &wrong).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidRequest);
    assert!(error.message.contains("unknown field `fast`"), "{error}");
    let error = api
        .post::<_, Value>("/v2/gates/open", &json!({}))
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
    let file = SourceFile {
        name: "a.yml".to_owned(),
        text: "version: 1\napplications: 7\n".to_owned(),
    };
    let deploy = DeployRequest {
        files: vec![file],
        ..DeployRequest::default()
    };
    let error = api
        .post::<_, DeployReply>("/v2/deploy", &deploy)
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidRequest);
    assert!(error.message.contains("a.yml:2:"), "{error}");
    api.control.stop().await;
}

#[tokio::test]
async fn nodes_are_examined() {
    let api = api().await;
    let observed = async {
        loop {
            let status: ClusterStatus = api.get("/v2/status").await.unwrap();
            if status.nodes.iter().all(|node| node.status.is_ok()) {
                break;
            }
        }
    };
    tokio::time::timeout(LONG, observed)
        .await
        .expect("observed");
    let diagnosis: Diagnosis = api.get("/v2/nodes/n1/doctor").await.unwrap();
    let peers = &diagnosis.findings[0];
    assert_eq!((peers.check.as_str(), peers.found.as_str()), ("peers", "2"));
    // The simulated node's clock stands at 0.
    assert_eq!(diagnosis.findings[1].check, "clock");
    assert_eq!(diagnosis.level(), Level::Warn);
    api.cluster.world.kill("n1");
    let diagnosis: Diagnosis = api.get("/v2/nodes/n1/doctor").await.unwrap();
    assert_eq!(diagnosis.level(), Level::Fail);
    assert!(
        diagnosis.findings[0]
            .found
            .contains("agent of n1 does not answer")
    );
    let error = api.get::<Value>("/v2/nodes/n9/doctor").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
}
