//! The whole control service against a simulated world: what is deployed comes to be, and
//! comes back when nodes and edges lose it.

mod world;

use std::sync::Arc;

use flocker_api::{
    ErrorCode,
    container::ContainerState,
    control::{AppPhase, DeployChange, DeployReply, DeployRequest, SourceFile},
    volume::Epoch,
};
use flocker_control::{driver::control::Control, error::Refusal};
use world::{Cluster, Fault, blank_edge, edge_names, key, node_name, notes};

const APPLICATION: &str = r#"
version: 1
applications:
  notes:
    image: "IMAGE"
    volume: {mountpoint: "/data"}
    x-flocker:
      routes: [{key: "http:notes.demo", port: 8081}]
"#;

const DEPLOYMENT: &str = "version: 1\nnodes: {NODE: [notes]}\n";

fn request(image: &str, node: &str) -> DeployRequest {
    let file = |name: &str, text: String| SourceFile {
        name: name.to_owned(),
        text,
    };
    DeployRequest {
        files: vec![
            file("application.yml", APPLICATION.replace("IMAGE", image)),
            file("deployment.yml", DEPLOYMENT.replace("NODE", node)),
        ],
        ..DeployRequest::default()
    }
}

async fn deploy(control: &Control, image: &str, node: &str) -> DeployReply {
    let deployed = control.deploy(&request(image, node)).await;
    deployed.expect("the files are right")
}

/// Two nodes and three edges, the app deployed on n1 and serving.
async fn serving() -> (Cluster, Arc<Control>) {
    let cluster = Cluster::empty();
    let control = cluster.control();
    control.start();
    let reply = deploy(&control, "notes:1", "n1").await;
    assert!(matches!(&reply.changes[..], [DeployChange::Create { .. }]));
    serves(&cluster, &control, "notes:1", "n1").await;
    (cluster, control)
}

