//! Configuration: read whole, checked whole, before anything else happens.
//!
//! Every setting has one row in [`keys`]; its value comes from the strongest of [`Sources`], is parsed once, and all
//! mistakes are reported together, each with the place where it was made.

mod artifact_store;
pub mod keys;
mod parse;
mod secret_file;
mod show;
mod sources;
mod state_path;

use std::{
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use executor_application::Capacity;
use executor_domain::{InvalidPolicy, Language, LimitCeilings, LimitPolicy, SessionId};
use figment::value::Value;
use http::Uri;

pub use artifact_store::ArtifactStoreConfig;
pub(crate) use parse::seconds as parse_seconds;
pub use show::markdown;
pub use sources::{Origin, Sources};
pub use state_path::StatePlace;
pub(crate) use state_path::forbidden as forbidden_for_state;

use crate::{logging::LogFormat, secret::Secret};
use keys::{Key, Kind};

/// The configuration, parsed: nothing in it is still to be checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Port 0: any free one.
    pub listen: SocketAddr,
    /// The bearer token, for callers and for the control plane.
    pub token: Option<Secret>,
    /// Whether callers must send the token. Only where there is one.
    pub require_auth: bool,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Whether whoever runs code and prefers nothing is answered at once.
    pub async_by_default: bool,
    /// Whether a run is cancelled once nobody waits for it any more.
    pub cancel_on_disconnect: bool,
    /// The directory of workspaces; absolute.
    pub workspace_path: PathBuf,
    /// The only session, if the daemon is bound to one.
    pub session: Option<SessionId>,
    /// How long an idle session's files are kept.
    pub workspace_ttl: Duration,
    /// Where executions and results are kept.
    pub state: StatePlace,
    /// Most bytes that are kept there.
    pub max_state_bytes: u64,
    /// How full the disk may become before idle sessions are removed sooner, in percent; 100: never.
    pub workspace_high_water: u8,
    /// Files and directories of a workspace.
    pub max_workspace_files: u64,
    /// How long results are kept.
    pub result_ttl: Duration,
    /// What one run may use.
    pub limits: LimitPolicy,
    /// How many executions run and wait.
    pub capacity: Capacity,
    /// Bytes of memory of all runs together; `None`: a share of what there is.
    pub max_total_memory: Option<u64>,
    /// Processes and threads of all runs together; `None`: a share of what there is.
    pub max_total_processes: Option<u64>,
    /// How long runs may take to end at shutdown.
    pub shutdown_grace: Duration,
    /// Bubblewrap; absolute.
    pub bwrap_path: PathBuf,
    /// Who guests are on the host where the daemon is root.
    pub guest: GuestUser,
    /// The control group below which runs get theirs; `None`: the daemon's own.
    pub cgroup_parent: Option<PathBuf>,
    /// What is kept warm.
    pub warm: Warm,
    /// Where the control plane is; `None`: there is none.
    pub control_plane: Option<Uri>,
    /// What the paths of reports begin with.
    pub control_plane_prefix: String,
    /// The name for the control plane; `None`: the host's.
    pub container_id: Option<String>,
    /// The Kubernetes pod, for the control plane.
    pub pod_name: Option<String>,
    /// How often a run that is under way is reported.
    pub heartbeat_interval: Duration,
    /// What is logged: tracing directives.
    pub log_level: String,
    /// How log lines look; `None`: text on a terminal, else JSON.
    pub log_format: Option<LogFormat>,
    /// Where artifacts are uploaded to; `None`: nowhere.
    pub artifact_store: Option<ArtifactStoreConfig>,
    /// Where traces are sent; `None`: nowhere.
    pub otlp_endpoint: Option<Uri>,
}

/// Most sandboxes that may wait in one language: with 3 MiB each, already more memory than anybody should spend on waiting.
const MAX_WARM: u32 = 1000;

