//! The one table of settings. Flags, variables, file keys, `config` and `docs/configuration.md` are all made from it.

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text; in a file it must be quoted, so that no format turns `007` into `7`.
    Text,
    /// A path on the host.
    Path,
    /// A whole number.
    Number,
    /// A number of bytes, or one with a unit: `10 MiB`.
    Bytes,
    /// A number of seconds, or one with a unit: `90s`, `24h`.
    Duration,
    /// `true` or `false`.
    Switch,
}

impl Kind {
    /// The kind for people, and as the placeholder of a flag.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Path => "path",
            Self::Number => "number",
            Self::Bytes => "bytes",
            Self::Duration => "duration",
            Self::Switch => "true|false",
        }
    }
}

/// What counts where nobody says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// This value, written as an operator would write it.
    Value(&'static str),
    /// No value; what that means, in a word or two.
    Unset(&'static str),
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name in a file. Variable and flag follow from it.
    pub name: &'static str,
    /// A second, shorter flag, without its dashes.
    pub short_flag: Option<&'static str>,
    /// What its value looks like.
    pub kind: Kind,
    /// What counts where nobody says anything.
    pub preset: Preset,
    /// What it does, in sentences.
    pub doc: &'static str,
    /// Whether its value is never shown, and never taken from the command line, which any user of the host can read.
    pub secret: bool,
}

impl Key {
    const fn new(name: &'static str, kind: Kind, preset: Preset, doc: &'static str) -> Self {
        Self {
            name,
            short_flag: None,
            kind,
            preset,
            doc,
            secret: false,
        }
    }

    const fn short(self, flag: &'static str) -> Self {
        Self {
            short_flag: Some(flag),
            ..self
        }
    }

    const fn secret(self) -> Self {
        Self {
            secret: true,
            ..self
        }
    }

    /// The environment variable: `EXECUTOR_PORT`.
    pub fn variable(&self) -> String {
        self.name.to_ascii_uppercase()
    }

    /// The flag without its dashes: `executor-port`; `None` for secrets.
    pub fn flag(&self) -> Option<String> {
        (!self.secret).then(|| self.name.replace('_', "-"))
    }
}

use Kind::{Bytes, Duration, Number, Path, Switch, Text};
use Preset::{Unset, Value};

/// Settings that belong together.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// Its settings, in the order in which they are shown.
    pub keys: &'static [Key],
}

/// Every setting.
pub const SECTIONS: &[Section] = &[
    Section {
        title: "Listening and who may call",
        keys: &[
            EXECUTOR_HOST,
            EXECUTOR_PORT,
            INTERNAL_API_TOKEN,
            INTERNAL_API_TOKEN_FILE,
            EXECUTOR_REQUIRE_AUTH,
            EXECUTOR_ALLOW_ANONYMOUS,
            MAX_BODY_BYTES,
            ASYNC_BY_DEFAULT,
            CANCEL_ON_DISCONNECT,
        ],
    },
    Section {
        title: "Workspaces and results",
        keys: &[
            WORKSPACE_PATH,
            SESSION_ID,
            WORKSPACE_TTL,
            STATE_PATH,
            MAX_STATE_BYTES,
            WORKSPACE_HIGH_WATER,
            MAX_WORKSPACE_FILES,
            RESULT_TTL,
        ],
    },
    Section {
        title: "What one run may use",
        keys: &[
            DEFAULT_TIMEOUT,
            MAX_TIMEOUT,
            MAX_MEMORY_MB,
            MAX_CPU_TIME_MS,
            MAX_PROCESSES,
            MAX_FILE_SIZE_MB,
            MAX_WORKSPACE_MB,
            MAX_OUTPUT_BYTES,
        ],
    },
    Section {
        title: "How many runs",
        keys: &[
            MAX_CONCURRENT_EXECUTIONS,
            MAX_QUEUED_EXECUTIONS,
            MAX_TOTAL_MEMORY_MB,
            MAX_TOTAL_PROCESSES,
            SHUTDOWN_GRACE,
        ],
    },
    Section {
        title: "Isolation",
        keys: &[BWRAP_PATH, GUEST_UID, GUEST_GID, CGROUP_PARENT],
    },
    Section {
        title: "Warm starts",
        keys: &[
            WARM_POOL,
            WARM_POOL_LANGUAGES,
            WARM_POOL_MIN,
            WARM_POOL_MAX,
            PYTHON_PRELOAD,
            NODE_PRELOAD,
            GUEST_LIBRARY,
        ],
    },
    Section {
        title: "Control plane",
        keys: &[
            CONTROL_PLANE_URL,
            CONTROL_PLANE_PREFIX,
            CONTAINER_ID,
            POD_NAME,
            HEARTBEAT_INTERVAL,
        ],
    },
    Section {
        title: "Artifacts in object storage (executables with the feature s3)",
        keys: &[
            S3_ENDPOINT,
            S3_BUCKET,
            S3_PREFIX,
            S3_REGION,
            S3_ACCESS_KEY,
            S3_ACCESS_KEY_FILE,
            S3_SECRET_KEY,
            S3_SECRET_KEY_FILE,
            S3_PUBLIC_URL,
            S3_UPLOAD_TIMEOUT,
        ],
    },
    Section {
        title: "Logs and traces",
        keys: &[LOG_LEVEL, LOG_FORMAT, OTEL_EXPORTER_OTLP_ENDPOINT],
    },
];

