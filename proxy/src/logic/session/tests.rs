//! Sessions in scripts on virtual time: events in, bytes and actions out.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use flocker_api::{
    gate::{HoldLimits, Retarget, Token},
    route::{Operation, Route, Transaction, UpstreamProtocol},
};

use super::{
    Access, Action, ConnectFailure, Cx, Ending, Event, Policy, Reuse, Session, SessionLimits, Side,
    Table, Tables, Want, http, opaque, way,
};
use crate::{
    logic::{
        access::{Cause, Phase, Protocol, Record},
        balance::Ejection,
        gate::{Bell, Call, Gate, Quiet, Seat},
        http::{
            Scheme,
            origin::{Ids, Origins, Style},
            pages::Pages,
        },
        test_clock,
    },
    metrics::Counters,
};

pub(super) const DOWN: Side = Side::Downstream;
pub(super) const UP: Side = Side::Upstream;
pub(super) const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: notes.demo\r\n\r\n";
pub(super) const POST: &[u8] =
    b"POST /a HTTP/1.1\r\nHost: notes.demo\r\nContent-Length: 3\r\n\r\nabc";
pub(super) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SEAT: Seat = Seat { worker: 0, slot: 0 };

/// Notes who is called.
#[derive(Default)]
pub(super) struct Calls(Mutex<Vec<Call>>);

impl Bell for Calls {
    fn ring(&self) {}

    fn call(&self, calls: Vec<Call>) {
        self.0.lock().unwrap().extend(calls);
    }
}

pub(super) struct Current(pub(super) Table);

impl Tables for Current {
    fn current(&mut self) -> &Table {
        &self.0
    }
}

pub(super) fn limits() -> SessionLimits {
    SessionLimits {
        head_bytes: 16 << 10,
        headers: 100,
        target_bytes: 8 << 10,
        head_timeout: Duration::from_secs(10),
        keep_alive: Duration::from_secs(75),
        request_timeout: Duration::from_secs(3600),
        body_timeout: Duration::from_secs(30),
        body_rate: 100,
        continue_timeout: Duration::from_secs(1),
        response_idle: Duration::from_secs(3600),
        response_timeout: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(3),
        connect_hold: Duration::from_secs(10),
        tcp_idle: Duration::from_secs(3600),
        hello_bytes: 16 << 10,
        hello_timeout: Duration::from_secs(10),
        h2: crate::logic::h2::TEST_LIMITS,
        proxy_header_timeout: Duration::from_secs(3),
        ejection: Ejection {
            failures: 5,
            base: Duration::from_secs(10),
            max: Duration::from_secs(300),
            share_percent: 50,
        },
        policy: Arc::new(Policy {
            origins: Origins {
                trusted: vec!["198.51.100.0/24".parse().unwrap()],
                style: Style::XForwarded,
                request_ids: true,
                ids: Ids::new([1, 2]),
            },
            pages: Pages::default(),
        }),
    }
}

pub(super) fn first() -> SocketAddr {
    "10.0.0.1:81".parse().unwrap()
}

pub(super) fn second() -> SocketAddr {
    "10.0.0.2:81".parse().unwrap()
}

/// A session with a fake driver around it.
pub(super) struct Rig {
    pub(super) session: Option<Session>,
    pub(super) tables: Current,
    pub(super) limits: SessionLimits,
    pub(super) counters: Counters,
    pub(super) now: Instant,
    /// What was written, by side, since it was last taken.
    pub(super) out: [Vec<u8>; 2],
    pub(super) actions: Vec<Action>,
    /// What is on its way to each side, as the session is told.
    pub(super) pending: [usize; 2],
    pub(super) client: SocketAddr,
    /// What is over.
    pub(super) records: Vec<Record>,
    pub(super) calls: Arc<Calls>,
}

