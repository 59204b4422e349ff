use executor_application::Workspaces;
use executor_domain::SessionId;
use executor_infra_workspace::*;
use std::{fs, time::Instant};
#[tokio::main]
async fn main() {
    let owner = (rustix::process::geteuid().as_raw() == 0).then_some(Owner {
        uid: 65534,
        gid: 65534,
    });
    let w = SessionWorkspaces::temporary(WorkspaceOptions {
        owner,
        ..Default::default()
    })
    .unwrap();
    let pct = |mut v: Vec<f64>, n: &str| {
        v.sort_by(|a, b| a.total_cmp(b));
        println!(
            "{n}: p50 {:.1} us p95 {:.1} us",
            v[v.len() / 2],
            v[v.len() * 95 / 100]
        );
    };
    let (mut a, mut b) = (vec![], vec![]);
    for i in 0..2000 {
        let s = SessionId::parse(&format!("s{i}")).unwrap();
        let t = Instant::now();
        let o = w.open(&s).await.unwrap();
        a.push(t.elapsed().as_secs_f64() * 1e6);
        let t = Instant::now();
        o.changes().await.unwrap();
        b.push(t.elapsed().as_secs_f64() * 1e6);
    }
    pct(a, "open new");
    pct(b, "changes empty");
    let s = SessionId::parse("s0").unwrap();
    let (mut a, mut b) = (vec![], vec![]);
    for _ in 0..5000 {
        let t = Instant::now();
        let o = w.open(&s).await.unwrap();
        a.push(t.elapsed().as_secs_f64() * 1e6);
        let t = Instant::now();
        o.changes().await.unwrap();
        b.push(t.elapsed().as_secs_f64() * 1e6);
    }
    pct(a, "open existing");
    pct(b, "changes empty");
    let p = w.root().join("s0");
    for i in 0..10 {
        fs::write(p.join(format!("f{i}")), "x").unwrap();
    }
    let mut b = vec![];
    let mut false_pos = 0;
    for _ in 0..2000 {
        let o = w.open(&s).await.unwrap();
        let t = Instant::now();
        false_pos += o.changes().await.unwrap().files.len();
        b.push(t.elapsed().as_secs_f64() * 1e6);
    }
    pct(b, "changes 10 unchanged");
    println!("reported {false_pos}");
    for d in 0..100 {
        let d = p.join(format!("d{d}"));
        fs::create_dir(&d).unwrap();
        for i in 0..100 {
            fs::write(d.join(format!("f{i}")), "x").unwrap();
        }
    }
    let mut b = vec![];
    for _ in 0..100 {
        let o = w.open(&s).await.unwrap();
        let t = Instant::now();
        assert!(o.changes().await.unwrap().files.is_empty());
        b.push(t.elapsed().as_secs_f64() * 1e6);
    }
    pct(b, "changes 10000 unchanged in 100 dirs");
    let d = p.join("flat");
    fs::create_dir(&d).unwrap();
    for i in 0..10000 {
        fs::write(d.join(format!("f{i}")), "x").unwrap();
    }
    fs::remove_dir_all(p.join("d0")).unwrap();
    for d in 1..100 {
        fs::remove_dir_all(p.join(format!("d{d}"))).unwrap();
    }
    let mut b = vec![];
    for _ in 0..100 {
        let o = w.open(&s).await.unwrap();
        let t = Instant::now();
        assert!(o.changes().await.unwrap().files.is_empty());
        b.push(t.elapsed().as_secs_f64() * 1e6);
    }
    pct(b, "changes 10000 unchanged flat");
    let o = w.open(&s).await.unwrap();
    fs::write(p.join("big"), vec![7u8; 64 << 20]).unwrap();
    let t = Instant::now();
    assert_eq!(o.changes().await.unwrap().files.len(), 1);
    println!("64 MiB: {:?}", t.elapsed());
    let mut n = 0;
    for i in 0..500 {
        let o = w.open(&s).await.unwrap();
        fs::write(p.join("q"), format!("{i}")).unwrap();
        assert_eq!(o.changes().await.unwrap().files.len(), 1);
        let o = w.open(&s).await.unwrap();
        n += o.changes().await.unwrap().files.len();
    }
    println!("false positives of 500: {n}");
    let t = Instant::now();
    drop(o);
    drop(w);
    println!("removal {:?}", t.elapsed());
}
