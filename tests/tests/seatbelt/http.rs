//! The whole path: a request over HTTP, a run under the adapter for macOS, an answer.

use std::{collections::BTreeMap, sync::Arc};

use executor_interfaces_http::{ServerOptions, router, serve};
use reqwest::Client;
use sandbox_executor::{
    config::{self, Sources},
    wiring::{Adapters, WorkspacePlace},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::support::{
    daemon::{passable_directory, request, request_with},
    seatbelt::{StandIn, seatbelt},
};

struct Daemon {
    url: String,
    client: Client,
    stand_in: StandIn,
    directory: tempfile::TempDir,
}

impl Daemon {
    /// With the wiring of the executable, but for who runs guests.
    async fn start() -> Self {
        let (stand_in, sandbox) = seatbelt().await;
        let directory = passable_directory();
        let workspaces = directory.path().join("workspaces");
        let loaded = config::load(&Sources {
            file: None,
            environment: BTreeMap::from([
                ("CONTROL_PLANE_URL".into(), "none".into()),
                ("WORKSPACE_PATH".into(), workspaces.into()),
            ]),
            flags: BTreeMap::new(),
        });
        let config = loaded.unwrap().config;
        let adapters =
            Adapters::around(&config, WorkspacePlace::Configured, Arc::new(sandbox)).unwrap();
        let executor = adapters.execute_code(&config);
        let sessions = adapters.manage_sessions(&config, executor.clone());
        let api = adapters.api(&config, executor, sessions);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // Ends with the test's runtime.
        tokio::spawn(serve(
            listener,
            router(api),
            ServerOptions::default(),
            std::future::pending(),
        ));
        Self {
            url,
            client: Client::builder().no_proxy().build().unwrap(),
            stand_in,
            directory,
        }
    }

    async fn get(&self, path: &str) -> Value {
        let request = self.client.get(format!("{}{path}", self.url));
        request.send().await.unwrap().json().await.unwrap()
    }

    async fn execute(&self, body: &Value) -> Value {
        let request = self.client.post(format!("{}/execute", self.url)).json(body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_language_from_request_to_answer() {
    let daemon = Daemon::start().await;
    let event = json!({"event": {"name": "Alice"}});
    for (language, code) in [
        (
            "python",
            "def handler(event):\n    open('greeting.txt', 'w').write('x')\n    print('out')\n    return {'hello': event['name']}",
        ),
        (
            "javascript",
            "exports.handler = async (event) => { console.log('out'); require('fs').writeFileSync('greeting.txt', 'y'); return {hello: event.name}; }",
        ),
    ] {
        let run = daemon
            .execute(&request_with(language, code, event.clone()))
            .await;
        assert_eq!(run["status"], "completed", "{run:#}");
        assert_eq!(run["return_value"], json!({"hello": "Alice"}));
        assert_eq!(run["stdout"], "out\n");
        assert_eq!(run["artifacts"][0]["path"], "greeting.txt");
        assert!(
            run["metrics"]["peak_memory_mb"].as_f64().unwrap() > 1.0,
            "{run:#}"
        );
        assert!(
            run["metrics"]["cpu_time_ms"].as_f64().unwrap() > 1.0,
            "{run:#}"
        );
    }
    let code = "echo \"$EVENT_JSON\"; cat; echo; pwd; exit 3";
    let run = daemon.execute(&request_with("shell", code, event)).await;
    assert_eq!(
        (&run["status"], &run["exit_code"]),
        (&json!("failed"), &json!(3))
    );
    let workspace = daemon.directory.path().join("workspaces/session-1");
    let workspace = workspace.canonicalize().unwrap();
    let event = r#"{"name":"Alice"}"#;
    let expected = format!("{event}\n{event}\n{}\n", workspace.display());
    assert_eq!(run["stdout"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_info_say_which_adapter_it_is() {
    let daemon = Daemon::start().await;
    let health = daemon.get("/health").await;
    assert_eq!(
        (&health["status"], &health["isolation"]),
        (&json!("healthy"), &json!("seatbelt"))
    );
    let info = daemon.get("/info").await;
    assert_eq!(info["isolation"], "seatbelt");
    assert_eq!(
        info["isolation_version"],
        daemon.stand_in.path().to_str().unwrap()
    );
    let walls = info["walls"].as_array().unwrap();
    let profile = walls
        .iter()
        .find(|wall| wall["name"] == "seatbelt_profile")
        .unwrap();
    assert_eq!(profile["on"], true);
    let namespace = walls
        .iter()
        .find(|wall| wall["name"] == "pid_namespace")
        .unwrap();
    assert_eq!(namespace["on"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tool_is_called_with_the_profile_and_never_with_what_is_secret() {
    let daemon = Daemon::start().await;
    let before = daemon.stand_in.calls().len();
    let code = "echo code-nobody-sees; echo $VARIABLE";
    let variables =
        json!({"env_vars": {"VARIABLE": "value-nobody-sees"}, "event": {"k": "event-nobody-sees"}});
    let run = daemon
        .execute(&request_with("shell", code, variables))
        .await;
    assert_eq!(run["stdout"], "code-nobody-sees\nvalue-nobody-sees\n");

    let calls = daemon.stand_in.calls();
    assert_eq!(calls.len(), before + 1);
    let call = &calls[before];
    assert_eq!(call[0], daemon.stand_in.path().to_str().unwrap());
    assert_eq!(call[1], "-p");
    assert!(call[2].starts_with("(version 1)\n"));
    let end = call.iter().position(|word| word == "--").unwrap();
    assert!(
        call[3..end]
            .chunks(2)
            .all(|pair| pair[0] == "-D" && pair[1].contains('='))
    );
    assert!(call[end + 1].ends_with("/bash"), "{call:?}");
    assert_eq!(call.len(), end + 3);
    let all = call.join(" ");
    assert!(!all.contains("nobody-sees"), "{all}");

    // Every run has places of its own, and the session's workspace.
    daemon.execute(&request("shell", "true")).await;
    let calls = daemon.stand_in.calls();
    let parameter = |call: &[String], name: &str| {
        let prefix = format!("{name}=");
        let mut values = call.iter().filter_map(|word| word.strip_prefix(&prefix));
        values.next().unwrap().to_owned()
    };
    let (one, other) = (&calls[before], &calls[before + 1]);
    assert_ne!(parameter(one, "PRIVATE"), parameter(other, "PRIVATE"));
    assert_eq!(parameter(one, "WORKSPACE"), parameter(other, "WORKSPACE"));
    assert_eq!(one[2], other[2], "the text is the same");
}
