//! Nothing but public addresses is ever connected to: listeners wait where no packet may arrive, and count.

use super::receiver::Receiver;
use super::{app, deliveries, register_url, run_until_idle};
use crate::support::app::test_config;
use crate::support::submit::submit;
use bytes::Bytes;
use chartgate::callbacks::send::{Fault, Outgoing, Sender, Sent, TIMEOUT};
use chartgate::callbacks::signature::fresh_secret;
use chartgate::callbacks::target::{Lookup, Policy};
use futures::future::BoxFuture;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use time::OffsetDateTime;
use tokio::net::TcpListener;

/// Accepts on every address of this machine, IPv4 and IPv6, and counts.
struct Trap {
    port: u16,
    accepts: Arc<AtomicUsize>,
}

impl Trap {
    async fn start() -> Self {
        let accepts = Arc::new(AtomicUsize::new(0));
        let v4 = TcpListener::bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)).await.unwrap();
        let port = v4.local_addr().unwrap().port();
        // Where IPv6 is on, [::] takes both kinds unless it is told not to; the port is then taken already.
        let v6 = TcpListener::bind(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)).await;
        for listener in std::iter::once(v4).chain(v6.ok()) {
            let accepts = Arc::clone(&accepts);
            tokio::spawn(async move {
                while let Ok((connection, _)) = listener.accept().await {
                    accepts.fetch_add(1, Ordering::SeqCst);
                    drop(connection);
                }
            });
        }
        Self { port, accepts }
    }

    fn accepted(&self) -> usize {
        self.accepts.load(Ordering::SeqCst)
    }
}

/// Names with the answers that a test gives them, one after another; the last one stays.
#[derive(Default, Clone)]
struct Names(Arc<Mutex<HashMap<String, Answers>>>);

/// How often it was asked, and what it answers.
type Answers = (usize, Vec<Vec<IpAddr>>);

impl Names {
    fn set(&self, name: &str, answers: &[&[&str]]) {
        let answers = answers.iter().map(|one| one.iter().map(|text| text.parse().unwrap()).collect()).collect();
        self.0.lock().unwrap().insert(name.to_owned(), (0, answers));
    }

    fn lookups(&self, name: &str) -> usize {
        self.0.lock().unwrap()[name].0
    }
}

impl Lookup for Names {
    fn lookup(&self, name: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        let mut names = self.0.lock().unwrap();
        let answer = names.get_mut(name.trim_end_matches('.')).map(|(asked, answers)| {
            *asked += 1;
            answers[(*asked - 1).min(answers.len() - 1)].clone()
        });
        Box::pin(async move { answer.ok_or_else(|| std::io::Error::other("no such name")) })
    }
}

fn sender(names: &Names, allow_http: bool, allowed: &[&str]) -> Sender {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut config = test_config().callbacks;
    config.allow_http = allow_http;
    config.allow_private = allowed.iter().map(|text| text.parse().unwrap()).collect();
    Sender::new(Policy::new(&config), Arc::new(names.clone()), &[]).unwrap()
}

async fn send(sender: &Sender, url: &str) -> Sent {
    let outgoing = Outgoing {
        url: url.to_owned(),
        id: "msg_1".to_owned(),
        timestamp: 1,
        body: Bytes::from_static(b"{}"),
        secrets: vec![fresh_secret()],
    };
    sender.send(outgoing, OffsetDateTime::UNIX_EPOCH).await
}

/// Hosts that are written as addresses, plainly or hidden.
const LITERALS: &[&str] = &[
    "127.0.0.1",
    "127.0.0.2",
    "127.1.2.3",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "169.254.170.2",
    "168.63.129.16",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    // The same, hidden.
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0x7f.0x0.0x0.0x1",
    "0177.0.0.1",
    "0177.0000.0000.0001",
    "127.1",
    "127.0.1",
    "0x7f.1",
    "0X7F.1",
    "00000177.1",
    "127.0.0.1.",
    "2852039166",
    "0xa9fea9fe",
    "169.254.43518",
    "0",
    "0x0",
    "00",
    "167772161",
    "%31%32%37.0.0.1",
    "127%2e0%2e0%2e1",
    "１２７.0.0.1",
    "127。0。0。1",
    "①②⑦.⓪.⓪.①",
    "4294967295",
    // IPv6.
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[::7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a00:1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:1::1]",
    "[2001::1]",
    "[2001:db8::1]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fe80::1%lo]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[100::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[2a00::5efe:127.0.0.1]",
    "[2a00::200:5efe:10.0.0.1]",
    "[::ffff:a00:1]",
    // With more in front of it or behind it.
    "user@127.0.0.1",
    "1.1.1.1@127.0.0.1",
    "127.0.0.1#@1.1.1.1",
    "1.1.1.1\\@127.0.0.1",
    "127.0.0.1%00.example.org",
    "127.0.0.1\t",
    "127.0.0.1\u{200b}",
];