/// Every setting, in the order of [`SECTIONS`].
pub fn all() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|section| section.keys)
}

pub(crate) const EXECUTOR_HOST: Key = Key::new(
    "executor_host",
    Text,
    Value("127.0.0.1"),
    "The IP address to listen on, or `localhost`. Anything but loopback wants a token.",
)
.short("host");

pub(crate) const EXECUTOR_PORT: Key = Key::new(
    "executor_port",
    Number,
    Value("8080"),
    "The TCP port to listen on. 0 picks a free one and prints it.",
)
.short("port");

pub(crate) const INTERNAL_API_TOKEN: Key = Key::new(
    "internal_api_token",
    Text,
    Unset("none"),
    "The bearer token that callers must send, and that the control plane is called with. Visible ASCII characters.",
)
.secret();

pub(crate) const INTERNAL_API_TOKEN_FILE: Key = Key::new(
    "internal_api_token_file",
    Path,
    Unset("none"),
    "A file that holds the token instead; line ends after it are ignored.",
);

pub(crate) const EXECUTOR_REQUIRE_AUTH: Key = Key::new(
    "executor_require_auth",
    Switch,
    Unset("true where there is a token"),
    "Whether callers must send the token. `false` is for networks that guard themselves, with callers that send none.",
);

pub(crate) const EXECUTOR_ALLOW_ANONYMOUS: Key = Key::new(
    "executor_allow_anonymous",
    Switch,
    Value("false"),
    "Listens beyond loopback without any token: whoever reaches the port may run code. Logged as a warning.",
);

pub(crate) const MAX_BODY_BYTES: Key = Key::new(
    "max_body_bytes",
    Bytes,
    Value("16 MiB"),
    "The largest request body. The default has room for an event of 8 MiB and 1 MiB of code, each byte of it escaped.",
);

pub(crate) const ASYNC_BY_DEFAULT: Key = Key::new(
    "async_by_default",
    Switch,
    Value("false"),
    "Whether `POST /execute` is answered at once, with 200 and the status `pending`, where the caller prefers nothing.",
);

pub(crate) const CANCEL_ON_DISCONNECT: Key = Key::new(
    "cancel_on_disconnect",
    Switch,
    Value("true"),
    "Whether a run is cancelled once every client that waited for it has hung up.",
);

pub(crate) const WORKSPACE_PATH: Key = Key::new(
    "workspace_path",
    Path,
    Value("/workspace"),
    "The directory that holds the sessions' workspaces. Made where it is missing. Where the daemon is root, the guests' \
     user must be able to walk to it.",
);

pub(crate) const SESSION_ID: Key = Key::new(
    "session_id",
    Text,
    Unset("none"),
    "Binds the daemon to this one session, whose workspace is the workspace path itself.",
);