impl Config {
    /// The token that callers must send, where they must.
    pub fn inbound_token(&self) -> Option<&Secret> {
        self.token.as_ref().filter(|_| self.require_auth)
    }
}

/// Who guests are on the host where the daemon is root; never root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What is kept warm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warm {
    /// Whether anything is.
    pub on: bool,
    /// Languages that are then.
    pub languages: Vec<Language>,
    /// Sandboxes that wait when there is nothing to do, in each language.
    pub min: usize,
    /// Most that wait, in each language; not below `min`.
    pub max: usize,
    /// Python packages to import before any run.
    pub python_preload: Vec<String>,
    /// Node packages to load before any run.
    pub node_preload: Vec<String>,
    /// The guest library; absolute. `None`: looked for.
    pub library: Option<PathBuf>,
}

/// A setting as it counts, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Which setting.
    pub key: &'static Key,
    /// Its value as it was written, `****` for a secret; `None` where there is none.
    pub value: Option<String>,
    /// Who said so.
    pub origin: Origin,
}

/// A configuration without mistakes.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Every setting as it counts.
    pub settings: Vec<Setting>,
    /// What an operator should know, and nothing that is wrong.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// Whether somebody has set this setting.
    pub(crate) fn is_set(&self, key: &Key) -> bool {
        self.settings
            .iter()
            .any(|setting| setting.key == key && setting.origin != Origin::Default)
    }
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The setting's name; `None` where it is about a source as a whole.
    pub setting: Option<&'static str>,
    /// Where the mistake was made.
    pub origin: Origin,
    /// What is wrong. Never shows a secret.
    pub what: String,
}

impl Mistake {
    fn of(key: &Key, origin: Origin, what: impl Into<String>) -> Self {
        Self {
            setting: Some(key.name),
            origin,
            what: what.into(),
        }
    }

