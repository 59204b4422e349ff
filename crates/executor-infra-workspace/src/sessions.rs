//! The directories that the runs of a session share.

use std::{
    fs::{self, Permissions},
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use executor_application::{
    Content, FilesError, Overflow, Wall, Workspace, WorkspaceError, Workspaces,
};
use executor_domain::{Artifact, Artifacts, SessionId, WorkspacePath};
use rustix::{
    fs::{AtFlags, Mode, OFlags, fchmod, fstat, mkdirat, openat, unlinkat},
    io::Errno,
    process::geteuid,
};

use crate::{
    beneath,
    clock::{FileClock, Mark},
    error::{failed, foreign_owner},
    names,
    quota::{Accounts, Watch},
    scan,
    scan::ScanLimits,
    seen::Seen,
    state::{InUse, State, TryUse, give_to},
    temporary::TemporaryDirectory,
    usage::Allowance,
};

const OPEN_ROOT: &str = "open the workspace root";
const MAKE: &str = "create a file in the workspace root";
const READ_CLOCK: &str = "read the file system's clock";
const OPEN_SESSION: &str = "open a session's workspace";
const CREATE_SESSION: &str = "create a session's workspace";
const USE_SESSION: &str = "note that a session is used";

/// Files and directories of a session, unless somebody says otherwise: what a scan looks at.
const MAX_FILES: u64 = 100_000;

/// The user and group that guests run as on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Numeric user.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

/// What is configurable about workspaces.
#[derive(Debug, Clone, Copy)]
pub struct WorkspaceOptions {
    /// Who owns workspaces. `None`: the daemon's own user, which guests then run as too. Anybody else needs a daemon
    /// that may give files away (root, or `CAP_CHOWN`).
    pub owner: Option<Owner>,
    /// The root itself is the workspace, of whatever session: the daemon is bound to one.
    pub single: bool,
    /// What one scan for changed files may cost.
    pub scan: ScanLimits,
    /// How many files and directories a session may have, links and all.
    pub max_files: u64,
}

impl Default for WorkspaceOptions {
    /// Owned by the daemon's own user; a directory for each session, of at most 100,000 files.
    fn default() -> Self {
        Self {
            owner: None,
            single: false,
            scan: ScanLimits::default(),
            max_files: MAX_FILES,
        }
    }
}

/// Session directories below one root. Each is readable by the guests' user alone.
#[derive(Debug)]
pub struct SessionWorkspaces {
    pub(crate) root: Arc<Root>,
}

impl SessionWorkspaces {
    /// Opens the directory that workspaces are kept in, makes it where it does not exist, and tries to write to it.
    ///
    /// A root that is made here can be passed through by everybody where guests are another user, and is private where
    /// they are not. An existing one keeps its permissions, but with [`WorkspaceOptions::single`] is given to the
    /// guests' user if it is not theirs already. Links in `path` are followed: it is the operator's.
    ///
    /// Blocks.
    pub fn open_root(path: &Path, options: WorkspaceOptions) -> Result<Self, WorkspaceError> {
        create_missing(path, root_mode(&options))
            .map_err(failed("create the workspace root", path))?;
        Root::open(path, options, None)
    }

    /// Workspaces in a temporary directory, for as long as this value lives: once it and all opened workspaces are
    /// dropped, everything is removed, which blocks. A process that is killed leaves them behind.
    ///
    /// Blocks.
    pub fn temporary(options: WorkspaceOptions) -> Result<Self, WorkspaceError> {
        let directory = TemporaryDirectory::new(root_mode(&options))?;
        let path = directory.path().to_owned();
        Root::open(&path, options, Some(directory))
    }
}

/// Permissions of a root that we make: guests that are another user have to pass through it, and nobody may list it.
fn root_mode(options: &WorkspaceOptions) -> u32 {
    if options.owner.is_some() {
        0o711
    } else {
        0o700
    }
}

/// Makes a directory and its missing parents, with exactly these permissions.
fn create_missing(path: &Path, mode: u32) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    for directory in missing.into_iter().rev() {
        match fs::create_dir(directory) {
            // Apart, because the umask takes away from what mkdir is asked for.
            Ok(()) => fs::set_permissions(directory, Permissions::from_mode(mode))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    pub(crate) directory: Arc<OwnedFd>,
    pub(crate) state: State,
    clock: FileClock,
    pub(crate) options: WorkspaceOptions,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) seen: Seen,
    /// Held while something from outside is put into a workspace, or taken out of it: what was looked at is what is
    /// changed, as far as we have a say in it.
    pub(crate) commits: Mutex<()>,
    /// Removed with us; the last one to go.
    _temporary: Option<TemporaryDirectory>,
}

impl Root {
    fn open(
        path: &Path,
        options: WorkspaceOptions,
        temporary: Option<TemporaryDirectory>,
    ) -> Result<SessionWorkspaces, WorkspaceError> {
        let path = path.canonicalize().map_err(failed(OPEN_ROOT, path))?;
        let directory = rustix::fs::open(
            &path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed(OPEN_ROOT, &path))?;
        if options.single
            && let Some(owner) = options.owner
            && fstat(&directory).map_err(failed(OPEN_ROOT, &path))?.st_uid != owner.uid
        {
            give_to(&directory, owner)
                .map_err(failed("give the workspace to the guests' user", &path))?;
        }
        let state = State::open(directory.as_fd()).map_err(failed(MAKE, &path))?;
        let clock = state
            .staging()
            .and_then(FileClock::new)
            .map_err(failed(MAKE, &path))?;
        let root = Arc::new(Self {
            path,
            directory: Arc::new(directory),
            state,
            clock,
            options,
            accounts: Arc::default(),
            seen: Seen::default(),
            commits: Mutex::default(),
            _temporary: temporary,
        });
        root.try_to_write()?;
        Ok(SessionWorkspaces { root })
    }

    /// Creates, writes and removes a file, and gives it away as session directories are.
    fn try_to_write(&self) -> Result<(), WorkspaceError> {
        const STEP: &str = "write to the workspace root";
        let staging = self.state.staging().map_err(failed(STEP, &self.path))?;
        let (name, file) = names::create_unused(".sandbox-executor-check", |name| {
            openat(
                &staging,
                name,
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::RUSR | Mode::WUSR,
            )
        })
        .map_err(failed(STEP, &self.path))?;
        let mut file = fs::File::from(file);
        let written = file.write_all(b"sandbox-executor\n");
        let given = self
            .options
            .owner
            .map_or(Ok(()), |owner| give_to(&file, owner));
        unlinkat(&staging, name.as_str(), AtFlags::empty()).map_err(failed(STEP, &self.path))?;
        written.map_err(failed(STEP, &self.path))?;
        given.map_err(failed("give a file to the guests' user", &self.path))
    }

    /// Where a session's workspace is.
    pub(crate) fn path_of(&self, session: &SessionId) -> PathBuf {
        if self.options.single {
            self.path.clone()
        } else {
            self.path.join(session.as_str())
        }
    }

    /// Opens a session's directory; `None` where there is none.
    pub(crate) fn open_existing(
        &self,
        session: &SessionId,
    ) -> Result<Option<Arc<OwnedFd>>, WorkspaceError> {
        if self.options.single {
            return Ok(Some(Arc::clone(&self.directory)));
        }
        match beneath::open_own_directory(&self.directory, Path::new(session.as_str())) {
            Ok(directory) => self.claim(directory, session).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed(OPEN_SESSION, &self.path_of(session))(error)),
        }
    }

    /// Makes a session's directory, unless another run of the session was faster, and opens it. The session must be in
    /// use.
    fn create(&self, session: &SessionId) -> Result<Arc<OwnedFd>, WorkspaceError> {
        let fail = |error: Errno| failed(CREATE_SESSION, &self.path_of(session))(error);
        match mkdirat(&self.directory, session.as_str(), Mode::RWXU) {
            Ok(()) => self.accounts.begin(session, &self.directory),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(fail(error)),
        }
        self.open_existing(session)?
            .ok_or_else(|| fail(Errno::NOENT))
    }

    /// Uses a session that is there, without waiting for anybody.
    pub(crate) fn try_use(&self, session: &SessionId) -> Result<TryUse, WorkspaceError> {
        if self.options.single {
            return Ok(TryUse::Missing);
        }
        self.state
            .try_use(session.as_str())
            .map_err(failed(USE_SESSION, &self.path_of(session)))
    }

    /// Uses a session that is there and has a directory, without waiting for anybody; `None`: it takes longer.
    fn use_at_once(&self, session: &SessionId) -> Result<Option<Held>, WorkspaceError> {
        let used = match self.try_use(session)? {
            TryUse::Used(used) => Some(used),
            TryUse::Missing if self.options.single => None,
            TryUse::Missing | TryUse::BeingRemoved => return Ok(None),
        };
        Ok(self.open_existing(session)?.map(|directory| Held {
            directory,
            _used: used,
        }))
    }

    /// Uses a session, and makes it where there is none. Blocks.
    pub(crate) fn use_or_create(&self, session: &SessionId) -> Result<Held, WorkspaceError> {
        let used = if self.options.single {
            None
        } else {
            let used = self.state.use_or_create(session.as_str());
            Some(used.map_err(failed(USE_SESSION, &self.path_of(session)))?)
        };
        let directory = match self.open_existing(session)? {
            Some(directory) => directory,
            None => self.create(session)?,
        };
        Ok(Held {
            directory,
            _used: used,
        })
    }

    /// Uses a session that is there; `None` where it is not, or is being removed just now. Blocks.
    pub(crate) fn use_existing(&self, session: &SessionId) -> Result<Option<Held>, WorkspaceError> {
        if let Some(held) = self.use_at_once(session)? {
            return Ok(Some(held));
        }
        let unrecorded = matches!(self.try_use(session)?, TryUse::Missing)
            && self.open_existing(session)?.is_some();
        if unrecorded {
            // Somebody has put the directory there by hand.
            return self.use_or_create(session).map(Some);
        }
        Ok(None)
    }

    /// Makes sure that a directory in the place of a session's is the guests' user's, and only theirs to enter.
    ///
    /// One that is still the daemon's has just been made, by us or by another run of the session, or was left behind by
    /// a daemon that died just then. The guest may have changed the permissions of its own: that ends here.
    fn claim(
        &self,
        directory: OwnedFd,
        session: &SessionId,
    ) -> Result<Arc<OwnedFd>, WorkspaceError> {
        let fail = |error: Errno| failed(OPEN_SESSION, &self.path_of(session))(error);
        let stat = fstat(&directory).map_err(fail)?;
        let daemon = geteuid().as_raw();
        let expected = self.options.owner.map_or(daemon, |owner| owner.uid);
        if stat.st_uid != expected {
            match self.options.owner {
                Some(owner) if stat.st_uid == daemon => give_to(&directory, owner).map_err(fail)?,
                _ => return Err(foreign_owner(&self.path_of(session), stat.st_uid, expected)),
            }
        }
        if Mode::from_raw_mode(stat.st_mode) != Mode::RWXU {
            fchmod(&directory, Mode::RWXU).map_err(fail)?;
        }
        Ok(Arc::new(directory))
    }
}

