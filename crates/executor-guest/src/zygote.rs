//! The zygote's side: waits for the daemon, and forks.

use std::{fs, os::fd::AsFd};

use crate::{
    guest::Guest,
    init::{self, Slot},
    node,
    plan::{self, Small},
    protocol::{self, FORKED, Fork, NOT_FORKED, READY, ZygoteSpec},
    socket,
    system::{self, ChildSignal, Side},
    walls::{self, Failure, Step},
};

/// An interpreter that forks. Runs no guest code, ever.
pub(crate) struct Zygote {
    pub(crate) spec: ZygoteSpec,
    /// Its user and group, in its own namespace.
    pub(crate) ids: (u32, u32),
    /// What the interpreter does when a child of its own ends, for its guests.
    pub(crate) signal: ChildSignal,
    /// Memory that guests are to have as their own before they have their job.
    pub(crate) small: Small,
}

impl Zygote {
    /// Reads its orders, and says that it is ready. `None`: the daemon is gone.
    pub(crate) fn start() -> Result<Option<Self>, Failure> {
        let channel = system::channel();
        let Some((payload, _)) = socket::receive_frame(channel).step("receive the orders")? else {
            return Ok(None);
        };
        let spec: ZygoteSpec = protocol::decode(&payload).step("read the orders")?;
        let small = if spec.rehearses {
            Small::default()
        } else {
            plan::small(&fs::read_to_string("/proc/self/maps").step("look at the memory")?)
        };
        let zygote = Self {
            // Nobody here waits for a slot: the daemon holds each by a descriptor.
            signal: ChildSignal::ignore().step("leave slots to the kernel")?,
            spec,
            small,
            ids: (
                nix::unistd::geteuid().as_raw(),
                nix::unistd::getegid().as_raw(),
            ),
        };
        // Once, for all slots: they inherit it.
        walls::filter(&zygote.spec.zygote_filter)?;
        if zygote.spec.has_event_loop {
            node::mark_descriptors().step("mark the interpreter's descriptors")?;
        }
        socket::send(channel, &[READY], None).step("say that the zygote is ready")?;
        Ok(Some(zygote))
    }

    /// Waits until the daemon wants a slot, and makes it. Returns in both.
    pub(crate) fn serve(&self) -> Result<Served, Failure> {
        let channel = system::channel();
        let mut request = [0];
        let received = socket::receive(channel, &mut request).step("wait for a request")?;
        let Some((_, descriptors)) = received else {
            return Ok(Served::Dismissed);
        };
        let [byte] = request;
        let fork = Fork::of(byte)
            .ok_or(std::io::ErrorKind::InvalidData)
            .step("understand a request")?;
        let slot = Slot::new(descriptors).step("receive a slot's descriptors")?;
        match system::fork_into_namespaces() {
            Ok(Side::Child) => Ok(Served::Guest(init::run(self, slot, fork))),
            Ok(Side::Parent(handle)) => {
                socket::send(channel, &[FORKED], Some(handle.as_fd())).step("hand over a slot")?;
                Ok(Served::Zygote)
            }
            Err(error) => {
                let [a, b, c, d] = error.raw_os_error().unwrap_or_default().to_le_bytes();
                socket::send(channel, &[NOT_FORKED, a, b, c, d], None).step("refuse a slot")?;
                Ok(Served::Zygote)
            }
        }
    }
}

/// Who has come back from [`Zygote::serve`].
pub(crate) enum Served {
    /// The zygote, after one request.
    Zygote,
    /// A guest.
    Guest(Guest),
    /// The zygote, which the daemon needs no more.
    Dismissed,
}