pub(crate) const WORKSPACE_TTL: Key = Key::new(
    "workspace_ttl",
    Duration,
    Value("24h"),
    "How long the files of a session are kept that nobody uses. A daemon that is bound to one session keeps them.",
);

pub(crate) const WORKSPACE_HIGH_WATER: Key = Key::new(
    "workspace_high_water",
    Number,
    Value("90"),
    "How full the disk may become, in percent, before idle sessions are removed sooner, those first that were not used \
     for longest. 100: never.",
);

pub(crate) const MAX_WORKSPACE_FILES: Key = Key::new(
    "max_workspace_files",
    Number,
    Value("100000"),
    "Files and directories of a session's workspace.",
);

pub(crate) const STATE_PATH: Key = Key::new(
    "state_path",
    Path,
    Unset("beside the workspaces"),
    "The directory that holds executions, results and undelivered reports, for one daemon at a time. Made where it is \
     missing. No guest may see it: it is `.state` below the workspace path where nothing is said, and with a session id \
     next to it, with `.state` behind its name. `none` keeps everything in memory, and loses it with the process.",
);

pub(crate) const MAX_STATE_BYTES: Key = Key::new(
    "max_state_bytes",
    Bytes,
    Value("1 GiB"),
    "Most bytes of executions and results that are kept; the oldest go first (the oldest of those above 1 MiB, while they take \
     more than half of it), and those whose report is not delivered last. At least 64 MiB.",
);

pub(crate) const RESULT_TTL: Key = Key::new(
    "result_ttl",
    Duration,
    Value("24h"),
    "How long the result of an execution is kept. One whose report is not delivered is kept for longer.",
);

pub(crate) const DEFAULT_TIMEOUT: Key = Key::new(
    "default_timeout",
    Duration,
    Value("300"),
    "The wall time of a run that asks for none, in whole seconds. Unless it is set, at most the longest wall time.",
);

pub(crate) const MAX_TIMEOUT: Key = Key::new(
    "max_timeout",
    Duration,
    Value("3600"),
    "The longest wall time that a run may ask for, in whole seconds, at most an hour.",
);

pub(crate) const MAX_MEMORY_MB: Key = Key::new(
    "max_memory_mb",
    Number,
    Value("512"),
    "Memory of a run's whole process tree, swap included, in MiB. Ceiling and default, as are those below.",
);

pub(crate) const MAX_CPU_TIME_MS: Key = Key::new(
    "max_cpu_time_ms",
    Number,
    Unset("as wall time"),
    "CPU time of a run's whole process tree, in milliseconds.",
);

pub(crate) const MAX_PROCESSES: Key = Key::new(
    "max_processes",
    Number,
    Value("128"),
    "Processes and threads of a run at the same time.",
);

pub(crate) const MAX_FILE_SIZE_MB: Key = Key::new(
    "max_file_size_mb",
    Number,
    Value("100"),
    "The largest file that a run may write, in MiB.",
);

pub(crate) const MAX_WORKSPACE_MB: Key = Key::new(
    "max_workspace_mb",
    Number,
    Value("1024"),
    "What a session's workspace may take on the disk, in MiB. A run that goes beyond is ended.",
);

pub(crate) const MAX_OUTPUT_BYTES: Key = Key::new(
    "max_output_bytes",
    Bytes,
    Value("10 MiB"),
    "How much of stdout is kept, and of stderr as much again.",
);

pub(crate) const MAX_CONCURRENT_EXECUTIONS: Key = Key::new(
    "max_concurrent_executions",
    Number,
    Value("100"),
    "Runs at the same time.",
);

pub(crate) const MAX_QUEUED_EXECUTIONS: Key = Key::new(
    "max_queued_executions",
    Number,
    Value("1000"),
    "Requests that may wait for their turn; more are answered 429.",
);

pub(crate) const MAX_TOTAL_MEMORY_MB: Key = Key::new(
    "max_total_memory_mb",
    Number,
    Unset("three quarters of what there is"),
    "Memory of all runs together, swap included, in MiB, where there are cgroups. What is beyond is taken from a run, which \
     ends by `memory`. What there is: the machine's memory, or what the control groups above allow.",
);