/// A session's directory, and the promise that nobody removes it meanwhile.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) directory: Arc<OwnedFd>,
    /// `None` where the root is the one workspace, which stays.
    _used: Option<InUse>,
}

/// Runs what may wait for the disk where it holds up nobody. When the future is dropped, it is carried to its end
/// unobserved.
pub(crate) async fn blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkspaceError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| WorkspaceError {
            step,
            source: Box::new(error),
        })
}

#[async_trait]
impl Workspaces for SessionWorkspaces {
    /// An existing directory is opened on the spot, in some microseconds; a new one is made on a thread for blocking
    /// work.
    async fn open(&self, session: &SessionId) -> Result<Box<dyn Workspace>, WorkspaceError> {
        let root = &self.root;
        let held = if let Some(held) = root.use_at_once(session)? {
            held
        } else {
            let (root, session) = (Arc::clone(root), session.clone());
            blocking(CREATE_SESSION, move || root.use_or_create(&session)).await??
        };
        let path = root.path_of(session);
        let opened = root.clock.mark().map_err(failed(READ_CLOCK, &path))?;
        Ok(Box::new(OpenWorkspace {
            path,
            session: session.clone(),
            held,
            opened,
            root: Arc::clone(root),
        }))
    }

    async fn check(&self) -> Result<(), WorkspaceError> {
        let root = Arc::clone(&self.root);
        blocking("write to the workspace root", move || root.try_to_write()).await?
    }

