//! A node that examines itself.

#![expect(clippy::disallowed_methods, reason = "the program is started")]

use std::process::Command;

use anyhow::Result;
use flocker_api::{
    doctor::{Diagnosis, DoctorRequest, Level, PeerAddress},
    tls::Role,
};

use super::bed::{Agent, App, Ca, DEADLINE, tls};

fn find<'a>(diagnosis: &'a Diagnosis, check: &str) -> &'a flocker_api::doctor::Finding {
    let found = diagnosis.findings.iter().find(|one| one.check == check);
    found.unwrap_or_else(|| panic!("no {check} in\n{diagnosis}"))
}

#[tokio::test]
async fn an_agent_says_what_is_wrong_and_what_to_do() -> Result<()> {
    let ca = Ca::new()?;
    let control = ca.client(Role::Control, "control")?;
    let n1 = tls(&ca.issue(Role::Node, "n1", 60)?);
    let n2 = tls(&ca.issue(Role::Node, "n2", 60)?);
    let n1 = Agent::start("n1", &n1, Some(control.clone())).await?;
    let n2 = Agent::start("n2", &n2, Some(control)).await?;
    let _app = App::start(&n1).await?;
    let peer = |name: &str, to| -> Result<PeerAddress> {
        Ok(PeerAddress {
            node: name.parse()?,
            to,
        })
    };
    let request = DoctorRequest {
        peers: vec![
            peer("n1", n1.replication)?,
            peer("n2", n2.replication)?,
            // Whoever is there is not n3.
            peer("n3", n2.replication)?,
        ],
    };
    let diagnosis: Diagnosis = n1.client.post("/v1/doctor", &request, DEADLINE).await?;
    let level = |check: &str| find(&diagnosis, check).level;
    assert_eq!(level("storage"), Level::Warn, "directories");
    for check in [
        "permissions",
        "mounts",
        "volumes",
        "runtime",
        "certificate",
        "key",
        "fence",
    ] {
        assert_ne!(level(check), Level::Fail, "{diagnosis}");
    }
    assert_eq!(level("certificate"), Level::Ok);
    // The authority of this test ends within its warning.
    assert_eq!(level("authority"), Level::Warn);
    assert_eq!(level("lease"), Level::Warn);
    let peers: Vec<_> = diagnosis
        .findings
        .iter()
        .filter(|one| one.check == "peers")
        .collect();
    let levels: Vec<_> = peers.iter().map(|one| one.level).collect();
    assert_eq!(levels, [Level::Ok, Level::Fail], "{diagnosis}");
    assert!(peers[1].found.starts_with("n3 at "), "{diagnosis}");
    assert_eq!(diagnosis.level(), Level::Fail);
    assert!(
        diagnosis
            .findings
            .iter()
            .all(|one| one.level == Level::Ok || one.remedy.is_some())
    );
    Ok(())
}

#[tokio::test]
async fn a_node_is_examined_beside_its_agent_and_without_one() -> Result<()> {
    let n1 = Agent::start("n1", "", None).await?;
    let _app = App::start(&n1).await?;
    let run = |more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_flocker-storage-agent"))
            .arg("--config")
            .arg(n1.path("agent.toml"))
            .args(["--doctor", "--log", "error"])
            .args(more)
            .output()
    };
    let output = run(&[])?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.contains("warn  certificate   none: whoever reaches"),
        "{text}"
    );
    assert!(
        text.contains("-> make one with 'flockerctl ca node'"),
        "{text}"
    );
    let diagnosis: Diagnosis = serde_json::from_slice(&run(&["--json"])?.stdout)?;
    assert_eq!(diagnosis.node.as_str(), "n1");
    // A storage that is not there is what is found, and no crash.
    let config = std::fs::read_to_string(n1.path("agent.toml"))?;
    let broken = config.replace("/volumes\"", "/images/writer.toml\"");
    assert_ne!(broken, config);
    std::fs::write(n1.path("agent.toml"), broken)?;
    let output = run(&[])?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("fail  storage"), "{text}");
    Ok(())
}
