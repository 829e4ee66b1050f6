//! Upstreams that fall ill and recover, over every protocol: checks over TLS and HTTP/2, slow
//! start, ejection for a time that grows.

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use flocker_api::{
    edge::UpstreamState,
    route::{Operation, Route, UpstreamProtocol},
    termination::UpstreamTls,
    upstream::Balance,
};

use crate::{
    harness::{Conn, Edge, Upstream, eventually, get, nobody, parse},
    proxied::{Peer, is_there, peer},
    terminated::Authority,
    upstreams::moody,
};

const KEY: &str = "http:a.test";

fn put(edge: &Edge, route: Route) {
    edge.apply(vec![Operation::Put { route }]).unwrap();
}

fn wait_state(edge: &Edge, key: &str, at: usize, state: UpstreamState) {
    eventually(&format!("{key} {at} is {state:?}"), || {
        (edge.show(key).upstreams[at].state == state).then_some(())
    });
}

/// nginx that serves files of the authority's folder: over TLS, over HTTP/2 and TLS, and by
/// HTTP/2 in clear.
fn nginx(authority: &Authority) -> (Peer, [SocketAddr; 3]) {
    assert!(is_there("/usr/sbin/nginx"));
    authority.write("up", &["up.internal"]);
    let all @ [tls, tls_h2, h2c] = [nobody(), nobody(), nobody()];
    let (certificate, key) = (authority.path("up.pem"), authority.path("up.key"));
    let root = authority.path("");
    let config = format!(
        "daemon off; master_process off; pid DIRECTORY/pid; error_log DIRECTORY/error.log;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path DIRECTORY/a; proxy_temp_path DIRECTORY/b;\n\
         fastcgi_temp_path DIRECTORY/c; uwsgi_temp_path DIRECTORY/d; scgi_temp_path DIRECTORY/e;\n\
         ssl_certificate {certificate}; ssl_certificate_key {key}; root {root};\n\
         server {{ listen {tls} ssl; }} server {{ listen {tls_h2} ssl http2; }}\n\
         server {{ listen {h2c} http2; }} }}\n"
    );
    let nginx = peer("/usr/sbin/nginx", &["-c"], &config, &all);
    (nginx, all)
}

#[test]
fn checks_speak_what_clients_speak_with_the_upstream() {
    let authority = Authority::new("office");
    let (_nginx, [tls, tls_h2, h2c]) = nginx(&authority);
    let ready = authority.file("ready");
    std::fs::write(&ready, "ready").unwrap();
    let tables = format!(
        "[tls.authorities]\noffice = {:?}\n",
        authority.path("ca.pem")
    );
    let edge = Edge::start_with_tables(&tables, "", 1);
    let trusted = UpstreamTls {
        server_name: Some("up.internal".parse().unwrap()),
        ca: Some("office".parse().unwrap()),
    };
    let stranger = UpstreamTls {
        server_name: Some("other.internal".parse().unwrap()),
        ..trusted.clone()
    };
    let kinds = [
        (
            "http:tls.test",
            tls,
            UpstreamProtocol::Http1,
            Some(trusted.clone()),
        ),
        (
            "http:tls-h2.test",
            tls_h2,
            UpstreamProtocol::H2,
            Some(trusted),
        ),
        ("http:h2c.test", h2c, UpstreamProtocol::H2, None),
        (
            "http:bad.test",
            tls,
            UpstreamProtocol::Http1,
            Some(stranger),
        ),
    ];
    for (key, to, protocol, tls) in kinds.clone() {
        let mut route = Route::new(parse(key), [to]).with_upstream_protocol(protocol);
        route.health = Some(
            "http,path=/ready,interval_ms=20,rise=1,fall=1"
                .parse()
                .unwrap(),
        );
        route.upstream_tls = tls;
        put(&edge, route);
    }
    let good = &kinds[..3];
    wait_state(&edge, "http:bad.test", 0, UpstreamState::Down);
    let reason = edge.show("http:bad.test").upstreams[0]
        .reason
        .clone()
        .unwrap();
    assert!(reason.contains("certificate"), "{reason}");
    for (key, ..) in good {
        wait_state(&edge, key, 0, UpstreamState::Up);
    }
    std::fs::remove_file(&ready).unwrap();
    for (key, ..) in good {
        wait_state(&edge, key, 0, UpstreamState::Down);
        let reason = edge.show(key).upstreams[0].reason.clone().unwrap();
        assert!(reason.contains("404"), "{key}: {reason}");
    }
    std::fs::write(&ready, "ready").unwrap();
    for (key, ..) in good {
        wait_state(&edge, key, 0, UpstreamState::Up);
    }
}