    fn root(&self) -> &Path {
        &self.root.path
    }

    fn quota(&self) -> Wall {
        Wall::on(
            "workspace_quota",
            format!(
                "bytes, and {} files, are counted while a run writes; a run that goes beyond is ended",
                self.root.options.max_files
            ),
        )
    }
}

struct OpenWorkspace {
    path: PathBuf,
    session: SessionId,
    held: Held,
    opened: Mark,
    root: Arc<Root>,
}

#[async_trait]
impl Workspace for OpenWorkspace {
    fn path(&self) -> &Path {
        &self.path
    }

    /// When the future is dropped, a scan that has begun ends by itself, within its limits.
    async fn changes(&self) -> Result<Artifacts, WorkspaceError> {
        let root = &self.root;
        let since = root
            .clock
            .since(&self.opened)
            .map_err(failed(READ_CLOCK, &self.path))?;
        let mut recent = root.seen.of(&self.session);
        if scan::is_plainly_unchanged(self.held.directory.as_fd(), since, &recent) {
            return Ok(Artifacts::default());
        }
        let directory = Arc::clone(&self.held.directory);
        let (root, session) = (Arc::clone(root), self.session.clone());
        let path = self.path.clone();
        blocking("scan a workspace", move || {
            let found = scan::changes(directory.as_fd(), since, &root.options.scan, &mut recent);
            let now = root.clock.now().map_err(failed(READ_CLOCK, &path))?;
            root.seen.remember(&session, recent, now);
            Ok(found)
        })
        .await?
    }

    async fn read(&self, artifact: &Artifact) -> Result<Box<dyn Content>, FilesError> {
        let path = WorkspacePath::parse(&artifact.path)
            .map_err(|_| FilesError::NotReadable("under no path that a file can have"))?;
        let (root, session) = (Arc::clone(&self.root), self.session.clone());
        let (directory, size) = (Arc::clone(&self.held.directory), artifact.size);
        blocking("open an artifact", move || {
            root.content(&session, directory.as_fd(), &path, size)
        })
        .await?
    }

    /// As late as a few hundredths of a second, on a machine that is not overloaded. When the future is dropped, a walk
    /// that has begun ends by itself.
    async fn overflows(&self, max_bytes: u64) -> Option<Overflow> {
        let watch = Watch {
            accounts: Arc::clone(&self.root.accounts),
            session: self.session.clone(),
            workspace: Arc::clone(&self.held.directory),
            allowance: Allowance::new(max_bytes, self.root.options.max_files),
        };
        Some(watch.overflows().await)
    }
}