pub(crate) const MAX_TOTAL_PROCESSES: Key = Key::new(
    "max_total_processes",
    Number,
    Unset("three quarters of what there is"),
    "Processes and threads of all runs together, where there are cgroups.",
);

pub(crate) const SHUTDOWN_GRACE: Key = Key::new(
    "shutdown_grace",
    Duration,
    Value("30s"),
    "How long runs may take to end once the daemon was told to stop; what still runs then is cancelled. What is left of it, \
     at least 2 s and at most 10 s, is for the control plane.",
);

pub(crate) const BWRAP_PATH: Key = Key::new(
    "bwrap_path",
    Path,
    Value("/usr/bin/bwrap"),
    "Bubblewrap. Ubuntu's AppArmor profile is bound to the default path.",
);

pub(crate) const GUEST_UID: Key = Key::new(
    "guest_uid",
    Number,
    Value("64064"),
    "The host's user id that guests run as where the daemon is root; never 0. An id that nobody else uses.",
);

pub(crate) const GUEST_GID: Key = Key::new(
    "guest_gid",
    Number,
    Value("64064"),
    "The host's group id that guests run as where the daemon is root; never 0.",
);

pub(crate) const CGROUP_PARENT: Key = Key::new(
    "cgroup_parent",
    Path,
    Unset("the daemon's own"),
    "The control group below which runs get theirs, for hosts where the daemon may not write below its own.",
);

pub(crate) const WARM_POOL: Key = Key::new(
    "warm_pool",
    Switch,
    Value("true"),
    "Whether sandboxes are made ahead of their runs, by forking an interpreter that is loaded already. `false` starts \
     every run cold: slower, and without the hash seed and memory layout that runs forked from one interpreter share.",
);

pub(crate) const WARM_POOL_LANGUAGES: Key = Key::new(
    "warm_pool_languages",
    Text,
    Value("python,javascript,shell"),
    "Languages that are kept warm, separated by commas; the others start cold. Each takes memory for an interpreter that waits and \
     for its sandboxes, and makes the daemon's start longer, JavaScript most of all.",
);

pub(crate) const WARM_POOL_MIN: Key = Key::new(
    "warm_pool_min",
    Number,
    Value("4"),
    "How many sandboxes wait in each language when there is nothing to do. Each takes 2 to 3 MiB.",
);

pub(crate) const WARM_POOL_MAX: Key = Key::new(
    "warm_pool_max",
    Number,
    Value("16"),
    "Most sandboxes that wait in each language, however many runs there are. With 0 in both, none waits, and every run's is \
     forked when it comes.",
);

pub(crate) const PYTHON_PRELOAD: Key = Key::new(
    "python_preload",
    Text,
    Unset("none"),
    "Python packages, separated by commas, that are imported before any run, so that no run pays for it: `numpy,pandas`.",
);

pub(crate) const NODE_PRELOAD: Key = Key::new(
    "node_preload",
    Text,
    Unset("none"),
    "Node packages, separated by commas, that are loaded before any run, so that no run pays for it: `lodash,@babel/core`. \
     They are looked for in `NODE_PATH` of guests, where `npm install --global` and Debian put them.",
);

pub(crate) const GUEST_LIBRARY: Key = Key::new(
    "guest_library",
    Path,
    Unset("beside the executable"),
    "The library that interpreters load to be forked. Looked for beside the executable, in `../lib/sandbox-executor` and \
     in `/usr/lib/sandbox-executor`. Without it runs start cold.",
);

pub(crate) const CONTROL_PLANE_URL: Key = Key::new(
    "control_plane_url",
    Text,
    Value("http://localhost:8000"),
    "Where the control plane is, http or https; `none` switches reports off. Proxies of the environment are not used.",
);

pub(crate) const CONTROL_PLANE_PREFIX: Key = Key::new(
    "control_plane_prefix",
    Text,
    Value("/api/v1/internal"),
    "What the paths of reports begin with, after the path of the URL.",
);

pub(crate) const CONTAINER_ID: Key = Key::new(
    "container_id",
    Text,
    Unset("host name"),
    "The name under which this daemon reports to the control plane.",
);

