//! What a warm Node could carry from one guest to the next, or from the zygote to a guest.

use std::collections::BTreeSet;

use executor_application::{Job, Sandbox};
use executor_domain::{Ending, Language, Outcome, Start};

use crate::{
    support::{self, Workspace},
    world::{assert_returned, block_on, run, sandbox},
};

fn job(code: &str, workspace: &Workspace) -> Job {
    support::job(Language::JavaScript, code, workspace)
}

#[track_caller]
fn value_of(outcome: Outcome) -> String {
    match outcome.ending {
        Ending::Completed { return_value } => return_value.as_str().into(),
        other => panic!("{other:?}"),
    }
}

/// What these many runs of a handler return, as text.
fn returned(code: &str, runs: usize) -> Vec<String> {
    (0..runs)
        .map(|_| {
            let workspace = Workspace::new();
            value_of(run(job(code, &workspace)))
        })
        .collect()
}

/// Each draws by another way.
const DRAWS: [&str; 7] = [
    "Math.random()",
    "require('vm').runInNewContext('Math.random()')",
    "require('crypto').randomUUID()",
    "require('crypto').randomInt(2 ** 47)",
    "require('crypto').randomBytes(8).toString('hex')",
    "crypto.getRandomValues(new Uint32Array(2)).join()",
    "require('crypto').generateKeyPairSync('x25519').publicKey.export({ format: 'jwk' }).x",
];

#[test]
fn no_two_guests_draw_the_same_random_numbers() {
    for draw in DRAWS {
        let drawn = returned(&format!("exports.handler = () => {draw}"), 4);
        let different: BTreeSet<_> = drawn.iter().collect();
        assert_eq!(different.len(), drawn.len(), "{draw} {drawn:?}");
    }
}

/// What Node draws ahead, all guests would have a copy of where a package has made it.
#[test]
fn a_preloaded_package_is_there_and_guests_draw_their_own_numbers() {
    block_on(async {
        let sandbox = support::bwrap_with_packages(&[], &["http2"]).await;
        let pools = sandbox.warm_pools();
        assert!(pools.iter().all(|pool| pool.trouble.is_none()), "{pools:?}");
        let mut drawn = BTreeSet::new();
        for _ in 0..3 {
            let code = format!(
                "exports.handler = () => {{ if (!process.moduleLoadList.includes('NativeModule http2')) return [0];
                 return [{}] }}",
                DRAWS[..5].join(", ")
            );
            let workspace = Workspace::new();
            let outcome = support::run(&sandbox, job(&code, &workspace)).await;
            assert_ne!(outcome.start, Start::Cold);
            let value = value_of(outcome);
            drawn.extend(value.trim_matches(['[', ']']).split(',').map(str::to_owned));
        }
        assert_eq!(drawn.len(), 3 * 5, "{drawn:?}");
    });
}

#[test]
fn a_package_that_cannot_be_loaded_is_named_and_node_starts_cold() {
    block_on(async {
        let sandbox = support::bwrap_with_packages(&[], &["path", "no-such-package"]).await;
        let pools = sandbox.warm_pools();
        let node = pools
            .iter()
            .find(|pool| pool.language == Language::JavaScript);
        let trouble = node.and_then(|pool| pool.trouble.as_deref()).unwrap();
        assert!(
            trouble.contains("no-such-package cannot be loaded"),
            "{trouble}"
        );
        let workspace = Workspace::new();
        let job = job("exports.handler = () => 1", &workspace);
        let outcome = support::run(&sandbox, job).await;
        assert_eq!(outcome.start, Start::Cold);
        assert_returned(&outcome, "1");
    });
}

