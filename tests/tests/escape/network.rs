//! No way out: not to the host, not to another run, not to the internet.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{TcpListener, TcpStream},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use executor_domain::Ending;
use serde_json::{Value, json};

use crate::{
    support::{self, Workspace, eventually},
    world::{Answers, Guest, expect, guest, run, run_while, sandbox, with_event},
};

/// What listens on the host while guests look for it.
struct Host {
    tcp: TcpListener,
    abstract_name: String,
    abstract_socket: UnixListener,
    socket: UnixListener,
    directory: Workspace,
}

impl Host {
    fn listen() -> Self {
        let directory = Workspace::new();
        // Unique, as the directory's own name is.
        let abstract_name = format!("escape{}", directory.path().display());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let host = Self {
            tcp: TcpListener::bind(("127.0.0.1", 0)).unwrap(),
            abstract_socket: UnixListener::bind_addr(&address).unwrap(),
            socket: UnixListener::bind(directory.path().join("socket")).unwrap(),
            abstract_name,
            directory,
        };
        host.tcp.set_nonblocking(true).unwrap();
        host.abstract_socket.set_nonblocking(true).unwrap();
        host.socket.set_nonblocking(true).unwrap();
        host
    }

    fn event(&self) -> Value {
        json!({
            "port": self.tcp.local_addr().unwrap().port(),
            "abstract": self.abstract_name,
            "path": self.directory.path().join("socket"),
        })
    }

    /// Checks that nobody has called; and, as a control, that somebody could have.
    fn assert_undisturbed(&self) {
        let nobody = |called: io::Result<()>| {
            assert_eq!(called.unwrap_err().kind(), ErrorKind::WouldBlock);
        };
        nobody(self.tcp.accept().map(drop));
        nobody(self.abstract_socket.accept().map(drop));
        nobody(self.socket.accept().map(drop));

        TcpStream::connect(self.tcp.local_addr().unwrap()).unwrap();
        let address = SocketAddr::from_abstract_name(&self.abstract_name).unwrap();
        UnixStream::connect_addr(&address).unwrap();
        UnixStream::connect(self.directory.path().join("socket")).unwrap();
        self.tcp.accept().unwrap();
        self.abstract_socket.accept().unwrap();
        self.socket.accept().unwrap();
    }
}

const PYTHON: Answers<'_> = &[
    (
        "ECONNREFUSED",
        &[
            "a port of the host",
            "a port of the host by its other names",
            "an abstract socket of the host",
        ],
    ),
    ("ENOENT", &["a socket of the host by its path"]),
    (
        "ENETUNREACH",
        &[
            "cloud metadata",
            "the internet",
            "the internet by UDP",
            "the internet by IPv6",
            "everybody on the wire",
        ],
    ),
    ("gaierror", &["a name"]),
    ("lo", &["interfaces"]),
    ("0", &["routes"]),
];

#[test]
fn the_host_and_the_internet_are_out_of_reach() {
    let node: Answers<'_> = &[
        (
            "ECONNREFUSED",
            &["a port of the host", "an abstract socket of the host"],
        ),
        ("ENOENT", &["a socket of the host by its path"]),
        ("ENETUNREACH", &["cloud metadata", "the internet", "a page"]),
        ("ENOTFOUND|EAI_AGAIN", &["a name"]),
    ];
    let host = Host::listen();
    for (guest, answers) in [
        (guest!(python "network"), PYTHON),
        (guest!(node "network"), node),
    ] {
        let workspace = Workspace::new();
        let job = with_event(&host.event(), guest.script(&workspace));
        expect(&run(job), answers);
    }

    // Bash has no JSON: the port is put in front.
    let workspace = Workspace::new();
    let Guest { language, code } = guest!(shell "network");
    let port = host.tcp.local_addr().unwrap().port();
    let outcome = run(support::job(
        language,
        &format!("PORT={port}\n{code}"),
        &workspace,
    ));
    expect(
        &outcome,
        &[(
            "refused",
            &[
                "a port of the host",
                "cloud metadata",
                "the internet",
                "the internet by UDP",
                "a name",
            ],
        )],
    );
    host.assert_undisturbed();
}

#[test]
fn runs_do_not_meet() {
    let (listening, looking) = (Workspace::new(), Workspace::new());
    let abstract_name = format!("run{}", listening.path().display());
    let listener = with_event(
        &json!({"abstract": abstract_name}),
        guest!(python "listen").script(&listening),
    );
    let ready = listening.path().join("port");
    let outcome = run_while(listener, async || {
        eventually("it listens", || ready.exists()).await;
        let port: u16 = fs::read_to_string(&ready).unwrap().parse().unwrap();
        let event = json!({"port": port, "abstract": abstract_name, "path": ready});
        let job = with_event(&event, guest!(python "network").script(&looking));
        expect(&support::run(sandbox(), job).await, PYTHON);
    });
    // It was there all the time.
    assert_eq!(outcome.ending, Ending::Cancelled);
}
