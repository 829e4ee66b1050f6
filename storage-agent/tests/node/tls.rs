//! Agents that prove who they are.

use anyhow::Result;
use flocker_api::{
    ErrorCode,
    agent::NodeStatus,
    client::{Client, Endpoint},
    tls::{Expected, Identity, Role},
};

use super::bed::{Agent, App, Ca, DEADLINE, spawn, tls};

#[tokio::test]
async fn volumes_go_over_tls_and_certificates_are_renewed_meanwhile() -> Result<()> {
    let ca = Ca::new()?;
    let control = ca.client(Role::Control, "control")?;
    let n1 = tls(&ca.issue(Role::Node, "n1", 1)?);
    let n2 = tls(&ca.issue(Role::Node, "n2", 1)?);
    let n1 = Agent::start("n1", &n1, Some(control.clone())).await?;
    let n2 = Agent::start("n2", &n2, Some(control.clone())).await?;
    let app = App::start(&n1).await?;
    assert!(app.replicate(&n1, &n2).await?.full);

    // Both renewed, and no restart: the next stream and the next request use the new ones.
    ca.issue(Role::Node, "n1", 20)?;
    ca.issue(Role::Node, "n2", 20)?;
    assert!(!app.replicate(&n1, &n2).await?.full);
    assert!(
        n2.log().contains("certificates were read again"),
        "{}",
        n2.log()
    );

    // An agent is commanded by control and operators, not by another node or nobody.
    let ask =
        |client: Client| async move { client.get::<NodeStatus>("/v1/status", DEADLINE).await };
    let plain = Client::new(Endpoint::Tcp(n1.api), "agent");
    let expected = Expected::Named(Identity::new(Role::Node, "n1"));
    let as_role = |role, name| -> Result<Client> {
        Ok(plain
            .clone()
            .with_tls(ca.client(role, name)?, expected.clone()))
    };
    assert!(ask(as_role(Role::Operator, "ann")?).await.is_ok());
    for other in [
        plain.clone(),
        as_role(Role::Node, "n7")?,
        as_role(Role::Edge, "e1")?,
    ] {
        let error = ask(other).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_volume_goes_to_no_other_node_than_the_one_meant() -> Result<()> {
    let (ca, stranger) = (Ca::new()?, Ca::new()?);
    let control = ca.client(Role::Control, "control")?;
    let n1 = tls(&ca.issue(Role::Node, "n1", 1)?);
    let n1 = Agent::start("n1", &n1, Some(control.clone())).await?;
    // It calls itself n2, and is of another cluster.
    let n2 = tls(&stranger.issue(Role::Node, "n2", 1)?);
    let n2 = Agent::start("n2", &n2, Some(stranger.client(Role::Control, "control")?)).await?;
    let app = App::start(&n1).await?;
    let error = app.replicate(&n1, &n2).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(error.message.contains("UnknownIssuer"), "{error}");
    assert!(n2.answers().await?.volumes.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_agent_does_not_start_as_somebody_else() -> Result<()> {
    let ca = Ca::new()?;
    let mut n1 = Agent::start("n1", "", None).await?;
    n1.process.kill()?;
    n1.process.wait()?;
    let config = std::fs::read_to_string(n1.path("agent.toml"))?;
    let other = tls(&ca.issue(Role::Node, "n2", 1)?);
    std::fs::write(n1.path("agent.toml"), format!("{config}\n{other}"))?;
    n1.process = spawn(n1.folder.path())?;
    assert_eq!(n1.process.wait()?.code(), Some(1));
    let log = n1.log();
    assert!(
        log.contains("tls.certificate is that of node n2; this is node n1"),
        "{log}"
    );
    assert!(log.contains("no [tls]: whoever reaches"), "{log}");
    Ok(())
}