    fn elsewhere(origin: Origin, what: impl Into<String>) -> Self {
        Self {
            setting: None,
            origin,
            what: what.into(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.setting {
            Some(name) => write!(f, "{name} ({}) {}", self.origin, self.what),
            None => write!(f, "{}: {}", self.origin, self.what),
        }
    }
}

/// Everything that is wrong with a configuration; at least one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// The mistakes, in the order of the settings.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration has mistakes:")?;
        self.0
            .iter()
            .try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl Error for Mistakes {}

/// Reads and checks the whole configuration. Reads the configuration file and files of secrets, nothing else.
pub fn load(sources: &Sources) -> Result<Loaded, Mistakes> {
    let mut reader = Reader::new(sources);
    let config = reader.config();
    if !reader.mistakes.is_empty() {
        let mut mistakes = reader.mistakes;
        mistakes.sort_by_key(|mistake| mistake.setting.map(place_of));
        return Err(Mistakes(mistakes));
    }
    let mut settings = reader.settings;
    settings.sort_by_key(|setting| place_of(setting.key.name));
    let mut warnings = sources::strangers(&sources.environment);
    warnings.extend(exposure(&config));
    warnings.extend(preloads(&config.warm));
    Ok(Loaded {
        config,
        settings,
        warnings,
    })
}

/// A setting's place in the table, which is the order in which people read about settings.
fn place_of(name: &str) -> usize {
    keys::all().take_while(|key| key.name != name).count()
}

/// What an operator should know about who may call.
fn exposure(config: &Config) -> Option<String> {
    let place = config.listen.ip();
    if is_loopback(place) || config.inbound_token().is_some() {
        return None;
    }
    Some(format!(
        "callers are not authenticated on {place}: whoever reaches the port may run code"
    ))
}

/// What an operator should know about packages that nobody loads.
fn preloads(warm: &Warm) -> impl Iterator<Item = String> {
    [
        (
            &keys::PYTHON_PRELOAD,
            Language::Python,
            &warm.python_preload,
        ),
        (
            &keys::NODE_PRELOAD,
            Language::JavaScript,
            &warm.node_preload,
        ),
    ]
    .into_iter()
    .filter(|(_, _, packages)| !packages.is_empty())
    .filter(|(_, language, _)| !(warm.on && warm.languages.contains(language)))
    .map(|(key, language, _)| {
        format!(
            "{} counts for nothing: {language} is not kept warm",
            key.variable()
        )
    })
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Reads settings one by one, remembers what each is and collects mistakes.
struct Reader {
    merged: sources::Merged,
    settings: Vec<Setting>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn new(sources: &Sources) -> Self {
        let mut mistakes = Vec::new();
        Self {
            merged: sources::Merged::new(sources, &mut mistakes),
            settings: Vec::new(),
            mistakes,
        }
    }

    /// The value of a setting that may be unset; `None` after a mistake as well.
    fn optional<T>(
        &mut self,
        key: &'static Key,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Some((value, origin)) = self.merged.find(key) else {
            self.settings.push(Setting {
                key,
                value: None,
                origin: Origin::Default,
            });
            return None;
        };
        let parsed = as_text(key, &value).and_then(|text| match parse(&text) {
            Ok(parsed) => Ok((text, parsed)),
            Err(wrong) if key.secret || has_credentials(&text) => Err(wrong),
            Err(wrong) => Err(format!("{wrong}; is {text:?}")),
        });
        match parsed {
            Ok((text, parsed)) => {
                let shown = if key.secret { "****".to_owned() } else { text };
                self.settings.push(Setting {
                    key,
                    value: Some(shown),
                    origin,
                });
                Some(parsed)
            }
            Err(wrong) => {
                self.mistakes.push(Mistake::of(key, origin, wrong));
                None
            }
        }
    }

    /// The value of a setting that has a default. `stand_in` lets the reading go on after a mistake; nobody gets to see
    /// it, since a single mistake makes the whole configuration invalid.
    fn required<T>(
        &mut self,
        key: &'static Key,
        stand_in: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        self.optional(key, parse).unwrap_or(stand_in)
    }

    fn origin(&self, key: &Key) -> Origin {
        self.merged
            .find(key)
            .map_or(Origin::Default, |(_, origin)| origin)
    }

    fn mistake(&mut self, key: &Key, what: impl Into<String>) {
        let origin = self.origin(key);
        self.mistakes.push(Mistake::of(key, origin, what));
    }

    /// Reads everything. After a mistake, what comes back is of no use.
    fn config(&mut self) -> Config {
        let address = self.required(
            &keys::EXECUTOR_HOST,
            Ipv4Addr::LOCALHOST.into(),
            parse::address,
        );
        let port = self.required(&keys::EXECUTOR_PORT, 0, parse::port);
        let token = self.secret(&keys::INTERNAL_API_TOKEN, &keys::INTERNAL_API_TOKEN_FILE);
        let require_auth = self.access(address, token.is_some());
        let workspace_path =
            self.required(&keys::WORKSPACE_PATH, PathBuf::new(), parse::workspace_path);
        let session = self.optional(&keys::SESSION_ID, |text| {
            SessionId::parse(text).map_err(|error| error.to_string())
        });
        let state = self.state(&workspace_path, session.is_some());
        Config {
            listen: SocketAddr::new(address, port),
            token,
            require_auth,
            max_body_bytes: self.max_body_bytes(),
            async_by_default: self.required(&keys::ASYNC_BY_DEFAULT, false, parse::switch),
            cancel_on_disconnect: self.required(&keys::CANCEL_ON_DISCONNECT, true, parse::switch),
            workspace_path,
            session,
            state,
            max_state_bytes: self.max_state_bytes(),
            workspace_ttl: self.duration(&keys::WORKSPACE_TTL),
            workspace_high_water: self.required(&keys::WORKSPACE_HIGH_WATER, 100, parse::percent),
            max_workspace_files: self.required(
                &keys::MAX_WORKSPACE_FILES,
                1,
                parse::number(1, MOST_WORKSPACE_FILES),
            ),
            result_ttl: self.duration(&keys::RESULT_TTL),
            limits: self.limits(),
            capacity: self.capacity(),
            max_total_memory: self
                .optional(&keys::MAX_TOTAL_MEMORY_MB, parse::number(1, MOST_TOTAL_MIB))
                .map(|mib| mib << 20),
            max_total_processes: self
                .optional(&keys::MAX_TOTAL_PROCESSES, parse::number(1, MOST_PROCESSES)),
            shutdown_grace: self.duration(&keys::SHUTDOWN_GRACE),
            bwrap_path: self.required(&keys::BWRAP_PATH, PathBuf::new(), parse::absolute_path),
            guest: GuestUser {
                uid: self.required(&keys::GUEST_UID, 0, parse::unprivileged_id),
                gid: self.required(&keys::GUEST_GID, 0, parse::unprivileged_id),
            },
            cgroup_parent: self.optional(&keys::CGROUP_PARENT, parse::absolute_path),
            warm: self.warm(),
            control_plane: self.required(&keys::CONTROL_PLANE_URL, None, parse::control_plane),
            control_plane_prefix: self.required(
                &keys::CONTROL_PLANE_PREFIX,
                String::new(),
                parse::url_path,
            ),
            container_id: self.optional(&keys::CONTAINER_ID, parse::name),
            pod_name: self.optional(&keys::POD_NAME, parse::name),
            heartbeat_interval: self.duration(&keys::HEARTBEAT_INTERVAL),
            log_level: self.required(&keys::LOG_LEVEL, String::new(), parse::log_level),
            log_format: self.optional(&keys::LOG_FORMAT, parse::log_format),
            artifact_store: self.artifact_store(),
            otlp_endpoint: self.optional(&keys::OTEL_EXPORTER_OTLP_ENDPOINT, parse::collector),
        }
    }

    fn duration(&mut self, key: &'static Key) -> Duration {
        self.required(key, Duration::ZERO, parse::duration)
    }

    fn warm(&mut self) -> Warm {
        let min = self.required(&keys::WARM_POOL_MIN, 0, parse::count(0, MAX_WARM));
        let mut max = self.required(&keys::WARM_POOL_MAX, 0, parse::count(0, MAX_WARM));
        if max < min && self.origin(&keys::WARM_POOL_MAX) == Origin::Default {
            max = min;
        }
        if max < min {
            self.mistake(
                &keys::WARM_POOL_MAX,
                format!("must not be below warm_pool_min, {min}; is {max}"),
            );
        }
        Warm {
            on: self.required(&keys::WARM_POOL, true, parse::switch),
            languages: self.required(&keys::WARM_POOL_LANGUAGES, Vec::new(), parse::languages),
            min,
            max,
            python_preload: self
                .optional(&keys::PYTHON_PRELOAD, parse::python_modules)
                .unwrap_or_default(),
            node_preload: self
                .optional(&keys::NODE_PRELOAD, parse::node_packages)
                .unwrap_or_default(),
            library: self.optional(&keys::GUEST_LIBRARY, parse::absolute_path),
        }
    }

    /// A secret, itself or in a file.
    fn secret(&mut self, key: &'static Key, file_key: &'static Key) -> Option<Secret> {
        let direct = self.optional(key, parse::token);
        let file = self.optional(file_key, parse::path);
        let Some(path) = file else {
            return direct;
        };
        if self.merged.find(key).is_some() {
            let name = key.name;
            let other = self.origin(key);
            self.mistake(
                file_key,
                format!("must not be set beside {name} ({other}): which of the two counts?"),
            );
            return direct;
        }
        match secret_file::read(&path) {
            Ok(secret) => Some(secret),
            Err(wrong) => {
                self.mistake(file_key, wrong);
                None
            }
        }
    }

    /// Whether callers must send the token, and whether the daemon may listen where it is told to. Without a token it
    /// listens on loopback only, unless anonymous callers are allowed out loud.
    fn access(&mut self, address: IpAddr, has_token: bool) -> bool {
        let wish = self.optional(&keys::EXECUTOR_REQUIRE_AUTH, parse::switch);
        let anonymous = self.required(&keys::EXECUTOR_ALLOW_ANONYMOUS, false, parse::switch);
        // A token that could not be read is a mistake already; what follows from its absence would only distract.
        let token_was_meant = [&keys::INTERNAL_API_TOKEN, &keys::INTERNAL_API_TOKEN_FILE]
            .into_iter()
            .any(|key| self.merged.find(key).is_some());
        if has_token || token_was_meant {
            return wish.unwrap_or(true);
        }
        if wish == Some(true) {
            self.mistake(
                &keys::EXECUTOR_REQUIRE_AUTH,
                "must not be true without a token: set INTERNAL_API_TOKEN or INTERNAL_API_TOKEN_FILE",
            );
        } else if !is_loopback(address) && !anonymous {
            self.mistake(
                &keys::EXECUTOR_HOST,
                format!(
                    "must be a loopback address while there is no token, is {address}: set INTERNAL_API_TOKEN, \
                     or EXECUTOR_ALLOW_ANONYMOUS=true to let everybody run code who reaches the port"
                ),
            );
        }
        false
    }

    fn state(&mut self, workspaces: &Path, is_bound: bool) -> StatePlace {
        match self.optional(&keys::STATE_PATH, parse::directory_or_none) {
            None => StatePlace::beside(workspaces, is_bound),
            Some(None) => StatePlace::Memory,
            Some(Some(path)) => {
                if let Some(why) = forbidden_for_state(&path, workspaces, is_bound) {
                    self.mistake(&keys::STATE_PATH, format!("{why}; is {}", path.display()));
                }
                StatePlace::Directory(path)
            }
        }
    }

    fn max_state_bytes(&mut self) -> u64 {
        let bytes = self.required(&keys::MAX_STATE_BYTES, STATE_FLOOR, parse::bytes);
        if bytes < STATE_FLOOR {
            self.mistake(
                &keys::MAX_STATE_BYTES,
                format!("must be at least {STATE_FLOOR}: a few large results must fit; is {bytes}"),
            );
        }
        bytes
    }

    fn max_body_bytes(&mut self) -> usize {
        let bytes = self.required(&keys::MAX_BODY_BYTES, 1, parse::bytes);
        if bytes > MAX_BODY_CEILING {
            self.mistake(
                &keys::MAX_BODY_BYTES,
                format!(
                    "must be at most {MAX_BODY_CEILING}: bodies are held in memory; is {bytes}"
                ),
            );
        }
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    fn capacity(&mut self) -> Capacity {
        Capacity {
            running: self.required(
                &keys::MAX_CONCURRENT_EXECUTIONS,
                1,
                parse::count(1, MOST_EXECUTIONS),
            ),
            queued: self.required(
                &keys::MAX_QUEUED_EXECUTIONS,
                0,
                parse::count(0, MOST_EXECUTIONS),
            ),
            ..Capacity::default()
        }
    }

    fn limits(&mut self) -> LimitPolicy {
        let stand_in = LimitCeilings::default();
        let default_timeout = self.required(
            &keys::DEFAULT_TIMEOUT,
            stand_in.default_timeout,
            parse::seconds,
        );
        let max_timeout = self.required(&keys::MAX_TIMEOUT, stand_in.max_timeout, parse::seconds);
        let max_cpu_time_ms = self.optional(&keys::MAX_CPU_TIME_MS, parse::any_number);
        let max_output_bytes = self.required(
            &keys::MAX_OUTPUT_BYTES,
            stand_in.max_output_bytes,
            parse::bytes,
        );
        let mut number = |key, stand_in| self.required(key, stand_in, parse::any_number);
        let mut ceilings = LimitCeilings {
            default_timeout,
            max_timeout,
            max_memory_mb: number(&keys::MAX_MEMORY_MB, stand_in.max_memory_mb),
            max_cpu_time_ms,
            max_processes: number(&keys::MAX_PROCESSES, stand_in.max_processes),
            max_file_size_mb: number(&keys::MAX_FILE_SIZE_MB, stand_in.max_file_size_mb),
            max_output_bytes,
            max_workspace_mb: number(&keys::MAX_WORKSPACE_MB, stand_in.max_workspace_mb),
        };
        self.shorten_default_timeout(&mut ceilings);
        LimitPolicy::new(ceilings).unwrap_or_else(|mistakes| {
            for mistake in mistakes {
                self.policy_mistake(&mistake);
            }
            LimitPolicy::default()
        })
    }

    /// Whoever lowers the longest wall time need not lower the default as well.
    fn shorten_default_timeout(&mut self, ceilings: &mut LimitCeilings) {
        if ceilings.default_timeout > ceilings.max_timeout
            && self.origin(&keys::DEFAULT_TIMEOUT) == Origin::Default
        {
            ceilings.default_timeout = ceilings.max_timeout;
            for setting in &mut self.settings {
                if setting.key == &keys::DEFAULT_TIMEOUT {
                    setting.value = Some(ceilings.max_timeout.to_string());
                }
            }
        }
    }

    fn policy_mistake(&mut self, mistake: &InvalidPolicy) {
        match mistake {
            InvalidPolicy::Ceiling {
                name,
                value,
                floor,
                ceiling,
            } => {
                // The policy calls its ceilings by our names.
                let key = keys::all()
                    .find(|key| key.name == *name)
                    .unwrap_or(&keys::MAX_TIMEOUT);
                self.mistake(
                    key,
                    format!("must be between {floor} and {ceiling}, is {value}"),
                );
            }
            InvalidPolicy::DefaultAboveCeiling { default, max } => self.mistake(
                &keys::DEFAULT_TIMEOUT,
                format!("must not be longer than max_timeout ({max} s), is {default} s"),
            ),
        }
    }
}

/// A result of the default limits has 28 MiB at most.
const STATE_FLOOR: u64 = 64 << 20;

/// Bodies are held in memory, several at a time.
const MAX_BODY_CEILING: u64 = 1 << 30;

/// More than anybody can wait for when they are counted, which takes about a microsecond each.
const MOST_WORKSPACE_FILES: u64 = 10_000_000;
/// 4 PiB: more than any machine has, and far from what a shift could lose.
const MOST_TOTAL_MIB: u64 = 1 << 32;
/// As many as a kernel of 64 bits can have (`PID_MAX_LIMIT`, `linux/threads.h`).
const MOST_PROCESSES: u64 = 4 << 20;

/// More than any host can run or should let wait.
const MOST_EXECUTIONS: u32 = 1_000_000;

/// Whether this looks like a URL that somebody has put a password into, wherever it stands.
fn has_credentials(text: &str) -> bool {
    text.contains("://") && text.contains('@')
}

/// A scalar as an operator wrote it.
fn as_text(key: &Key, value: &Value) -> Result<String, String> {
    let number_or_switch = match value {
        Value::String(_, text) => return Ok(text.clone()),
        Value::Bool(_, switch) => switch.to_string(),
        Value::Num(_, number) => match (number.to_u128(), number.to_i128(), number.to_f64()) {
            (Some(number), ..) => number.to_string(),
            (_, Some(number), _) => number.to_string(),
            (.., Some(number)) => number.to_string(),
            _ => return Err(format!("must be {}", key.kind.as_str())),
        },
        _ => return Err(format!("must be a single value ({})", key.kind.as_str())),
    };
    // `session_id: 007` would become 7 without a word.
    if matches!(key.kind, Kind::Text | Kind::Path) {
        Err("must be text: put it in quotes".into())
    } else {
        Ok(number_or_switch)
    }
}

#[cfg(test)]
mod tests;