impl Rig {
    pub(super) fn new() -> Self {
        let calls = Arc::new(Calls::default());
        let bell: Arc<dyn Bell> = Arc::<Calls>::clone(&calls);
        let route = |key: &str| Operation::Add {
            route: Route::new(key.parse().unwrap(), [first()]),
        };
        let transaction = Transaction {
            against: None,
            operations: vec![route("http:notes.demo"), route("tcp:5432")],
        };
        let table = Table::new()
            .apply(&transaction, |_| Arc::new(Gate::new(Arc::clone(&bell))))
            .unwrap();
        Self {
            session: None,
            tables: Current(table),
            limits: limits(),
            counters: Counters::default(),
            now: test_clock(),
            out: [Vec::new(), Vec::new()],
            actions: Vec::new(),
            pending: [0, 0],
            client: "192.0.2.7:1000".parse().unwrap(),
            records: Vec::new(),
            calls,
        }
    }

    /// To the next time of a route's gate; what comes of its calls.
    pub(super) fn let_gate_act(&mut self, key: &str) -> Vec<Action> {
        let gate = self.gate(key);
        self.now = gate.tick(self.now).unwrap_or(self.now);
        gate.tick(self.now);
        let calls = std::mem::take(&mut *self.calls.0.lock().unwrap());
        let told = calls
            .into_iter()
            .flat_map(|call| self.event(Event::Called(call)));
        told.collect()
    }

    pub(super) fn http() -> Self {
        let mut rig = Self::new();
        rig.with_cx(|_, cx| {
            Some(Session::Http(Box::new(http::Session::new(
                Scheme::Http,
                cx,
            ))))
        });
        rig
    }

    pub(super) fn tcp() -> Self {
        let mut rig = Self::new();
        rig.with_cx(|_, cx| {
            let session = opaque::Session::tcp(way::Key::Tcp(5432), cx);
            Some(Session::Opaque(Box::new(session)))
        });
        rig
    }

