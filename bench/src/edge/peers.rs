//! The subjects' configurations, `bench/peers`, and how they are filled in.

use std::{net::SocketAddr, path::PathBuf};

use super::subject::Subject;

/// The host that clients ask for.
pub(super) const HOST: &str = "bench.example.com";

/// The files of a folder: name and text.
macro_rules! files {
    ($folder:literal, $ending:literal, $($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../peers/", $folder, "/", $name, ".", $ending)))),*]
    };
}

type Files = &'static [(&'static str, &'static str)];

const FLOCKER: Files = files!("flocker", "toml", "head" "tcp" "http1" "sni" "tls");
const HAPROXY: Files = files!("haproxy", "cfg", "head" "tcp" "http1" "http2" "sni" "tls");
const HAPROXY_TUNED: Files = files!(
    "haproxy-tuned", "cfg",
    "head" "tcp" "tcp-bulk" "http1" "http1-large" "http2" "sni" "sni-bulk" "tls"
);
const NGINX: Files = files!(
    "nginx", "conf",
    "head" "http-head" "tcp" "http1" "http2" "websocket" "sni" "tls"
);
const NGINX_TUNED: Files = files!(
    "nginx-tuned", "conf",
    "head" "http-head" "tcp" "tcp-bulk" "http1" "http2" "websocket" "sni" "sni-bulk" "tls"
);

fn folder(subject: Subject) -> Files {
    match subject {
        Subject::Flocker | Subject::FlockerUring => FLOCKER,
        Subject::Haproxy => HAPROXY,
        Subject::HaproxyTuned => HAPROXY_TUNED,
        Subject::Nginx => NGINX,
        Subject::NginxTuned => NGINX_TUNED,
        Subject::Direct => &[],
    }
}

/// What is filled in.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) listen: SocketAddr,
    pub(super) origin: SocketAddr,
    pub(super) folder: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) pem: PathBuf,
    pub(super) connections: usize,
}

/// The configuration of a subject for the first of these kinds that it has one for.
pub(super) fn config(subject: Subject, kinds: &[&str], place: &Place) -> Option<String> {
    let files = folder(subject);
    let file = |name: &str| {
        files
            .iter()
            .find(|(of, _)| *of == name)
            .map(|(_, text)| *text)
    };
    let mut text = kinds.iter().find_map(|kind| file(kind))?.to_owned();
    for part in ["head", "http-head"] {
        text = text.replace(&format!("{{{{{part}}}}}"), file(part).unwrap_or_default());
    }
    let engine = match subject {
        Subject::FlockerUring => "engine = \"io_uring\"",
        _ => "",
    };
    let path = |path: &PathBuf| path.display().to_string();
    for (name, value) in [
        ("ip", place.listen.ip().to_string()),
        ("port", place.listen.port().to_string()),
        ("origin", place.origin.to_string()),
        ("host", HOST.to_owned()),
        ("folder", path(&place.folder)),
        ("certificate", path(&place.certificate)),
        ("key", path(&place.key)),
        ("pem", path(&place.pem)),
        ("connections", place.connections.to_string()),
        ("engine", engine.to_owned()),
    ] {
        text = text.replace(&format!("{{{{{name}}}}}"), &value);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_configuration_is_filled_in_wholly() {
        let place = Place {
            listen: "127.0.0.1:1".parse().unwrap(),
            origin: "127.0.0.1:2".parse().unwrap(),
            folder: "/run/x".into(),
            certificate: "/run/x/c".into(),
            key: "/run/x/k".into(),
            pem: "/run/x/p".into(),
            connections: 7,
        };
        for subject in Subject::ALL {
            for (kind, _) in folder(subject) {
                let text = config(subject, &["none such", kind], &place).unwrap();
                assert!(!text.contains("{{"), "{subject:?} {kind}: {text}");
            }
        }
        assert_eq!(config(Subject::Haproxy, &["none such"], &place), None);
    }
}