/// What a name may resolve to.
const ANSWERS: &[&[&str]] = &[
    &["127.0.0.1"],
    &["127.8.8.8"],
    &["::1"],
    &["0.0.0.0"],
    &["::"],
    &["10.0.0.1"],
    &["172.20.0.1"],
    &["192.168.1.1"],
    &["169.254.169.254"],
    &["100.64.0.1"],
    &["168.63.129.16"],
    &["192.0.0.8"],
    &["198.18.0.1"],
    &["224.0.0.1"],
    &["240.0.0.1"],
    &["255.255.255.255"],
    &["::ffff:127.0.0.1"],
    &["::127.0.0.1"],
    &["64:ff9b::7f00:1"],
    &["64:ff9b:1::1"],
    &["2002:7f00:1::1"],
    &["2001::1"],
    &["2001:db8::1"],
    &["fe80::1"],
    &["fc00::1"],
    &["fd00:ec2::254"],
    &["ff02::1"],
    &["2a00::5efe:7f00:1"],
    // One bad address spoils the name, wherever it stands.
    &["1.1.1.1", "127.0.0.1"],
    &["127.0.0.1", "1.1.1.1"],
    &["2606:4700::1111", "::1"],
    &["1.1.1.1", "1.0.0.1", "10.0.0.1"],
];

#[tokio::test]
async fn no_form_of_a_private_address_is_ever_connected_to() {
    let trap = Trap::start().await;
    let names = Names::default();
    let mut urls: Vec<String> = LITERALS.iter().map(|host| format!("https://{host}:{}/x", trap.port)).collect();
    for (index, answer) in ANSWERS.iter().enumerate() {
        let name = format!("n{index}.example.org");
        names.set(&name, &[answer]);
        urls.push(format!("https://{name}:{}/x", trap.port));
    }
    for name in ["localhost", "LOCALHOST", "localhost."] {
        names.set(&name.to_lowercase(), &[&["127.0.0.1"]]);
        urls.push(format!("https://{name}:{}/x", trap.port));
    }
    assert!(urls.len() >= 80, "{}", urls.len());
    let guarded = sender(&names, false, &[]);
    for url in &urls {
        assert!(guarded.check(url).await.is_err(), "{url} passed");
        let sent = send(&guarded, url).await;
        assert_eq!((sent.fault, sent.status), (Some(Fault::Refused), None), "{url}");
    }
    assert_eq!(trap.accepted(), 0, "a packet arrived");

    // The trap would have caught them: without the guard those that lead to this machine arrive.
    let open = sender(&names, true, &["0.0.0.0/0", "::/0"]);
    let mut arrived = 0;
    for url in urls.iter().filter(|url| url.contains("//127.") || url.contains("localhost") || url.contains("//n0.")) {
        let before = trap.accepted();
        send(&open, url).await;
        arrived += usize::from(trap.accepted() > before);
    }
    assert!(arrived >= 7, "{arrived}");
    println!("{} forms of addresses refused, 0 connections; without the guard {arrived} of them arrive", urls.len());
}