/// How many of so many requests the first of two upstreams answers.
fn share(edge: &Edge, count: usize) -> usize {
    let answers = (0..count).map(|_| Conn::connect(edge.http()).ask(get("/")));
    answers.filter(|answer| answer.text() == "moody").count()
}

#[test]
fn an_upstream_that_comes_back_gets_its_share_by_and_by() {
    let edge = Edge::start();
    let (address, mood) = moody("moody");
    let mut route = Route::new(parse(KEY), [address, Upstream::serve("steady")]);
    route.health = Some("http,interval_ms=10,rise=1,fall=1".parse().unwrap());
    route.slow_start_ms = 60_000;
    put(&edge, route.clone());
    // At the start of a route there is nobody to take it easy for.
    assert_eq!(share(&edge, 20), 10);
    mood.store(500, Ordering::SeqCst);
    wait_state(&edge, KEY, 0, UpstreamState::Down);
    assert_eq!(share(&edge, 10), 0);
    mood.store(200, Ordering::SeqCst);
    wait_state(&edge, KEY, 0, UpstreamState::Starting);
    let few = share(&edge, 60);
    assert!(few < 15, "{few} of 60 in the first moments of a minute");
    // The same within no time.
    route.slow_start_ms = 50;
    put(&edge, route);
    mood.store(500, Ordering::SeqCst);
    wait_state(&edge, KEY, 0, UpstreamState::Down);
    mood.store(200, Ordering::SeqCst);
    wait_state(&edge, KEY, 0, UpstreamState::Up);
    // What it had while it started counted for more: the other makes up for that first.
    share(&edge, 40);
    let half = share(&edge, 20);
    assert!((9..=11).contains(&half), "{half} of 20");
}

#[test]
fn an_ejection_takes_longer_each_time_and_ends_by_itself() {
    let limits = "eject_failures = 2\neject_ms = 150\neject_ms_max = 100000";
    let edge = Edge::start_with(limits, 1);
    let (address, mood) = moody("moody");
    let mut route = Route::new(parse(KEY), [address, Upstream::serve("steady")]);
    route.balance = Balance::InOrder;
    put(&edge, route);
    let mut client = crate::h2::client::Client::connect(edge.http());
    let mut ask = || {
        let asked = client.get("a.test", "/");
        client.answer(asked).unwrap().status
    };
    let mut before = Duration::ZERO;
    for round in 1..=3 {
        mood.store(503, Ordering::SeqCst);
        assert_eq!((ask(), ask()), (503, 503), "round {round}");
        let line = edge.show(KEY).upstreams.remove(0);
        assert_eq!(line.state, UpstreamState::Ejected);
        assert_eq!(line.ejections, round);
        let time = Duration::from_millis(line.ejected_for_ms.unwrap());
        assert!(time > before, "{time:?} after {before:?}");
        before = Duration::from_millis(150) * u32::try_from(round).unwrap();
        assert_eq!(ask(), 200, "the other one serves");
        mood.store(200, Ordering::SeqCst);
        wait_state(&edge, KEY, 0, UpstreamState::Up);
    }
}

#[test]
fn streams_that_an_http2_upstream_breaks_off_count_against_it() {
    let edge = Edge::start_with("eject_failures = 2\neject_ms = 60000", 1);
    let service = crate::h2::upstreams::Service::start();
    let spare = crate::h2::upstreams::Service::start();
    let to: [SocketAddr; 2] = [service.address, spare.address];
    let mut route = Route::new(parse(KEY), to).with_upstream_protocol(UpstreamProtocol::H2);
    route.balance = Balance::InOrder;
    put(&edge, route);
    let mut client = crate::h2::client::Client::connect(edge.http());
    for _ in 0..2 {
        let asked = client.send(crate::h2::client::post("a.test", "/"), true);
        service.next().2.send_reset(h2::Reason::INTERNAL_ERROR);
        assert_eq!(client.answer(asked).unwrap().status, 502);
    }
    assert_eq!(edge.show(KEY).upstreams[0].state, UpstreamState::Ejected);
    let asked = client.get("a.test", "/");
    crate::h2::upstreams::answer(spare.next().2, "spare");
    assert_eq!(client.answer(asked).unwrap().text(), "spare");
}