pub(crate) const POD_NAME: Key = Key::new(
    "pod_name",
    Text,
    Unset("none"),
    "The Kubernetes pod that the daemon runs in, for reports.",
);

pub(crate) const HEARTBEAT_INTERVAL: Key = Key::new(
    "heartbeat_interval",
    Duration,
    Value("5"),
    "How often a run that is under way is reported. A control plane that is slow gets fewer reports.",
);

pub(crate) const S3_ENDPOINT: Key = Key::new(
    "s3_endpoint",
    Text,
    Unset("none"),
    "The S3-compatible store that artifacts are uploaded to after a run, http or https, such as `https://s3.eu-central-1.amazonaws.com`. \
     Without it they stay in their workspaces.",
);

pub(crate) const S3_BUCKET: Key = Key::new(
    "s3_bucket",
    Text,
    Unset("none"),
    "The bucket. It must be there; a rule of it should remove uploads that were given up.",
);

pub(crate) const S3_PREFIX: Key = Key::new(
    "s3_prefix",
    Text,
    Unset("none"),
    "What keys begin with: an artifact is `PREFIX/SESSION/EXECUTION/PATH`.",
);

pub(crate) const S3_REGION: Key = Key::new(
    "s3_region",
    Text,
    Value("us-east-1"),
    "The region that signatures name.",
);

pub(crate) const S3_ACCESS_KEY: Key = Key::new(
    "s3_access_key",
    Text,
    Unset("none"),
    "The id of the access key. It needs to put objects below the prefix, and nothing else.",
)
.secret();

pub(crate) const S3_ACCESS_KEY_FILE: Key = Key::new(
    "s3_access_key_file",
    Path,
    Unset("none"),
    "A file that holds the id instead; line ends after it are ignored.",
);

pub(crate) const S3_SECRET_KEY: Key = Key::new(
    "s3_secret_key",
    Text,
    Unset("none"),
    "The secret of the access key.",
)
.secret();

pub(crate) const S3_SECRET_KEY_FILE: Key = Key::new(
    "s3_secret_key_file",
    Path,
    Unset("none"),
    "A file that holds the secret instead; line ends after it are ignored.",
);

pub(crate) const S3_PUBLIC_URL: Key = Key::new(
    "s3_public_url",
    Text,
    Unset("endpoint and bucket"),
    "What the addresses in results begin with, where readers reach the bucket by another name than the daemon does.",
);

pub(crate) const S3_UPLOAD_TIMEOUT: Key = Key::new(
    "s3_upload_timeout",
    Duration,
    Value("30s"),
    "How long a run waits for all of its artifacts. What is not uploaded by then is named in its result, which is \
     otherwise as it would have been.",
);

pub(crate) const LOG_LEVEL: Key = Key::new(
    "log_level",
    Text,
    Value("info"),
    "`error`, `warn`, `info`, `debug`, `trace` or `off`; or directives such as `info,executor_application=debug`.",
);

pub(crate) const LOG_FORMAT: Key = Key::new(
    "log_format",
    Text,
    Unset("text on a terminal, else json"),
    "`text` or `json`. Logs go to stderr.",
);

pub(crate) const OTEL_EXPORTER_OTLP_ENDPOINT: Key = Key::new(
    "otel_exporter_otlp_endpoint",
    Text,
    Unset("none"),
    "The collector that traces are sent to by OTLP, http or https, such as `http://localhost:4318`. Without it there are none. \
     The SDK's other variables are read from the environment; see observability.md.",
);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_across_flags() {
        let mut seen = HashSet::new();
        for key in all() {
            // Secrets have no flag.
            let name = key.flag().unwrap_or_else(|| key.name.to_owned());
            assert!(seen.insert(name), "{}", key.name);
            if let Some(short) = key.short_flag {
                assert!(seen.insert(short.to_owned()), "{short}");
            }
        }
    }

    #[test]
    fn variable_and_flag_follow_from_the_name() {
        assert_eq!(EXECUTOR_PORT.variable(), "EXECUTOR_PORT");
        assert_eq!(EXECUTOR_PORT.flag().as_deref(), Some("executor-port"));
        assert_eq!(INTERNAL_API_TOKEN.flag(), None);
    }
}
