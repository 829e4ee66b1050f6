//! Each verb against each thing that it can meet.

use flocker_api::container::Mount;

use super::*;

fn spec(image: &str) -> ContainerSpec {
    ContainerSpec {
        ports: vec![8081],
        volumes: vec![Mount {
            volume: VolumeId(uuid::Uuid::from_u128(7)),
            name: "notes".parse().unwrap(),
            mountpoint: "/data".into(),
        }],
        ..ContainerSpec::new("notes".parse().unwrap(), image)
    }
}

fn container(state: ContainerState, epoch: u64) -> Container {
    Container {
        spec: spec("a"),
        epoch: Epoch(epoch),
        state,
        runtime_id: "1".to_owned(),
        pid: None,
    }
}

const EXITED: ContainerState = ContainerState::Exited { code: 3 };

/// Asks one question about a container of epoch 2 in the given state.
fn ask<T>(
    state: Option<ContainerState>,
    epoch: u64,
    question: impl FnOnce(&Decide<'_>) -> Result<T, Refusal>,
) -> Result<T, ErrorCode> {
    let existing = state.map(|state| container(state, 2));
    let decide = Decide {
        node: &"n1".parse().unwrap(),
        app: &"notes".parse().unwrap(),
        existing: existing.as_ref(),
        epoch: Epoch(epoch),
    };
    question(&decide).map_err(|refusal| ErrorBody::from(refusal).code)
}

#[test]
fn create_keeps_the_same_replaces_the_stopped_and_refuses_the_running() {
    use ContainerState::{Created, Running};
    let same = |decide: &Decide<'_>| decide.create(&spec("a"));
    let other = |decide: &Decide<'_>| decide.create(&spec("b"));
    assert_eq!(ask(None, 2, same), Ok(Create::Make));
    for state in [Created, Running, EXITED] {
        assert_eq!(ask(Some(state.clone()), 2, same), Ok(Create::Keep));
        assert_eq!(ask(Some(state), 1, same), Err(ErrorCode::StaleEpoch));
    }
    for state in [Created, EXITED] {
        assert_eq!(ask(Some(state.clone()), 2, other), Ok(Create::Replace));
        assert_eq!(ask(Some(state), 3, same), Ok(Create::Replace));
    }
    assert_eq!(ask(Some(Running), 2, other), Err(ErrorCode::Busy));
    assert_eq!(ask(Some(Running), 3, same), Err(ErrorCode::Busy));
}

#[test]
fn start_needs_a_container_of_its_very_epoch() {
    use ContainerState::{Created, Running};
    let start = |decide: &Decide<'_>| decide.start();
    assert_eq!(ask(None, 2, start), Err(ErrorCode::NotFound));
    assert_eq!(ask(Some(Created), 2, start), Ok(Start::Start));
    assert_eq!(ask(Some(EXITED), 2, start), Ok(Start::Start));
    assert_eq!(ask(Some(Running), 2, start), Ok(Start::Await));
    assert_eq!(ask(Some(Running), 1, start), Err(ErrorCode::StaleEpoch));
    assert_eq!(ask(Some(Created), 3, start), Err(ErrorCode::Precondition));
}

#[test]
fn stop_is_success_when_nothing_runs_and_a_newer_epoch_may_stop_an_older_one() {
    use ContainerState::{Created, Running};
    let stop = |decide: &Decide<'_>| decide.stop();
    assert_eq!(ask(None, 2, stop), Ok(Stop::Nothing));
    assert_eq!(
        ask(Some(Created), 2, stop),
        Ok(Stop::Prove { exit_code: None })
    );
    assert_eq!(
        ask(Some(EXITED), 2, stop),
        Ok(Stop::Prove { exit_code: Some(3) })
    );
    let unseen = ContainerState::Exited { code: EXIT_UNKNOWN };
    assert_eq!(
        ask(Some(unseen), 2, stop),
        Ok(Stop::Prove { exit_code: None })
    );
    assert_eq!(ask(Some(Running), 3, stop), Ok(Stop::Stop));
    assert_eq!(ask(Some(Running), 1, stop), Err(ErrorCode::StaleEpoch));
}

#[test]
fn remove_never_takes_a_running_one() {
    use ContainerState::{Created, Running};
    let remove = |decide: &Decide<'_>| decide.remove();
    assert_eq!(ask(None, 2, remove), Ok(Remove::Nothing));
    assert_eq!(ask(Some(Created), 2, remove), Ok(Remove::Remove));
    assert_eq!(ask(Some(EXITED), 5, remove), Ok(Remove::Remove));
    assert_eq!(ask(Some(Running), 2, remove), Err(ErrorCode::Busy));
    assert_eq!(ask(Some(EXITED), 1, remove), Err(ErrorCode::StaleEpoch));
}

#[test]
fn pre_stop_needs_a_running_one() {
    let hook = |decide: &Decide<'_>| decide.pre_stop().map(|found| found.epoch);
    assert_eq!(ask(None, 2, hook), Err(ErrorCode::NotFound));
    assert_eq!(ask(Some(EXITED), 2, hook), Err(ErrorCode::Precondition));
    assert_eq!(ask(Some(ContainerState::Running), 2, hook), Ok(Epoch(2)));
}

#[test]
fn a_stale_epoch_is_told_the_current_one() {
    let refusal = Refusal::StaleEpoch {
        what: "volume notes".to_owned(),
        node: "n1".parse().unwrap(),
        current: Epoch(4),
        asked: Epoch(3),
    };
    let body = ErrorBody::from(refusal);
    assert_eq!(body.details, json!({"asked": 3, "current": 4}));
    assert_eq!(
        body.message,
        "volume notes is at epoch 4 on n1; the request was made under epoch 3"
    );
}

#[test]
fn a_specification_that_cannot_be_is_refused_with_its_reason() {
    type Spoil = fn(&mut ContainerSpec);
    let spoils: [(Spoil, &str); 9] = [
        (|spec| spec.image.clear(), "names no image"),
        (
            |spec| spec.stop.signal = "SIGFOO".to_owned(),
            "'SIGFOO' is no signal",
        ),
        (|spec| spec.ports.push(0), "port 0"),
        (
            |spec| spec.command = Some(Vec::new()),
            "a command needs a program",
        ),
        (
            |spec| spec.pre_stop = Some(Vec::new()),
            "a command needs a program",
        ),
        (
            |spec| spec.volumes[0].mountpoint = "data".into(),
            "absolute path",
        ),
        (
            |spec| spec.volumes[0].mountpoint = "/a/../b".into(),
            "absolute path",
        ),
        (
            |spec| spec.volumes.push(spec.volumes[0].clone()),
            "two volumes",
        ),
        (
            |spec| {
                spec.ready = Some(Probe::Http {
                    port: 1,
                    path: "healthz".to_owned(),
                    timeout_ms: 1,
                });
            },
            "must begin with /",
        ),
    ];
    assert_eq!(check_spec(&spec("a")), Ok(()));
    for (spoil, reason) in spoils {
        let mut spec = spec("a");
        spoil(&mut spec);
        let message = check_spec(&spec).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
        assert!(message.contains("notes"), "{message}");
    }
}

#[test]
fn flockers_own_variables_win() {
    let mut spec = spec("a");
    spec.environment
        .insert("FLOCKER_NODE".to_owned(), "lie".to_owned());
    spec.environment.insert("MODE".to_owned(), "own".to_owned());
    let image = BTreeMap::from([
        ("MODE".to_owned(), "image".to_owned()),
        ("PATH".to_owned(), "/bin".to_owned()),
    ]);
    let found = environment(
        &image,
        &spec,
        &"n1".parse().unwrap(),
        IpAddr::from([127, 0, 0, 11]),
        Some(&PathBuf::from("/data")),
    );
    let found: Vec<_> = found.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        found,
        [
            "FLOCKER_ADDRESS=127.0.0.11",
            "FLOCKER_APP=notes",
            "FLOCKER_NODE=n1",
            "FLOCKER_VOLUME=/data",
            "MODE=own",
            "PATH=/bin"
        ]
    );
}
