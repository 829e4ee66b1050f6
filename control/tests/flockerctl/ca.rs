//! Certificates: an authority, programs, and a control service that is spoken to by TLS.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
};

use flocker_api::tls::{Credentials, Files, Listener, Role};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{assert_has, flockerctl};

fn ca(dir: &Path, args: &[&str]) -> Output {
    let mut command = flockerctl(&["ca"]);
    command.arg("--dir").arg(dir).args(args);
    command
        .output()
        .expect("the program was built with this test")
}

fn done(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn authority() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("ca");
    done(&ca(&dir, &["init"]));
    (folder, dir)
}

#[test]
fn a_node_gets_its_certificate_once_and_again_on_demand() {
    let (_folder, dir) = authority();
    assert_has(
        &refused(&ca(&dir, &["init"])),
        &["an authority is made once"],
    );
    let node = ["node", "n1", "--address", "10.0.0.1", "10.0.0.2"];
    assert_has(
        &done(&ca(&dir, &node)),
        &["node-n1", "node n1", "it ends in 90 days"],
    );
    let files = Files::in_folder(&dir.join("node-n1"));
    let mode = std::fs::metadata(&files.key)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let first = std::fs::read(&files.key).expect("it is there");

    assert_has(&refused(&ca(&dir, &node)), &["--renew"]);
    assert_eq!(std::fs::read(&files.key).expect("it is there"), first);
    let renewed = [&node[..], &["--days", "10", "--renew"]].concat();
    assert_has(&done(&ca(&dir, &renewed)), &["it ends in 10 days"]);
    assert_ne!(std::fs::read(&files.key).expect("it is there"), first);

    done(&ca(&dir, &["operator", "ann", "--days", "1"]));
    let list = done(&ca(&dir, &["ls"]));
    assert_has(
        &list,
        &["node      n1    in 10 days", "operator  ann   in 1 day "],
    );
}

#[test]
fn what_is_missing_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = folder.path().join("nowhere");
    let text = refused(&ca(&nowhere, &["operator", "ann"]));
    assert_has(&text, &["nowhere/ca.pem", "flockerctl ca init"]);
    let (_folder, dir) = authority();
    assert_has(&refused(&ca(&dir, &["node", "n1"])), &["add --address"]);
    let slash = ["node", "a/b", "--address", "10.0.0.1", "--out", "x"];
    assert_has(
        &refused(&ca(&dir, &slash)),
        &["'a/b' cannot be in a certificate"],
    );
}

/// A control that answers one request with an empty list of moves, whoever asks.
async fn control(dir: &Path, role: &str) -> String {
    done(&ca(dir, &[role, "control", "--address", "127.0.0.1"]));
    let files = Files::in_folder(&dir.join(format!("{role}-control")));
    let credentials = Credentials::load(files).expect("it was made just now");
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut listener = Listener::new(tcp, Some(credentials), &[Role::Operator]);
    let address = listener.local_addr().expect("it is bound").to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, ..) = listener.accept().await;
            // A request of this client fits into one read.
            drop(stream.read(&mut [0; 4096]).await);
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]";
            drop(stream.write_all(answer.as_bytes()).await);
        }
    });
    address
}

async fn moves(address: &str, tls: Option<PathBuf>) -> Output {
    let mut command = flockerctl(&["moves", "--json", "--control", address]);
    if let Some(tls) = tls {
        command.arg("--tls").arg(tls);
    }
    let run = tokio::task::spawn_blocking(move || command.output());
    let ended = run.await.expect("it does not panic");
    ended.expect("the program was built with this test")
}

#[tokio::test]
async fn control_is_spoken_to_by_tls() {
    let (_folder, dir) = authority();
    let address = control(&dir, "control").await;
    done(&ca(&dir, &["operator", "ann"]));
    done(&ca(&dir, &["node", "n1", "--address", "127.0.0.1"]));
    let ann = dir.join("operator-ann");
    assert_eq!(done(&moves(&address, Some(ann.clone())).await), "[]\n");
    // Who is no operator, or nobody, gets no answer.
    for tls in [Some(dir.join("node-n1")), None] {
        assert_eq!(moves(&address, tls).await.status.code(), Some(1));
    }
    // An edge that calls itself control is none.
    let edge = control(&dir, "edge").await;
    let output = moves(&edge, Some(ann)).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_has(
        &text,
        &["it is edge control; control at 127.0.0.1 was meant"],
    );
}