/// Waits until the app serves with this image on this node.
async fn serves(cluster: &Cluster, control: &Control, image: &str, node: &str) {
    let served = cluster.until(|state, inner| {
        let container = inner.nodes[&node_name(node)].containers.get(&notes());
        let runs = container.is_some_and(|container| {
            container.state == ContainerState::Running && container.spec.image == image
        });
        let status = control.app(&notes());
        let serving = status.is_ok_and(|status| status.phase == AppPhase::Serving);
        runs && serving && world::disorder_of(state, inner).is_empty()
    });
    assert!(served.await, "{:#?}", control.status());
    assert_eq!(cluster.world.lock().violations, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_is_deployed_comes_to_be() {
    let (cluster, control) = serving().await;
    let status = control.app(&notes()).unwrap();
    assert_eq!((status.node, status.epoch), (node_name("n1"), Epoch(1)));
    assert_eq!(control.status().problems, []);
    let again = deploy(&control, "notes:1", "n1").await;
    assert_eq!(again.changes, []);
    control.stop().await;
    cluster.world.lock().traffic();
    assert!(!cluster.world.lock().acknowledged.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_changes_nothing() {
    let cluster = Cluster::empty();
    let control = cluster.control();
    let mut request = request("notes:1", "n1");
    request.dry_run = true;
    let reply = control.deploy(&request).await.unwrap();
    assert!(matches!(&reply.changes[..], [DeployChange::Create { .. }]));
    assert!(control.app(&notes()).is_err());
}

#[tokio::test(start_paused = true)]
async fn all_errors_of_the_files_come_back_with_their_places() {
    let cluster = Cluster::empty();
    let control = cluster.control();
    let mut request = request("notes:1", "n1");
    request.files[0].text = request.files[0].text.replace("image:", "imag:");
    request.files[1].text = request.files[1].text.replace("version: 1", "version: 7");
    let refusal = control.deploy(&request).await.unwrap_err();
    assert_eq!(refusal.code(), ErrorCode::InvalidRequest);
    let message = refusal.to_string();
    assert!(message.contains("application.yml:5:"), "{message}");
    assert!(message.contains("deployment.yml:1:"), "{message}");
    let request = self::request("notes:1", "n7");
    let message = control.deploy(&request).await.unwrap_err().to_string();
    assert!(
        message.contains("node 'n7', which is not there; the nodes are n1, n2"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_changed_image_is_started_in_place_of_the_old_one() {
    let (cluster, control) = serving().await;
    let reply = deploy(&control, "notes:2", "n1").await;
    let [
        DeployChange::Change {
            app,
            fields,
            restarts: true,
        },
    ] = &reply.changes[..]
    else {
        panic!("{reply:?}")
    };
    assert_eq!((app, fields.len()), (&notes(), 1));
    serves(&cluster, &control, "notes:2", "n1").await;
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_node_in_the_deployment_is_a_move() {
    let (cluster, control) = serving().await;
    let reply = deploy(&control, "notes:1", "n2").await;
    assert!(matches!(&reply.changes[..], [DeployChange::Move { .. }]));
    serves(&cluster, &control, "notes:1", "n2").await;
    assert_eq!(control.moves().len(), 1);
    assert_eq!(control.app(&notes()).unwrap().epoch, Epoch(2));
    control.stop().await;
    cluster.check();
}

#[tokio::test(start_paused = true)]
async fn replication_follows_the_primary() {
    let cluster = Cluster::empty();
    let control = cluster.control();
    control.start();
    let deploy_on = async |node: &str, more: &str| {
        let mut request = request("notes:1", node);
        request.files[0].text.push_str(more);
        control.deploy(&request).await.expect("the files are right");
    };
    let targets = |world: &world::Inner, node: &str| {
        let copy = world.nodes[&node_name(node)].copies.values().next()?;
        let status = copy.replication.as_ref()?;
        let peers = status.policy.targets.iter();
        let peers: Vec<_> = peers.map(|target| target.peer.to_string()).collect();
        Some((status.epoch.0, peers))
    };
    let copies = "      replication: {nodes: [n1, n2], interval: 10s}\n";
    deploy_on("n1", copies).await;
    let there = Some((1, vec!["n2".to_owned()]));
    assert!(
        cluster
            .until(|_, world| targets(world, "n1") == there)
            .await
    );
    deploy_on("n2", copies).await;
    let back = Some((2, vec!["n1".to_owned()]));
    assert!(cluster.until(|_, world| targets(world, "n2") == back).await);
    assert_eq!(targets(&cluster.world.lock(), "n1"), None);
    deploy_on("n2", "").await;
    assert!(
        cluster
            .until(|_, world| targets(world, "n2").is_none())
            .await
    );
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_app_leaves_only_its_volume_and_finds_it_again() {
    let (cluster, control) = serving().await;
    cluster.world.lock().traffic();
    let before = cluster.world.lock().acknowledged.len();
    control.delete_app(&notes()).await.unwrap();
    let gone = cluster.until(|_, inner| {
        let routes = inner
            .edges
            .values()
            .all(|edge| !edge.routes.contains_key(&key()));
        let containers = inner.nodes.values().all(|node| node.containers.is_empty());
        routes && containers && control.app(&notes()).is_err()
    });
    assert!(gone.await, "{:#?}", control.status());
    let again = control.delete_app(&notes()).await;
    assert!(matches!(again, Err(Refusal::UnknownApp(_))), "{again:?}");
    deploy(&control, "notes:1", "n1").await;
    serves(&cluster, &control, "notes:1", "n1").await;
    let mut inner = cluster.world.lock();
    inner.traffic();
    let copies = &inner.nodes[&node_name("n1")].copies;
    assert_eq!(copies.len(), 1);
    let content = &copies.values().next().unwrap().content;
    assert!(content.len() > before, "what was written before is there");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_exits_is_started_again() {
    let (cluster, control) = serving().await;
    let exit = |state| {
        let mut inner = cluster.world.lock();
        let node = inner.nodes.get_mut(&node_name("n1")).unwrap();
        node.containers.get_mut(&notes()).unwrap().state = state;
    };
    exit(ContainerState::Exited { code: 1 });
    serves(&cluster, &control, "notes:1", "n1").await;
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_boots_gets_its_app_back() {
    let (cluster, control) = serving().await;
    cluster.world.kill("n1");
    let down = cluster.until(|_, _| control.app(&notes()).unwrap().phase == AppPhase::Unknown);
    assert!(down.await);
    let problems = control.status().problems;
    assert_eq!(problems[0].subject, "node n1");
    assert!(problems[0].next.contains("its apps: notes"), "{problems:?}");
    cluster.world.revive("n1");
    serves(&cluster, &control, "notes:1", "n1").await;
    assert_eq!(control.status().problems, []);
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn options_of_a_route_last_as_declared_or_else_as_set_at_the_edge() {
    let (cluster, control) = serving().await;
    for edge in edge_names() {
        let mut world = cluster.world.lock();
        let edge = world.edges.get_mut(&edge).unwrap();
        let route = &mut edge.routes.get_mut(&key()).unwrap().route;
        (route.slow_start_ms, route.connections_max) = (500, 7);
        edge.generation = edge.generation.next();
    }
    let mut request = request("notes:1", "n2");
    let declared = request.files[0]
        .text
        .replace("port: 8081", "port: 8081, connections_max: 9");
    request.files[0].text = declared;
    control.deploy(&request).await.unwrap();
    serves(&cluster, &control, "notes:1", "n2").await;
    for edge in cluster.world.lock().edges.values() {
        let route = &edge.routes[&key()].route;
        assert_eq!((route.slow_start_ms, route.connections_max), (500, 9));
    }
    control.stop().await;
    cluster.check();
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_restarts_gets_its_routes_back() {
    let (cluster, control) = serving().await;
    for edge in edge_names() {
        cluster.world.lock().edges.insert(edge, blank_edge());
    }
    serves(&cluster, &control, "notes:1", "n1").await;
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_started_says_why_and_when_it_is_tried_again() {
    let (cluster, control) = serving().await;
    cluster
        .world
        .script(|call, _| call.is("start").then_some(Fault::Refused));
    deploy(&control, "notes:2", "n1").await;
    // First behind the gates, then by the reconciler, which goes on for as long as it takes.
    for what in ["make its container anew", "start its container"] {
        let begin = format!("cannot {what} on node n1: ");
        let failed = cluster.until(|_, _| {
            let status = control.app(&notes()).expect("it is declared");
            let reason = status.reason.unwrap_or_default();
            status.phase == AppPhase::Failed && reason.starts_with(&begin)
        });
        assert!(failed.await, "{begin}: {:#?}", control.status());
    }
    let problems = control.status().problems;
    assert_eq!(problems[0].subject, "app notes");
    assert!(problems[0].next.starts_with("attempt "), "{problems:?}");
    cluster.world.heal();
    serves(&cluster, &control, "notes:2", "n1").await;
    assert_eq!(control.status().problems, []);
    control.stop().await;
}

/// A reply that is lost leaves a container or a volume that is there already.
#[tokio::test(start_paused = true)]
async fn each_lost_answer_is_made_up_for() {
    for number in 0..40 {
        let cluster = Cluster::empty();
        cluster.world.script(move |call, _| {
            (call.number >= number && call.number < number + 3).then_some(Fault::AnswerLost)
        });
        let control = cluster.control();
        control.start();
        deploy(&control, "notes:1", "n1").await;
        serves(&cluster, &control, "notes:1", "n1").await;
        control.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_that_runs_and_is_not_ready_yet_does_not_count_as_serving() {
    let cluster = Cluster::empty();
    cluster
        .world
        .script(|call, _| call.is("start").then_some(Fault::FreezeAfter));
    let control = cluster.control();
    control.start();
    deploy(&control, "notes:1", "n1").await;
    let seen_running = cluster.until(|_, _| {
        control.status().nodes.iter().any(|node| {
            let mut containers = node.status.iter().flat_map(|status| &status.containers);
            containers.any(|container| container.state == ContainerState::Running)
        })
    });
    assert!(seen_running.await, "{:#?}", control.status());
    let status = control.app(&notes()).unwrap();
    assert_eq!(status.phase, AppPhase::Starting);
    let reason = status.reason.unwrap_or_default();
    assert!(reason.contains("not ready yet"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn every_node_is_confirmed_with_the_volumes_that_are_its() {
    let (cluster, control) = serving().await;
    let owned = |node: &str| {
        let world = cluster.world.lock();
        let owned = &world.nodes[&node_name(node)].owned;
        owned.iter().map(|one| one.epoch).collect::<Vec<_>>()
    };
    let confirmed = async {
        while owned("n1") != [Epoch(1)] {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let ttl = std::time::Duration::from_secs(10);
    tokio::time::timeout(ttl, confirmed)
        .await
        .expect("a lease names the volume");
    assert_eq!(owned("n2"), []);
    drop(control);
}

#[tokio::test(start_paused = true)]
async fn a_change_in_place_holds_requests_and_fails_none() {
    let (cluster, control) = serving().await;
    let (failed, released) = {
        let inner = cluster.world.lock();
        (inner.failed, inner.released)
    };
    deploy(&control, "notes:2", "n1").await;
    serves(&cluster, &control, "notes:2", "n1").await;
    {
        let inner = cluster.world.lock();
        assert_eq!(inner.failed, failed, "a request failed");
        assert!(inner.released > released, "nobody was held");
        let paused = |edge: &world::Edge| edge.routes.values().any(|entry| entry.paused.is_some());
        assert!(!inner.edges.values().any(paused), "a gate is still paused");
    }
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_stands_against_a_change_leaves_the_old_container_running() {
    let (cluster, control) = serving().await;
    let objections = |list: &[&str]| {
        let mut inner = cluster.world.lock();
        let node = inner.nodes.get_mut(&node_name("n1")).expect("n1 exists");
        node.objections = list.iter().map(|text| (*text).to_owned()).collect();
    };
    objections(&["image notes:2 is not on n1"]);
    let stops = cluster.world.lock().stops;
    deploy(&control, "notes:2", "n1").await;
    let refused = cluster.until(|_, _| {
        let status = control.app(&notes());
        status.is_ok_and(|status| {
            let reason = status.reason.unwrap_or_default();
            status.phase == AppPhase::Failed && reason.contains("image notes:2 is not on n1")
        })
    });
    assert!(refused.await, "{:#?}", control.status());
    assert_eq!(
        cluster.world.lock().stops,
        stops,
        "nothing was stopped for it"
    );
    objections(&[]);
    serves(&cluster, &control, "notes:2", "n1").await;
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stale_plan_is_refused() {
    let (_cluster, control) = serving().await;
    let mut shown = request("notes:2", "n1");
    shown.dry_run = true;
    let plan = control.deploy(&shown).await.expect("it can be planned");
    shown.dry_run = false;
    shown.against = Some(plan.version);
    deploy(&control, "notes:3", "n1").await;
    let refusal = control.deploy(&shown).await.unwrap_err();
    assert_eq!(refusal.code(), ErrorCode::StalePlan);
    shown.against = None;
    control
        .deploy(&shown)
        .await
        .expect("without a version it is planned anew");
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pruning_removes_an_app_and_keeps_its_volume() {
    let (cluster, control) = serving().await;
    let mut request = request("notes:1", "n1");
    request.files[0].text = "version: 1\napplications: {}\n".to_owned();
    request.files[1].text = "version: 1\nnodes: {}\n".to_owned();
    let kept = control
        .deploy(&request)
        .await
        .expect("nothing is asked for");
    assert_eq!(kept.changes, [], "who is not named is left alone");
    request.prune = true;
    let reply = control.deploy(&request).await.expect("it can be removed");
    assert!(matches!(&reply.changes[..], [DeployChange::Remove { .. }]));
    let gone = cluster.until(|_, inner| {
        let node = &inner.nodes[&node_name("n1")];
        let routes = inner
            .edges
            .values()
            .map(|edge| edge.routes.len())
            .sum::<usize>();
        node.containers.is_empty() && node.copies.len() == 1 && routes == 0
    });
    assert!(gone.await, "{:#?}", control.status());
    control.stop().await;
}
