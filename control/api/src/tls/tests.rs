//! Handshakes on loopback, with certificates made on the spot.

#![expect(clippy::disallowed_methods, reason = "certificates hold from now on")]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    authority::{Authority, AuthorityError, Existing, Order},
    *,
};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const DAY: Duration = Duration::from_secs(86_400);

struct Bed {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(&folder.path().join("ca"), SystemTime::now(), DAY * 3650);
        Self {
            authority: authority.unwrap(),
            folder,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn order(&self, role: Role, name: &str) -> Order {
        Order {
            identity: Identity::new(role, name),
            addresses: vec![HOST],
            now: SystemTime::now(),
            validity: DAY,
        }
    }

    fn issue(&self, order: &Order) -> Credentials {
        let folder = self.path().join(&order.identity.name);
        let files = self.authority.issue(order, &folder, Existing::Keep);
        Credentials::load(files.unwrap()).unwrap()
    }

    fn credentials(&self, role: Role, name: &str) -> Credentials {
        self.issue(&self.order(role, name))
    }
}

/// Serves one byte to each that is taken, and tells who it was.
async fn serve(credentials: Credentials, roles: &'static [Role]) -> SocketAddr {
    let tcp = TcpListener::bind((HOST, 0)).await.unwrap();
    let mut listener = Listener::new(tcp, Some(credentials), roles);
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _, identity) = listener.accept().await;
            tokio::spawn(async move {
                let name = identity.unwrap().to_string();
                stream.write_all(name.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    address
}

/// What a server says to who connects, or why there is no answer.
async fn ask(from: &Credentials, to: SocketAddr, expected: &Expected) -> Result<String, String> {
    let tcp = TcpStream::connect(to).await.unwrap();
    let mut stream = from
        .connect(tcp, expected)
        .await
        .map_err(|e| e.to_string())?;
    let mut text = String::new();
    let read = stream.read_to_string(&mut text).await;
    read.map(|_| text).map_err(|error| error.to_string())
}

fn node(name: &str) -> Expected {
    Expected::Named(Identity::new(Role::Node, name))
}

#[tokio::test]
async fn both_sides_know_who_the_other_is() {
    let bed = Bed::new();
    let (n1, n2) = (
        bed.credentials(Role::Node, "n1"),
        bed.credentials(Role::Node, "n2"),
    );
    let address = serve(n1, &[Role::Node]).await;
    assert_eq!(ask(&n2, address, &node("n1")).await.unwrap(), "node n2");
    let at = Expected::At(Role::Node, HOST);
    assert_eq!(ask(&n2, address, &at).await.unwrap(), "node n2");
}

#[tokio::test]
async fn whoever_is_not_meant_is_not_spoken_to() {
    let bed = Bed::new();
    let (n1, n2) = (
        bed.credentials(Role::Node, "n1"),
        bed.credentials(Role::Node, "n2"),
    );
    let address = serve(n1, &[Role::Node]).await;
    let error = ask(&n2, address, &node("n3")).await.unwrap_err();
    assert!(error.contains("n3"), "{error}");
    // A name is not enough where it is another role's.
    let control = Expected::Named(Identity::new(Role::Control, "n1"));
    let error = ask(&n2, address, &control).await.unwrap_err();
    assert_eq!(error, "it is node n1; control n1 was meant");
}

#[tokio::test]
async fn roles_that_are_not_named_are_kept_out() {
    let bed = Bed::new();
    let n1 = bed.credentials(Role::Node, "n1");
    let operator = bed.credentials(Role::Operator, "ann");
    let address = serve(n1, &[Role::Control, Role::Node]).await;
    let error = ask(&operator, address, &node("n1")).await.unwrap_err();
    assert!(error.contains("AccessDenied"), "{error}");
}

#[tokio::test]
async fn another_authority_and_plain_tcp_are_kept_out() {
    let (bed, other) = (Bed::new(), Bed::new());
    let address = serve(bed.credentials(Role::Node, "n1"), &[Role::Node]).await;
    let stranger = other.credentials(Role::Node, "n2");
    let error = ask(&stranger, address, &node("n1")).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    // One that trusts the server all the same is not trusted by it.
    let files = stranger.files().clone();
    fs::copy(bed.path().join("n1/ca.pem"), &files.ca).unwrap();
    let error = ask(&Credentials::load(files).unwrap(), address, &node("n1")).await;
    assert!(error.unwrap_err().contains("alert"));
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // It may be a reset or an alert; it is no answer.
    drop(plain.read_to_end(&mut answer).await);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn an_expired_certificate_is_no_certificate() {
    let bed = Bed::new();
    let address = serve(bed.credentials(Role::Node, "n1"), &[Role::Node]).await;
    let order = bed.order(Role::Node, "n2");
    let expired = bed.issue(&Order {
        now: order.now - DAY * 2,
        ..order
    });
    let error = ask(&expired, address, &node("n1")).await.unwrap_err();
    assert!(error.contains("CertificateExpired"), "{error}");
}

#[tokio::test]
async fn certificates_are_renewed_while_programs_run() {
    let bed = Bed::new();
    let (n1, n2) = (
        bed.credentials(Role::Node, "n1"),
        bed.credentials(Role::Node, "n2"),
    );
    let address = serve(n1.clone(), &[Role::Node]).await;
    let before = n1.certificate();
    // Half of a renewal: the old pair goes on.
    let key = fs::read(&n1.files().key).unwrap();
    fs::write(&n1.files().key, "nonsense").unwrap();
    assert_eq!(ask(&n2, address, &node("n1")).await.unwrap(), "node n2");
    assert_eq!(n1.certificate(), before);
    fs::write(&n1.files().key, key).unwrap();
    let order = Order {
        validity: DAY * 2,
        ..bed.order(Role::Node, "n1")
    };
    let folder = bed.path().join("n1");
    bed.authority
        .issue(&order, &folder, Existing::Replace)
        .unwrap();
    assert_eq!(ask(&n2, address, &node("n1")).await.unwrap(), "node n2");
    assert!(n1.certificate().not_after > before.not_after);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_keeps_nobody_out() {
    let bed = Bed::new();
    let (n1, n2) = (
        bed.credentials(Role::Node, "n1"),
        bed.credentials(Role::Node, "n2"),
    );
    let address = serve(n1, &[Role::Node]).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&n2, address, &node("n1")).await.unwrap(), "node n2");
    // It is let go at the deadline.
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
}

#[test]
fn keys_are_their_owners_and_are_not_overwritten() {
    let bed = Bed::new();
    let n1 = bed.credentials(Role::Node, "n1");
    for path in [&n1.files().key, &bed.path().join("ca/ca-key.pem")] {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    let again = bed.authority.issue(
        &bed.order(Role::Node, "n1"),
        &bed.path().join("n1"),
        Existing::Keep,
    );
    assert!(matches!(again, Err(AuthorityError::Exists(path)) if path == n1.files().key));
    let again = Authority::create(&bed.path().join("ca"), SystemTime::now(), DAY);
    assert!(matches!(again, Err(AuthorityError::Exists(_))));
}

#[test]
fn an_authority_is_the_same_when_it_is_opened_again() {
    let bed = Bed::new();
    let n1 = bed.credentials(Role::Node, "n1");
    let opened = Authority::open(&bed.path().join("ca")).unwrap();
    let files = opened
        .issue(
            &bed.order(Role::Node, "n9"),
            &bed.path().join("n9"),
            Existing::Keep,
        )
        .unwrap();
    assert_eq!(
        fs::read(files.ca).unwrap(),
        fs::read(&n1.files().ca).unwrap()
    );
}

#[test]
fn files_that_are_no_good_are_named() {
    let bed = Bed::new();
    let files = bed.credentials(Role::Node, "n1").files().clone();
    let other = bed.credentials(Role::Node, "n2").files().clone();
    let message = |files: Files| {
        let error = Credentials::load(files).unwrap_err();
        crate::error::chain(&error)
    };
    let swapped = Files {
        key: other.key,
        ..files.clone()
    };
    assert!(message(swapped).contains("n2/key.pem cannot be used together"));
    let nameless = Files {
        certificate: files.ca.clone(),
        ..files.clone()
    };
    assert!(message(nameless).contains("flockerctl ca"));
    let missing = Files {
        ca: "/nonexistent".into(),
        ..files
    };
    assert!(message(missing).starts_with("cannot read /nonexistent: "));
}

#[test]
fn identities_round_trip() {
    for role in Role::ALL {
        let identity = Identity::new(role, "n-1.example_2");
        assert_eq!(identity.uri().parse::<Identity>().unwrap(), identity);
    }
    for bad in [
        "",
        "flocker://node/",
        "flocker://nobody/n1",
        "http://node/n1",
        "flocker://node/a/b",
        "flocker://node/a b",
    ] {
        assert!(bad.parse::<Identity>().is_err(), "{bad}");
    }
}