/// A descriptor that the zygote has is one that every guest could write to and every other read from.
#[test]
fn a_guest_holds_no_descriptor_of_the_zygote() {
    let code = "\
const fs = require('fs');
exports.handler = () => fs.readdirSync('/proc/self/fd').map(Number).filter((fd) => fd > 2).flatMap((fd) => {
  try { return [fs.readlinkSync('/proc/self/fd/' + fd)] } catch { return [] }
}).filter((link) => link !== '/dev/null' && !link.startsWith('anon_inode:') && !link.startsWith('/proc/'))";
    let mut seen = BTreeSet::new();
    for value in returned(code, 4) {
        let links: Vec<_> = value.trim_matches(['[', ']']).split(',').collect();
        // Control: its channel, and the pipes by which libuv hears of signals.
        assert!(
            value.contains("socket:") && value.contains("pipe:"),
            "{value}"
        );
        let own: BTreeSet<_> = links.into_iter().map(str::to_owned).collect();
        for link in own {
            assert!(seen.insert(link.clone()), "two guests hold {link}");
        }
    }
}

/// What one guest makes its event loop wake up for must not wake up another.
#[test]
fn a_guest_has_an_event_loop_of_its_own() {
    let code = "\
const fs = require('fs');
exports.handler = async () => {
  let signals = 0;
  process.on('SIGUSR2', () => { signals += 1 });
  process.kill(process.pid, 'SIGUSR2');
  await fs.promises.readFile('/etc/hostname').catch(() => {});
  await new Promise((done) => setTimeout(done, 5));
  while (signals === 0) await new Promise((done) => setTimeout(done, 1));
  return signals;
}";
    block_on(async {
        let workspace = Workspace::new();
        let runs: Vec<_> = (0..8)
            .map(|_| {
                let job = job(code, &workspace);
                tokio::spawn(async move { support::run(sandbox(), job).await })
            })
            .collect();
        for run in runs {
            let outcome = run.await.unwrap();
            assert_ne!(outcome.start, Start::Cold);
            assert_returned(&outcome, "1");
        }
    });
}

#[test]
fn what_a_guest_leaves_is_gone_with_it() {
    let leave = "\
const fs = require('fs');
exports.handler = () => {
  const seen = [globalThis.left, fs.left, process.env.LEFT, require.cache.left, process.exitCode,
    fs.existsSync('/tmp/left'), Array.prototype.left, process.listenerCount('SIGUSR2')];
  globalThis.left = fs.left = Array.prototype.left = true;
  process.env.LEFT = '1';
  require.cache.left = {};
  process.exitCode = 0;
  process.on('SIGUSR2', () => {});
  fs.writeFileSync('/tmp/left', '');
  return seen.some(Boolean);
}";
    for value in returned(leave, 8) {
        assert_eq!(value, "false");
    }
}

/// The size of Node's heap is decided when it starts.
#[test]
fn another_memory_limit_starts_cold() {
    let workspace = Workspace::new();
    let code = "exports.handler = () => require('v8').getHeapStatistics().heap_size_limit >> 20";
    let usual = support::limits(|_| {}).max_memory_mb();
    let mut sizes = BTreeSet::new();
    for (megabytes, cold) in [(usual, false), (usual / 2, true)] {
        let limits = support::limits(|wish| wish.max_memory_mb = Some(megabytes));
        let job = Job {
            limits,
            ..job(code, &workspace)
        };
        let outcome = block_on(support::run(sandbox(), job));
        assert_eq!(outcome.start == Start::Cold, cold, "{megabytes}");
        sizes.insert(value_of(outcome));
    }
    assert_eq!(sizes.len(), 2, "{sizes:?}");
}

/// What it prints on the way names times and sizes, which no two runs have in common.
#[test]
fn a_heap_that_is_full_ends_as_it_does_cold() {
    let code =
        "exports.handler = () => { const all = []; for (;;) all.push(new Array(1e5).fill(1)) }";
    let workspace = Workspace::new();
    let warm = run(job(code, &workspace));
    let cold = block_on(async {
        let sandbox = support::bwrap().await;
        support::run(&sandbox, job(code, &workspace)).await
    });
    assert_eq!(cold.start, Start::Cold);
    assert_eq!(warm.ending, cold.ending);
    assert!(support::stderr(&warm).contains("heap out of memory"));
}