    pub(super) fn with_cx(
        &mut self,
        run: impl FnOnce(Option<Session>, &mut Cx<'_>) -> Option<Session>,
    ) {
        let [down, up] = &mut self.out;
        let mut cx = Cx {
            now: self.now,
            tables: &mut self.tables,
            seat: SEAT,
            client: self.client,
            limits: &self.limits,
            counters: &self.counters,
            out: [down, up],
            actions: &mut self.actions,
            pending: self.pending,
            access: Access {
                wanted: true,
                records: &mut self.records,
                moved: [0, 0],
            },
        };
        self.session = run(self.session.take(), &mut cx);
    }

    pub(super) fn event(&mut self, event: Event<'_>) -> Vec<Action> {
        self.with_cx(|session, cx| {
            let mut session = session.unwrap();
            session.handle(event, cx);
            Some(session)
        });
        std::mem::take(&mut self.actions)
    }

    pub(super) fn session(&self) -> &Session {
        self.session.as_ref().unwrap()
    }

    pub(super) fn gate(&self, key: &str) -> Arc<Gate> {
        let entry = self.tables.0.get(&key.parse().unwrap()).unwrap();
        Arc::clone(&entry.gate)
    }

    pub(super) fn written(&mut self, side: Side) -> String {
        String::from_utf8(std::mem::take(&mut self.out[side as usize])).unwrap()
    }

    /// To the session's next deadline, and its timer.
    pub(super) fn let_time_pass(&mut self) -> Vec<Action> {
        self.now = self.session().deadline().unwrap();
        self.event(Event::Timer)
    }

    pub(super) fn pause(&self, key: &str) -> Arc<Gate> {
        let gate = self.gate(key);
        gate.pause(Token(1), HoldLimits::default(), self.now)
            .unwrap();
        gate
    }

    /// A request, up to the point where it waits for its response.
    pub(super) fn request(&mut self, bytes: &[u8], reused: bool) {
        let actions = self.event(Event::Bytes(DOWN, bytes));
        assert!(
            matches!(actions[..], [Action::Connect { .. }]),
            "{actions:?}"
        );
        assert_eq!(self.event(Event::Connected { reused }), []);
    }
}

pub(super) fn connect(to: SocketAddr, reuse: Reuse) -> Action {
    Action::Connect {
        to,
        seal: None,
        protocol: UpstreamProtocol::Http1,
        reuse,
        within: limits().connect_timeout,
        proxy: None,
    }
}

#[test]
fn a_request_goes_up_and_its_response_comes_down_however_they_are_cut() {
    for cut in 1..GET.len() {
        for other_cut in [1, 20, OK.len() - 1] {
            let mut rig = Rig::http();
            assert_eq!(rig.event(Event::Bytes(DOWN, &GET[..cut])), []);
            let actions = rig.event(Event::Bytes(DOWN, &GET[cut..]));
            assert_eq!(actions, [connect(first(), Reuse::Any)]);
            rig.event(Event::Connected { reused: false });
            let head = rig.written(UP);
            assert!(head.starts_with("GET /a HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("192.0.2.7"), "{head}");
            assert_eq!(rig.session().wants(DOWN), Want::Nothing);

            assert_eq!(rig.event(Event::Bytes(UP, &OK[..other_cut])), []);
            let rest = &OK[other_cut..];
            let actions = match rig.session().wants(UP) {
                Want::Pipe(Some(left)) => {
                    assert_eq!(left, rest.len() as u64);
                    rig.out[0].extend_from_slice(rest);
                    rig.event(Event::Piped {
                        from: UP,
                        bytes: left,
                    })
                }
                _ => rig.event(Event::Bytes(UP, rest)),
            };
            assert_eq!(actions, [Action::Keep]);
            let response = rig.written(DOWN);
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
            assert!(response.ends_with("\r\n\r\nok"), "{response}");
            assert_eq!(rig.gate("http:notes.demo").in_flight(), 0);
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_each_past_the_gate() {
    let mut rig = Rig::http();
    let mut both = GET.to_vec();
    both.extend_from_slice(b"GET /b HTTP/1.1\r\nHost: Notes.Demo:80\r\n\r\n");
    rig.request(&both, false);
    assert!(rig.written(UP).starts_with("GET /a "));
    let actions = rig.event(Event::Bytes(UP, OK));
    assert_eq!(
        actions,
        [Action::Keep, connect(first(), Reuse::Any)],
        "the second follows the first without a read"
    );
    rig.event(Event::Connected { reused: true });
    assert!(rig.written(UP).starts_with("GET /b "));
}

#[test]
fn a_stale_connection_costs_an_idempotent_request_a_second_try() {
    for goodbye in [Event::Eof(UP), Event::Broken(UP)] {
        let mut rig = Rig::http();
        rig.request(GET, true);
        rig.written(UP);
        let actions = rig.event(goodbye);
        assert_eq!(
            actions,
            [Action::DropUpstream, connect(first(), Reuse::Never)]
        );
        rig.event(Event::Connected { reused: false });
        assert!(rig.written(UP).starts_with("GET /a "));
        assert_eq!(rig.event(Event::Bytes(UP, OK)), [Action::Keep]);
        assert_eq!(rig.counters.retries.value(), 1);
    }
}

#[test]
fn what_may_have_been_done_is_not_done_again() {
    // A method that is not safe on a new connection; one that is not idempotent; an answer that
    // has begun.
    const PUT: &[u8] = b"PUT /a HTTP/1.1\r\nHost: notes.demo\r\nContent-Length: 0\r\n\r\n";
    for (request, reused, begun) in [
        (PUT, false, &b""[..]),
        (POST, true, b""),
        (GET, true, b"HTTP/1.1 2"),
    ] {
        let mut rig = Rig::http();
        rig.request(request, reused);
        if !begun.is_empty() {
            rig.event(Event::Bytes(UP, begun));
        }
        let actions = rig.event(Event::Eof(UP));
        assert_eq!(actions[0], Action::DropUpstream);
        assert!(
            !actions
                .iter()
                .any(|action| matches!(action, Action::Connect { .. })),
            "{actions:?}"
        );
        assert!(rig.written(DOWN).starts_with("HTTP/1.1 502 "));
        assert_eq!(rig.gate("http:notes.demo").stats.failed.value(), 1);
        assert_eq!(rig.gate("http:notes.demo").in_flight(), 0);
    }
}

#[test]
fn a_post_looks_before_it_reuses() {
    let mut rig = Rig::http();
    let actions = rig.event(Event::Bytes(DOWN, POST));
    assert_eq!(actions, [connect(first(), Reuse::Checked)]);
}

#[test]
fn a_parked_request_goes_to_where_the_route_leads_after_the_pause() {
    let mut rig = Rig::http();
    let gate = rig.pause("http:notes.demo");
    assert_eq!(rig.event(Event::Bytes(DOWN, GET)), []);
    assert!(rig.session().is_parked());
    assert_eq!(gate.status(rig.now).parked_bytes, GET.len() as u64);

    let changes = [Retarget {
        key: "http:notes.demo".parse().unwrap(),
        upstreams: vec![second().into()],
    }];
    rig.tables = Current(rig.tables.0.retarget(&changes).unwrap());
    gate.resume(Token(1), rig.now).unwrap();
    let calls = gate.release(1);
    // A call for somebody else's ticket is not for us.
    let wrong = Call {
        ticket: calls[0].ticket + 1,
        ..calls[0]
    };
    assert_eq!(rig.event(Event::Called(wrong)), []);
    let actions = rig.event(Event::Called(calls[0]));
    assert_eq!(actions, [connect(second(), Reuse::Any)]);
    assert_eq!(gate.in_flight(), 1);
}

#[test]
fn a_parked_client_that_leaves_frees_its_place() {
    let mut rig = Rig::http();
    let gate = rig.pause("http:notes.demo");
    rig.event(Event::Bytes(DOWN, GET));
    assert_eq!(
        rig.event(Event::Hangup(DOWN)),
        [Action::Close(Ending::Clean)]
    );
    assert_eq!(gate.status(rig.now).parked, 0);
    assert_eq!(gate.counts().client_gone, 1);
}

#[test]
fn at_the_deadline_a_parked_request_is_told_to_come_again() {
    let mut rig = Rig::http();
    let gate = rig.pause("http:notes.demo");
    rig.event(Event::Bytes(DOWN, GET));
    rig.now += Duration::from_secs(30);
    let calls = gate.lapse(rig.now);
    assert_eq!(rig.event(Event::Called(calls[0])), []);
    let reply = rig.written(DOWN);
    assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
    assert!(reply.to_ascii_lowercase().contains("\r\nretry-after:"));
    // Its connection goes on.
    rig.request(GET, false);
}

#[test]
fn a_refused_connect_is_tried_until_the_hold_is_over() {
    let mut rig = Rig::http();
    rig.event(Event::Bytes(DOWN, GET));
    let start = rig.now;
    let mut tries = 1;
    loop {
        assert_eq!(rig.event(Event::ConnectFailed(ConnectFailure::Refused)), []);
        let hold_over = rig.session().deadline().unwrap();
        assert_eq!(hold_over, start + limits().connect_hold);
        let tried = rig.let_gate_act("http:notes.demo");
        if rig.now >= hold_over {
            break;
        }
        assert_eq!(tried, [connect(first(), Reuse::Checked)]);
        tries += 1;
    }
    assert!((150..300).contains(&tries), "{tries}");

    // The last attempt is made at the end, and then the client is told.
    let mut rig = Rig::http();
    rig.event(Event::Bytes(DOWN, GET));
    rig.event(Event::ConnectFailed(ConnectFailure::Refused));
    assert_eq!(rig.let_time_pass(), [connect(first(), Reuse::Never)]);
    rig.event(Event::ConnectFailed(ConnectFailure::Refused));
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 503 "));
    assert_eq!(rig.gate("http:notes.demo").in_flight(), 0);
    assert!(!rig.gate("http:notes.demo").is_busy());
}

#[test]
fn whoever_comes_while_an_upstream_is_waited_for_waits_behind() {
    let mut rig = Rig::http();
    rig.event(Event::Bytes(DOWN, GET));
    rig.event(Event::ConnectFailed(ConnectFailure::Refused));
    let first_in_line = rig.session.take();
    rig.with_cx(|_, cx| {
        Some(Session::Http(Box::new(http::Session::new(
            Scheme::Http,
            cx,
        ))))
    });
    assert_eq!(rig.event(Event::Bytes(DOWN, GET)), [], "it does not try");
    // The first leaves: the second tries in its place.
    drop(first_in_line);
    let tried = rig.let_gate_act("http:notes.demo");
    assert_eq!(tried, [connect(first(), Reuse::Checked)]);
    assert_eq!(rig.event(Event::Connected { reused: false }), []);
    assert!(!rig.gate("http:notes.demo").is_busy());
}

#[test]
fn a_connect_that_fails_at_a_paused_gate_waits_there() {
    let mut rig = Rig::http();
    rig.event(Event::Bytes(DOWN, GET));
    rig.event(Event::ConnectFailed(ConnectFailure::Refused));
    let gate = rig.pause("http:notes.demo");
    assert_eq!(rig.let_gate_act("http:notes.demo"), []);
    assert!(rig.session().is_parked());
    assert_eq!(gate.quiet(Token(1)), Quiet::Yes);

    // And a quiesce does not wait for the next try.
    let mut rig = Rig::http();
    rig.event(Event::Bytes(DOWN, GET));
    let gate = rig.pause("http:notes.demo");
    assert_eq!(rig.event(Event::Quiesce(&gate)), [Action::DropUpstream]);
    assert!(rig.session().is_parked());
}

#[test]
fn silence_is_answered_by_whose_fault_it_is() {
    let mut rig = Rig::http();
    assert_eq!(
        rig.let_time_pass(),
        [Action::Close(Ending::Clean)],
        "nothing was asked, so nothing is answered"
    );

    let mut rig = Rig::http();
    rig.event(Event::Bytes(DOWN, &GET[..9]));
    assert_eq!(rig.let_time_pass(), [Action::Close(Ending::Linger)]);
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 408 "));

    let mut rig = Rig::http();
    rig.request(GET, false);
    rig.let_time_pass();
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 504 "));

    let mut rig = Rig::http();
    rig.request(&POST[..POST.len() - 1], false);
    assert_eq!(rig.session().wants(DOWN), Want::Pipe(Some(1)));
    rig.let_time_pass();
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 408 "));
}

#[test]
fn a_response_that_is_cut_off_is_not_passed_on_as_whole() {
    let mut rig = Rig::http();
    rig.request(GET, false);
    rig.event(Event::Bytes(UP, &OK[..OK.len() - 1]));
    assert_eq!(
        rig.event(Event::Eof(UP)),
        [Action::DropUpstream, Action::Close(Ending::Reset(DOWN))]
    );
}

#[test]
fn an_early_response_closes_the_connection_after_it() {
    let mut rig = Rig::http();
    rig.request(&POST[..POST.len() - 1], false);
    let actions = rig.event(Event::Bytes(UP, OK));
    assert_eq!(
        actions,
        [Action::DropUpstream, Action::Close(Ending::Linger)]
    );
    let response = rig.written(DOWN).to_ascii_lowercase();
    assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
}

#[test]
fn an_upstream_that_says_too_much_is_not_used_again() {
    let mut rig = Rig::http();
    rig.request(GET, false);
    let mut bytes = OK.to_vec();
    bytes.extend_from_slice(OK);
    assert_eq!(rig.event(Event::Bytes(UP, &bytes)), [Action::DropUpstream]);
    assert_eq!(rig.written(DOWN).matches("200 OK").count(), 1);
}

#[test]
fn a_connection_to_where_the_route_led_before_is_not_kept() {
    let mut rig = Rig::http();
    rig.request(GET, false);
    rig.gate("http:notes.demo").retarget();
    assert_eq!(rig.event(Event::Bytes(UP, OK)), [Action::DropUpstream]);
}

#[test]
fn an_upgrade_is_a_tunnel_only_after_101() {
    let upgrade: &[u8] =
        b"GET / HTTP/1.1\r\nHost: notes.demo\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    let mut rig = Rig::http();
    rig.request(upgrade, false);
    assert_eq!(rig.session().wants(DOWN), Want::Nothing);
    let refusal: &[u8] = b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(rig.event(Event::Bytes(UP, refusal)), [Action::Keep]);
    assert_ne!(rig.session().wants(DOWN), Want::Pipe(None));

    rig.request(upgrade, false);
    let switch: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhi";
    assert_eq!(rig.event(Event::Bytes(UP, switch)), []);
    assert!(rig.written(DOWN).ends_with("\r\n\r\nhi"));
    assert_eq!(rig.session().wants(DOWN), Want::Pipe(None));
    assert_eq!(rig.gate("http:notes.demo").in_flight(), 1);
    rig.event(Event::Piped { from: UP, bytes: 1 });
    let gate = rig.gate("http:notes.demo");
    let actions = rig.event(Event::Quiesce(&gate));
    assert_eq!(actions, [Action::Close(Ending::Linger)]);
    assert_eq!(gate.closed(), 1);
}

#[test]
fn a_draining_edge_ends_connections_between_requests() {
    let mut rig = Rig::http();
    assert_eq!(rig.event(Event::Drain), [Action::Close(Ending::Clean)]);

    let mut rig = Rig::http();
    rig.request(GET, false);
    assert_eq!(rig.event(Event::Drain), []);
    let actions = rig.event(Event::Bytes(UP, OK));
    assert_eq!(actions[1], Action::Close(Ending::Linger));
    let response = rig.written(DOWN).to_ascii_lowercase();
    assert!(response.contains("connection: close"), "{response}");
}

#[test]
fn a_tcp_session_passes_on_ends_and_resets() {
    let mut rig = Rig::tcp();
    assert_eq!(
        std::mem::take(&mut rig.actions),
        [connect(first(), Reuse::Never)]
    );
    rig.event(Event::Connected { reused: false });
    assert_eq!(rig.event(Event::Eof(DOWN)), [Action::Finish(UP)]);
    assert_eq!(rig.session().wants(DOWN), Want::Nothing);
    assert_eq!(rig.session().wants(UP), Want::Pipe(None));
    assert_eq!(
        rig.event(Event::Broken(UP)),
        [Action::Close(Ending::Reset(DOWN))]
    );
}

#[test]
fn a_quiesce_closes_tcp_sessions_that_have_spoken_and_parks_the_others() {
    let mut rig = Rig::tcp();
    rig.event(Event::Connected { reused: false });
    let gate = rig.pause("tcp:5432");
    let other = rig.gate("http:notes.demo");
    assert_eq!(rig.event(Event::Quiesce(&other)), []);
    assert_eq!(rig.event(Event::Quiesce(&gate)), [Action::DropUpstream]);
    assert!(rig.session().is_parked());
    gate.resume(Token(1), rig.now).unwrap();
    let calls = gate.release(1);
    assert_eq!(
        rig.event(Event::Called(calls[0])),
        [connect(first(), Reuse::Never)]
    );

    rig.event(Event::Connected { reused: false });
    rig.event(Event::Piped {
        from: DOWN,
        bytes: 1,
    });
    gate.pause(Token(2), HoldLimits::default(), rig.now)
        .unwrap();
    assert_eq!(
        rig.event(Event::Quiesce(&gate)),
        [Action::Close(Ending::Linger)]
    );
    assert_eq!(gate.in_flight(), 1, "until what is left is delivered");
    rig.session.as_mut().unwrap().delivered();
    assert_eq!(gate.quiet(Token(2)), Quiet::Yes);
}

#[test]
fn a_silent_tunnel_ends_at_its_idle_limit_and_not_before() {
    let mut rig = Rig::tcp();
    rig.event(Event::Connected { reused: false });
    rig.now += Duration::from_secs(3000);
    rig.event(Event::Piped { from: UP, bytes: 1 });
    assert_eq!(rig.let_time_pass(), [], "bytes have moved since");
    assert_eq!(rig.let_time_pass(), [Action::Close(Ending::Clean)]);
}

impl Rig {
    /// How the last visit ended: its letters, its status, how long it was held.
    fn ended(&self) -> (Cause, Phase, u16, Option<Duration>) {
        let record = self.records.last().unwrap();
        (
            record.cause,
            record.phase,
            record.status,
            record.timers.held,
        )
    }
}

#[test]
fn a_request_leaves_one_record_with_its_times_and_bytes() {
    let mut rig = Rig::http();
    rig.event(Event::Bytes(DOWN, GET));
    rig.now += Duration::from_millis(3);
    rig.event(Event::Connected { reused: false });
    rig.now += Duration::from_millis(7);
    rig.event(Event::Bytes(UP, OK));
    assert_eq!(rig.ended(), (Cause::Done, Phase::Over, 200, None));
    let record = &rig.records[0];
    assert_eq!(record.timers.connect, Some(Duration::from_millis(3)));
    assert_eq!(record.timers.response, Some(Duration::from_millis(7)));
    assert_eq!(
        (&*record.words.method, &*record.words.target),
        ("GET", "/a")
    );
    assert_eq!(record.words.route, "http:notes.demo");
    assert!(record.bytes_down >= OK.len() as u64 && record.bytes_up >= GET.len() as u64);
    assert_eq!(rig.records.len(), 1);
}

#[test]
fn a_record_says_that_its_request_came_as_a_stream_of_http2() {
    let mut rig = Rig::new();
    rig.with_cx(|_, cx| {
        let session = http::Session::new(Scheme::Http, cx).of_http2();
        Some(Session::Http(Box::new(session)))
    });
    rig.event(Event::Bytes(
        DOWN,
        b"GET / HTTP/1.1\r\nHost: nobody.demo\r\n\r\n",
    ));
    assert_eq!(rig.records[0].protocol, Protocol::Http2);
}

#[test]
fn records_say_who_ended_a_request_and_when() {
    let mut rig = Rig::http();
    rig.event(Event::Bytes(DOWN, b"NONSENSE\r\n\r\n"));
    assert_eq!(rig.ended(), (Cause::Policy, Phase::Head, 400, None));

    let mut rig = Rig::http();
    rig.event(Event::Bytes(
        DOWN,
        b"GET / HTTP/1.1\r\nHost: nobody.demo\r\n\r\n",
    ));
    assert_eq!(rig.ended(), (Cause::Policy, Phase::Head, 404, None));

    let mut rig = Rig::http();
    let gate = rig.gate("http:notes.demo");
    gate.pause(Token(1), HoldLimits::default(), rig.now)
        .unwrap();
    rig.event(Event::Bytes(DOWN, GET));
    rig.now += Duration::from_millis(40);
    rig.event(Event::Hangup(DOWN));
    let held = Some(Duration::from_millis(40));
    assert_eq!(rig.ended(), (Cause::Client, Phase::Held, 0, held));

    let mut rig = Rig::http();
    rig.request(POST, false);
    rig.event(Event::Eof(UP));
    assert_eq!(rig.ended(), (Cause::Upstream, Phase::Response, 502, None));
}

#[test]
fn an_opaque_session_leaves_one_record() {
    let mut rig = Rig::tcp();
    rig.event(Event::Connected { reused: false });
    rig.event(Event::Eof(DOWN));
    rig.event(Event::Eof(UP));
    assert_eq!(rig.ended(), (Cause::Done, Phase::Over, 0, None));
    assert_eq!(rig.records[0].words.route, "tcp:5432");

    let mut rig = Rig::tcp();
    rig.event(Event::Connected { reused: false });
    rig.event(Event::Broken(UP));
    assert_eq!(rig.ended(), (Cause::Upstream, Phase::Data, 0, None));
}
