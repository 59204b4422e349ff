//! Sessions and their files: what comes in, what guests make of it, what goes out.

use std::{fs, os::unix::fs::symlink};

use reqwest::{Method, Response, StatusCode, header::HeaderMap};
use serde_json::{Value, json};

use crate::support::{
    alive,
    daemon::{Answer, Daemon, alive_becomes, marker, request, request_with},
    eventually,
};

const FILES: &str = "/sessions/session-1/files";

struct Got {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Got {
    async fn of(response: Response) -> Self {
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap().to_vec(),
        }
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    #[track_caller]
    fn refusal(&self, status: u16, code: &str) -> Value {
        let body = self.json();
        assert_eq!(
            (self.status, &body["error_code"]),
            (status, &json!(code)),
            "{body}"
        );
        body
    }
}

async fn get(daemon: &Daemon, path: &str, headers: &[(&str, &str)]) -> Got {
    send(daemon, Method::GET, path, headers, Vec::new()).await
}

async fn put(daemon: &Daemon, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Got {
    send(daemon, Method::PUT, path, headers, body.to_vec()).await
}

async fn send(
    daemon: &Daemon,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Got {
    let mut request = daemon.request(method, path).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Got::of(request.send().await.unwrap()).await
}

#[tokio::test]
async fn a_file_goes_in_is_worked_on_and_comes_out() {
    let daemon = Daemon::start();
    let created = put(&daemon, &format!("{FILES}/in/data.csv"), &[], b"a,b\n1,2\n").await;
    assert_eq!(created.status, 201);
    let entry = created.json();
    assert_eq!(entry["path"], "in/data.csv");
    assert_eq!(entry["type"], "file");
    assert_eq!(
        (&entry["size"], &entry["mime_type"]),
        (&json!(8), &json!("text/csv"))
    );

    let code = "def handler(event):\n    text = open('in/data.csv').read()\n    \
                open('out.txt', 'w').write(text.upper())\n    return len(text)";
    let run = daemon.execute(&request("python", code)).await.completed();
    assert_eq!(run["return_value"], 8);
    let artifacts = run["artifacts"].as_array().unwrap();
    assert_eq!(artifacts.len(), 1, "{artifacts:?}");
    assert_eq!(artifacts[0]["path"], "out.txt");

    let got = get(&daemon, &format!("{FILES}/out.txt"), &[]).await;
    assert_eq!((got.status, &got.body[..]), (200, &b"A,B\n1,2\n"[..]));
    assert_eq!(got.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(got.header("content-length"), "8");
    assert_eq!(got.header("x-content-type-options"), "nosniff");
    assert_eq!(got.header("accept-ranges"), "bytes");
    assert!(
        got.header("content-security-policy")
            .starts_with("sandbox;")
    );
    assert_eq!(
        got.header("content-disposition"),
        "inline; filename=\"out.txt\""
    );

    let list = get(&daemon, &format!("{FILES}?recursive=true"), &[])
        .await
        .json();
    let paths: Vec<_> = list["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["in", "in/data.csv", "out.txt"]);
    assert_eq!(list["next_cursor"], Value::Null);
    let page = get(&daemon, &format!("{FILES}?limit=1&cursor=in"), &[])
        .await
        .json();
    assert_eq!(page["entries"][0]["path"], "out.txt");
    let directory = get(&daemon, &format!("{FILES}/in"), &[]).await.json();
    assert_eq!(directory["entries"][0]["path"], "in/data.csv");

    let session = get(&daemon, "/sessions/session-1", &[]).await.json();
    assert_eq!(
        (&session["files"], &session["complete"]),
        (&json!(3), &json!(true))
    );
}

#[tokio::test]
async fn parts_and_conditions() {
    let daemon = Daemon::start();
    let path = format!("{FILES}/f");
    let etag = put(&daemon, &path, &[], b"0123456789").await;
    let etag = etag.header("etag").to_owned();
    let part = get(&daemon, &path, &[("range", "bytes=2-4")]).await;
    assert_eq!((part.status, &part.body[..]), (206, &b"234"[..]));
    assert_eq!(part.header("content-range"), "bytes 2-4/10");
    assert_eq!(part.header("content-length"), "3");
    let part = get(
        &daemon,
        &path,
        &[("range", "bytes=-3"), ("if-range", &etag)],
    )
    .await;
    assert_eq!((part.status, &part.body[..]), (206, &b"789"[..]));
    let whole = get(
        &daemon,
        &path,
        &[("range", "bytes=-3"), ("if-range", "\"x\"")],
    )
    .await;
    assert_eq!((whole.status, whole.body.len()), (200, 10));
    let none = get(&daemon, &path, &[("range", "bytes=10-")]).await;
    none.refusal(416, "Executor.RangeNotSatisfiable");
    assert_eq!(none.header("content-range"), "bytes */10");
    let same = get(&daemon, &path, &[("if-none-match", &etag)]).await;
    assert_eq!((same.status, same.body.len()), (304, 0));
    assert_eq!(same.header("etag"), etag);

    let head = send(&daemon, Method::HEAD, &path, &[], Vec::new()).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(
        (head.header("content-length"), head.header("etag")),
        ("10", &*etag)
    );

    let range = [("range", "bytes=2-4")];
    let head = send(&daemon, Method::HEAD, &path, &range, Vec::new()).await;
    assert_eq!((head.status, head.header("content-length")), (200, "10"));
    let slash = format!("{path}/");
    send(&daemon, Method::DELETE, &slash, &[], Vec::new())
        .await
        .refusal(404, "Executor.NotFound");

    put(&daemon, &path, &[("if-none-match", "*")], b"x")
        .await
        .refusal(412, "Executor.PreconditionFailed");
    put(&daemon, &path, &[("if-match", "\"x\"")], b"x")
        .await
        .refusal(412, "Executor.PreconditionFailed");
    let replaced = put(&daemon, &path, &[("if-match", &etag)], b"new").await;
    assert_eq!(replaced.status, 200);
    assert_ne!(replaced.header("etag"), etag);
    let stale = send(
        &daemon,
        Method::DELETE,
        &path,
        &[("if-match", &etag)],
        Vec::new(),
    )
    .await;
    stale.refusal(412, "Executor.PreconditionFailed");
    let removed = send(&daemon, Method::DELETE, &path, &[], Vec::new()).await;
    assert_eq!(removed.status, 204);
    get(&daemon, &path, &[])
        .await
        .refusal(404, "Executor.NotFound");
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let daemon = Daemon::start();
    put(&daemon, &format!("{FILES}/d/f"), &[], b"x").await;
    for path in [
        "..%2f..%2fetc%2fpasswd",
        "a%2f..%2f..%2fb",
        "a%2f.%2fb",
        "%2fetc%2fpasswd",
        "a%0Ab",
        "a%00b",
        "a%FFb",
        "a//b",
        "%E2%80%AEgnp.exe",
    ] {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let answer = send(
                &daemon,
                method.clone(),
                &format!("{FILES}/{path}"),
                &[],
                vec![1],
            )
            .await;
            answer.refusal(400, "Executor.ValidationError");
        }
    }
    for session in ["..", ".x", "a%2fb", "%2e%2e"] {
        let answer = get(&daemon, &format!("/sessions/{session}/files/f"), &[]).await;
        assert!(
            [400, 404].contains(&answer.status),
            "{session}: {}",
            answer.status
        );
    }
    get(&daemon, &format!("{FILES}?limit=0&what=1"), &[])
        .await
        .refusal(400, "Executor.ValidationError");
    get(&daemon, "/sessions/nobody", &[])
        .await
        .refusal(404, "Executor.NotFound");
    get(&daemon, "/sessions/nobody/files", &[])
        .await
        .refusal(404, "Executor.NotFound");
    put(&daemon, &format!("{FILES}/d"), &[], b"x")
        .await
        .refusal(409, "Executor.Conflict");
    put(
        &daemon,
        &format!("{FILES}/f"),
        &[("content-encoding", "gzip")],
        b"x",
    )
    .await
    .refusal(415, "Executor.UnsupportedMediaType");
    put(
        &daemon,
        &format!("{FILES}/f"),
        &[("content-range", "bytes 0-0/1")],
        b"x",
    )
    .await
    .refusal(400, "Executor.ValidationError");
    send(
        &daemon,
        Method::DELETE,
        &format!("{FILES}/d"),
        &[],
        Vec::new(),
    )
    .await
    .refusal(409, "Executor.Conflict");
    let removed = send(
        &daemon,
        Method::DELETE,
        &format!("{FILES}/d?recursive=true"),
        &[],
        Vec::new(),
    )
    .await;
    assert_eq!(removed.status, 204);
    // Nothing of this has made a session.
    assert!(!daemon.workspaces().join("nobody").exists());
}

#[tokio::test]
async fn files_want_the_token_as_everything_does() {
    let daemon = Daemon::with(&[("INTERNAL_API_TOKEN", "s3cret")]);
    for (method, path) in [
        (Method::GET, "/sessions/s".to_owned()),
        (Method::DELETE, "/sessions/s".to_owned()),
        (Method::GET, FILES.to_owned()),
        (Method::PUT, format!("{FILES}?archive=tar")),
        (Method::GET, format!("{FILES}/f")),
        (Method::PUT, format!("{FILES}/f")),
        (Method::DELETE, format!("{FILES}/f")),
    ] {
        let answer = send(&daemon, method, &path, &[], b"x".to_vec()).await;
        answer.refusal(401, "Executor.Unauthorized");
    }
    let bearer = [("authorization", "Bearer s3cret")];
    let created = put(&daemon, &format!("{FILES}/f"), &bearer, b"x").await;
    assert_eq!(created.status, 201);
}

#[tokio::test]
async fn guests_links_are_nobodys_way_out_and_pages_are_for_keeping() {
    let daemon = Daemon::start();
    let code = "ln -s /etc/passwd link; ln -s / root; echo '<script>1</script>' > page.html; \
                printf '\\211PNG\\r\\n\\032\\n0000' > dot.png";
    daemon.execute(&request("shell", code)).await.completed();
    for path in ["link", "root/etc/passwd"] {
        let answer = get(&daemon, &format!("{FILES}/{path}"), &[]).await;
        assert!([404, 409].contains(&answer.status), "{path}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("root:"));
    }
    let page = get(&daemon, &format!("{FILES}/page.html"), &[]).await;
    assert_eq!(
        page.header("content-disposition"),
        "attachment; filename=\"page.html\""
    );
    assert!(
        page.header("content-security-policy")
            .contains("default-src 'none'")
    );
    let picture = get(&daemon, &format!("{FILES}/dot.png"), &[]).await;
    assert_eq!(picture.header("content-type"), "image/png");
    assert_eq!(
        picture.header("content-disposition"),
        "inline; filename=\"dot.png\""
    );
}

#[tokio::test]
async fn a_directory_travels_as_an_archive_both_ways() {
    let daemon = Daemon::start();
    daemon
        .execute(&request(
            "shell",
            "mkdir -p d/e; echo one > d/one; echo two > d/e/two; ln -s one d/link",
        ))
        .await
        .completed();
    for format in ["tar", "zip"] {
        let packed = get(&daemon, &format!("{FILES}/d?archive={format}"), &[]).await;
        assert_eq!(packed.status, 200);
        let disposition = format!("attachment; filename=\"d.{format}\"");
        assert_eq!(packed.header("content-disposition"), disposition);
        let target = format!("/sessions/{format}/files?archive={format}");
        let unpacked = put(&daemon, &target, &[], &packed.body).await;
        assert_eq!(
            (unpacked.status, unpacked.json()),
            (200, json!({"files": 2}))
        );
        let two = get(&daemon, &format!("/sessions/{format}/files/e/two"), &[]).await;
        assert_eq!(two.body, b"two\n");
    }
    put(
        &daemon,
        &format!("{FILES}/d?archive=tar"),
        &[],
        b"no archive, and long enough",
    )
    .await
    .refusal(400, "Executor.ValidationError");
    put(&daemon, &format!("{FILES}/d/"), &[], b"x")
        .await
        .refusal(400, "Executor.ValidationError");
}

#[tokio::test]
async fn a_workspace_is_bounded_for_uploads_and_runs() {
    let daemon = Daemon::with(&[("MAX_WORKSPACE_MB", "8"), ("MAX_WORKSPACE_FILES", "200")]);
    let mib = vec![b'x'; 1 << 20];
    for number in 0..3 {
        let answer = put(&daemon, &format!("{FILES}/f{number}"), &[], &mib).await;
        assert_eq!(answer.status, 201);
    }
    put(&daemon, &format!("{FILES}/large"), &[], &mib.repeat(6))
        .await
        .refusal(413, "Executor.QuotaExceeded");
    assert!(!daemon.file("large").exists());

    // Never ends by itself. Files of 1 MiB each, so that no limit of a single file is met.
    let code = "i=0; while :; do head -c 1048576 /dev/zero > more$i; i=$((i+1)); sleep 0.01; done";
    let run = daemon.execute(&request("shell", code)).await.ran();
    assert_eq!(run["status"], "failed", "{run:#}");
    assert_eq!(run["error"]["reason"], "workspace_quota");
    assert_eq!(run["metrics"]["limits_hit"], json!(["workspace"]));
    assert_eq!(run["exit_code"], -1);
    let session = get(&daemon, "/sessions/session-1", &[]).await.json();
    let bytes = session["bytes"].as_u64().unwrap();
    assert!((8 << 20..64 << 20).contains(&bytes), "{bytes}");

    // Whoever has filled it can clean up.
    let run = daemon
        .execute(&request("shell", "rm -f more* f*; ls"))
        .await
        .completed();
    assert_eq!(run["stdout"], "");
    let code = "mkdir d; i=0; while :; do : > d/$i; i=$((i+1)); done";
    let run = daemon.execute(&request("shell", code)).await.ran();
    assert_eq!(run["error"]["reason"], "workspace_quota", "{run:#}");
    // A run may wish for less than the ceiling.
    let wish = json!({"session_id": "other", "limits": {"max_workspace_mb": 1}});
    let code = "i=0; while :; do head -c 1048576 /dev/zero > more$i; i=$((i+1)); sleep 0.01; done";
    let run = daemon
        .execute(&request_with("shell", code, wish))
        .await
        .ran();
    assert_eq!(run["error"]["reason"], "workspace_quota", "{run:#}");
}

#[tokio::test]
async fn removing_a_session_stops_its_runs_first() {
    let daemon = Daemon::start();
    let marker = marker();
    let code = format!("echo kept > file; trap '' TERM; sleep {marker}");
    let run = daemon.spawn(&request("shell", &code));
    alive_becomes(&marker, 1).await;
    let removed = send(
        &daemon,
        Method::DELETE,
        "/sessions/session-1",
        &[],
        Vec::new(),
    )
    .await;
    assert_eq!(removed.status, 204);
    assert_eq!(alive(&marker), [0; 0]);
    assert_eq!(run.await.unwrap().ran()["status"], "cancelled");
    assert!(!daemon.workspaces().join("session-1").exists());
    let removed = send(
        &daemon,
        Method::DELETE,
        "/sessions/session-1",
        &[],
        Vec::new(),
    )
    .await;
    removed.refusal(404, "Executor.NotFound");
    let run = daemon.execute(&request("shell", "ls")).await.completed();
    assert_eq!(run["stdout"], "");
}

#[tokio::test]
async fn sessions_that_nobody_uses_are_removed_by_themselves() {
    let daemon = Daemon::with(&[("WORKSPACE_TTL", "3s")]);
    daemon
        .execute(&request("shell", "echo x > file"))
        .await
        .completed();
    let used = request_with(
        "shell",
        "echo y > file; sleep 8",
        json!({"session_id": "used"}),
    );
    let used = daemon.spawn(&used);
    eventually("the idle session is gone", || {
        !daemon.workspaces().join("session-1").exists()
    })
    .await;
    // One that is used is not idle, however long its run takes.
    used.await.unwrap().completed();
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("session removed"))
        .unwrap();
    assert!(
        line.contains("session-1") && line.contains("idle"),
        "{line}"
    );
    assert_eq!(log.matches("session removed").count(), 1, "{log}");
    let metrics = daemon.metrics().await;
    let value = |series: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    assert_eq!(value(r#"sandbox_sessions_removed_total{reason="idle"}"#), 1);
    assert_eq!(value(r#"sandbox_sessions_removed_total{reason="disk"}"#), 0);
    let bytes = value(r#"sandbox_sessions_removed_bytes_total{reason="idle"}"#);
    assert!((1..1 << 20).contains(&bytes), "{bytes}");
}

#[tokio::test]
async fn a_daemon_that_is_killed_in_the_middle_of_an_upload_leaves_nothing_behind() {
    let root = crate::support::daemon::passable_directory();
    let workspaces = root.path().join("ws");
    let settings = [("WORKSPACE_PATH", workspaces.to_str().unwrap())];
    let mut daemon = Daemon::with(&settings);
    put(&daemon, &format!("{FILES}/f"), &[], b"old").await;
    let own = workspaces.join(".sandbox-executor");
    let staging = own.join("staging");
    let coming = || {
        fs::read_dir(&staging)
            .unwrap()
            .flatten()
            .any(|process| fs::read_dir(process.path()).is_ok_and(|files| files.count() > 0))
    };
    // A body that never ends.
    let address = daemon.address().to_owned();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(
        &mut stream,
        format!("PUT {FILES}/f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\nnew")
            .as_bytes(),
    )
    .unwrap();
    eventually("the upload has begun", coming).await;
    daemon.signal(nix::sys::signal::Signal::SIGKILL);
    daemon.exit().await;
    assert!(coming(), "it was killed in the middle");

    let daemon = Daemon::with(&settings);
    eventually("nothing is left", || {
        !coming() && fs::read_dir(own.join("trash")).unwrap().count() == 0
    })
    .await;
    assert_eq!(get(&daemon, &format!("{FILES}/f"), &[]).await.body, b"old");
}

#[tokio::test]
async fn sessions_are_strangers_to_each_other() {
    let daemon = Daemon::start();
    put(
        &daemon,
        "/sessions/secret-session/files/secret-name",
        &[],
        b"secret content",
    )
    .await;
    let code = "ls -laR / 2>/dev/null | grep -c secret-name; cat /proc/self/mountinfo | grep -c secret; \
                ls -la /workspace/.. | grep -c secret; find / -name 'secret-*' 2>/dev/null | wc -l; \
                df -i /workspace >/dev/null; grep -rc 'secret content' /workspace";
    let run = daemon.execute(&request("shell", code)).await.ran();
    assert_eq!(run["stdout"], "0\n0\n0\n0\n", "{run:#}");
    // The daemon's own directory is no session's.
    symlink("x", daemon.workspaces().join("planted")).unwrap();
    for session in [".sandbox-executor", "planted"] {
        let answer = get(&daemon, &format!("/sessions/{session}/files"), &[]).await;
        assert!(answer.status >= 400, "{session}");
    }
}

#[tokio::test]
async fn large_files_stream_in_constant_memory() {
    const BYTES: u64 = 200 << 20;
    let daemon = Daemon::with(&[("MAX_FILE_SIZE_MB", "300")]);
    let peak = || {
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib << 10
    };
    put(&daemon, &format!("{FILES}/small"), &[], b"x").await;
    let before = peak();
    let chunk = vec![b'x'; 1 << 20];
    let (sender, receiver) = tokio::sync::mpsc::channel::<Vec<u8>>(2);
    let feed = tokio::spawn(async move {
        for _ in 0..BYTES >> 20 {
            sender.send(chunk.clone()).await.unwrap();
        }
    });
    let stream = futures_util::stream::unfold(receiver, async |mut receiver| {
        let chunk = receiver.recv().await?;
        Some((Ok::<_, std::io::Error>(chunk), receiver))
    });
    let put = daemon
        .request(Method::PUT, &format!("{FILES}/large"))
        .body(reqwest::Body::wrap_stream(stream));
    let answer = put.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    feed.await.unwrap();

    let code = "import hashlib\ndef handler(event):\n    \
                return hashlib.file_digest(open('large', 'rb'), 'sha256').hexdigest()";
    let run = daemon.execute(&request("python", code)).await.completed();
    assert_eq!(run["return_value"].as_str().unwrap().len(), 64);

    let mut answer = daemon.get(&format!("{FILES}/large")).send().await.unwrap();
    let mut got = 0;
    while let Some(chunk) = answer.chunk().await.unwrap() {
        got += chunk.len() as u64;
    }
    assert_eq!(got, BYTES);
    let packed = daemon.get(&format!("{FILES}?archive=tar")).send();
    let mut packed = packed.await.unwrap();
    while packed.chunk().await.unwrap().is_some() {}
    let grown = peak().saturating_sub(before);
    assert!(grown < 48 << 20, "{grown} bytes more at the peak");
}

#[tokio::test]
async fn a_bound_daemon_serves_its_session_and_no_other() {
    let daemon = Daemon::with(&[("SESSION_ID", "session-1")]);
    put(&daemon, &format!("{FILES}/f"), &[], b"x").await;
    assert_eq!(fs::read(daemon.workspaces().join("f")).unwrap(), b"x");
    put(&daemon, "/sessions/other/files/f", &[], b"x")
        .await
        .refusal(404, "Executor.NotFound");
    let list = get(&daemon, FILES, &[]).await.json();
    assert_eq!(list["entries"].as_array().unwrap().len(), 1, "{list}");
    let removed = send(
        &daemon,
        Method::DELETE,
        "/sessions/session-1",
        &[],
        Vec::new(),
    )
    .await;
    assert_eq!(removed.status, 204);
    assert!(!daemon.workspaces().join("f").exists());
    let answer: Answer = daemon.execute(&request("shell", "echo y > g; ls")).await;
    assert_eq!(answer.completed()["stdout"], "g\n");
}
