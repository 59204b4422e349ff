//! How much memory an upload takes. A process of its own: nobody else's memory is in the figure.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "this is how a test fails")]

mod support;

use std::fs;

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use support::{answer, options, put, request, store};

/// Most memory that this process has had, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// Takes everything and keeps nothing.
async fn swallow(mut stream: TcpStream) {
    while let Some(line) = request(&mut stream).await {
        let begun =
            "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>";
        let ended =
            "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>";
        let body = match line.split_whitespace().next() {
            Some("POST") if line.contains("uploads") => begun,
            Some("POST") => ended,
            _ => "",
        };
        answer(&mut stream, "200 OK", "ETag: \"e\"\r\n", body).await;
    }
}

#[tokio::test]
async fn a_file_of_any_size_takes_constant_memory() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(swallow(stream));
        }
    });
    let store = store(options(&format!("http://{address}")));
    let upload = async |bytes: u64| {
        put(&store, "f", bytes).await.unwrap();
        peak()
    };
    let small = upload(11 << 20).await;
    let large = upload(44 << 20).await;
    let grown = large - small;
    assert!(grown < 12 << 20, "{grown} bytes more at the peak");
}