#[tokio::test]
async fn a_name_that_changes_its_address_finds_no_moment_to_do_it_in() {
    let trap = Trap::start().await;
    let names = Names::default();
    let guarded = sender(&names, false, &[]);
    // Public when it was registered, private when it is delivered.
    names.set("flips.example.org", &[&["93.184.216.34"], &["127.0.0.1"]]);
    let url = format!("https://flips.example.org:{}/x", trap.port);
    assert!(guarded.check(&url).await.is_ok());
    for _ in 0..3 {
        assert_eq!(send(&guarded, &url).await.fault, Some(Fault::Refused));
    }
    assert_eq!(trap.accepted(), 0);

    // Between the check and the connection of one attempt there is no second look-up: what was checked is connected to.
    let receiver = Receiver::on("127.0.0.2".parse().unwrap()).await;
    let port = receiver.url.rsplit(':').next().unwrap().split('/').next().unwrap().to_owned();
    let wrong = TcpListener::bind(format!("127.0.0.1:{port}")).await.unwrap();
    names.set("rebinds.example.org", &[&["127.0.0.2"], &["127.0.0.1"]]);
    let opened = sender(&names, true, &["127.0.0.2/32"]);
    let sent = send(&opened, &format!("http://rebinds.example.org:{port}/x")).await;
    assert_eq!((sent.fault, receiver.received().len(), names.lookups("rebinds.example.org")), (None, 1, 1));
    assert_eq!(send(&opened, &format!("http://rebinds.example.org:{port}/x")).await.fault, Some(Fault::Refused));
    let nobody = tokio::time::timeout(std::time::Duration::from_millis(50), wrong.accept()).await;
    assert!(nobody.is_err(), "a connection went to the address that was not checked");
}

#[tokio::test]
async fn a_redirect_is_not_followed_wherever_it_leads() {
    let trap = Trap::start().await;
    let receiver = Receiver::on("127.0.0.2".parse().unwrap()).await;
    let opened = sender(&Names::default(), true, &["127.0.0.2/32"]);
    for status in [300, 301, 302, 303, 305, 307, 308] {
        for target in ["http://127.0.0.1", "http://localhost", "http://[::1]", "//127.0.0.1", "http://169.254.169.254"]
        {
            let target = format!("{target}:{}/", trap.port);
            receiver.answer(move |_| (status, vec![("location", target.clone())]));
            let sent = send(&opened, &receiver.url).await;
            assert_eq!((sent.fault, sent.status), (Some(Fault::Redirected), Some(status)));
        }
    }
    assert_eq!((receiver.received().len(), trap.accepted()), (35, 0));
}

#[tokio::test]
async fn an_endless_answer_and_a_silent_receiver_are_left_in_time() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let endless = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = endless.local_addr().unwrap().port();
    let written = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&written);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = endless.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let _ = connection.read(&mut [0; 4096]).await;
                let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n").await;
                while connection.write_all(&[b'x'; 1024]).await.is_ok() {
                    counted.fetch_add(1024, Ordering::SeqCst);
                }
            });
        }
    });
    let opened = sender(&Names::default(), true, &["127.0.0.2/32"]);
    let sent = send(&opened, &format!("http://127.0.0.2:{port}/")).await;
    assert_eq!((sent.fault, sent.status), (None, Some(200)));
    assert!(sent.duration < std::time::Duration::from_secs(10), "{:?}", sent.duration);
    assert!(written.load(Ordering::SeqCst) < 16 << 20, "what the kernel buffers, and no more");

    // One that answers nothing, and one whose head does not end.
    let silent = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let chatty = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let ports = [silent.local_addr().unwrap().port(), chatty.local_addr().unwrap().port()];
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            held.push(connection);
        }
    });
    tokio::spawn(async move {
        let (mut connection, _) = chatty.accept().await.unwrap();
        let _ = connection.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while connection.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    });
    let urls = ports.map(|port| format!("http://127.0.0.2:{port}/"));
    let (silent, chatty) = tokio::join!(send(&opened, &urls[0]), send(&opened, &urls[1]));
    assert_eq!((silent.fault, silent.status), (Some(Fault::TimedOut), None));
    assert!(chatty.fault.is_some() && chatty.status.is_none(), "{chatty:?}");
    for sent in [silent, chatty] {
        assert!(sent.duration < 2 * TIMEOUT, "{:?}", sent.duration);
    }
}

#[tokio::test]
async fn a_network_that_is_closed_after_a_registration_gets_nothing() {
    let app = app().await;
    let receiver = Receiver::start().await;
    let (id, _) = register_url(&app, &receiver.url).await;
    // The operator closes the network again: what was registered before is checked like everything else.
    let app = app.reconfigured(|config| config.callbacks.allow_private.clear()).await;
    let workers = app.workers();
    let job = submit(&app, app.organization.id, "fhir-bundle", None).await.job;
    app.wait_for(&job.to_string(), "failed").await;
    run_until_idle(&app).await;
    workers.stop().await;
    let log = deliveries(&app, &id).await;
    assert_eq!(log[0]["errorCode"], "callback_refused");
    assert_eq!(receiver.received().len(), 0);
}
