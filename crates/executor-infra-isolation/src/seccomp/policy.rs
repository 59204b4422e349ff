//! The policy as data: what a guest may not ask of the kernel, and why.
//!
//! It is a list of denials. Allowlists break honest programs at random, whenever a library or the C
//! library starts to use one more call. The other walls (namespaces, no capabilities, cgroups) do
//! not depend on this list; it takes away kernel code that they leave reachable. Docker's default
//! profile, under which the common scientific Python and Node packages are known to run, was the
//! measure for what can go.
//!
//! Deliberately absent:
//! - `seccomp` and the `landlock_*` calls: a guest may wall itself in further, as browsers do.
//! - `prctl`: it changes only the caller, and its powerful options ask for a capability.
//! - `memfd_create` and `memfd_secret`: their pages are charged to the guest's cgroup.
//! - `sched_setscheduler`, `setpriority`, `sethostname`: they need a capability that no guest has.
//! - `pidfd_open` and `pidfd_send_signal`: Python's asyncio uses them, and they reach only what the
//!   guest's pid namespace holds.

use std::fmt;

use nix::errno::Errno;

use super::syscalls::{self as sys, Syscall};

/// What the kernel answers when a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The call goes through.
    Allow,
    /// The call fails with this error and does nothing.
    Fail(Errno),
}

/// A test of one argument: its low 32 bits, masked, equal a value.
///
/// Every argument judged here is a 32-bit `int` or flag word in the kernel, which ignores the upper
/// half of the register. A comparison of all 64 bits could therefore be dodged by setting a bit up
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Position of the argument, from 0.
    pub argument: u8,
    /// Bits to look at.
    pub mask: u32,
    /// What they must be.
    pub value: u32,
}

/// A verdict on one system call, if all conditions hold. The rules of a call are tried in order and
/// the first that applies decides; a call for which none applies is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The call.
    pub syscall: Syscall,
    /// All of these must hold; none means always.
    pub when: &'static [Condition],
    /// What happens then.
    pub verdict: Verdict,
}

impl Rule {
    /// Whether all conditions hold for a call with these arguments, registers as the kernel finds them.
    pub fn applies(&self, arguments: &[u64; 6]) -> bool {
        self.when.iter().all(|condition| {
            let argument = arguments[usize::from(condition.argument)];
            // A mask has no upper half, and the kernel does not read the argument's.
            argument & u64::from(condition.mask) == u64::from(condition.value)
        })
    }
}

/// Rules that exist for one reason. All rules of one system call stand in one group.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// A few words that name the group.
    pub name: &'static str,
    /// Why a guest must not have this, and why the chosen error does not break honest programs.
    pub reason: &'static str,
    /// The rules, in order.
    pub rules: &'static [Rule],
}

const fn deny(syscall: Syscall, errno: Errno) -> Rule {
    deny_if(syscall, &[], errno)
}

const fn deny_if(syscall: Syscall, when: &'static [Condition], errno: Errno) -> Rule {
    Rule {
        syscall,
        when,
        verdict: Verdict::Fail(errno),
    }
}

const fn allow_if(syscall: Syscall, when: &'static [Condition]) -> Rule {
    Rule {
        syscall,
        when,
        verdict: Verdict::Allow,
    }
}

const fn equals(argument: u8, value: u32) -> Condition {
    bits(argument, u32::MAX, value)
}

const fn bits(argument: u8, mask: u32, value: u32) -> Condition {
    Condition {
        argument,
        mask,
        value,
    }
}

/// All `CLONE_NEW*` flags of `linux/sched.h`: TIME, NS, CGROUP, UTS, IPC, USER, PID, NET. In
/// `clone` the low byte is the exit signal, so NEWTIME (0x80) has no effect there; it is in the
/// mask because no signal has that bit either.
const CLONE_NEW: u32 = 0x80
    | 0x0002_0000
    | 0x0200_0000
    | 0x0400_0000
    | 0x0800_0000
    | 0x1000_0000
    | 0x2000_0000
    | 0x4000_0000;

// File types in a mode, `linux/stat.h`.
const S_IFMT: u32 = 0o170_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;

// Terminal requests, `asm-generic/ioctls.h`.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
const TIOCSETD: u32 = 0x5423;

// Socket domains, types and protocols: `linux/socket.h`, `linux/net.h`, `linux/in.h`.
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
/// `AF_INET` is 2 and `AF_INET6` is 10: without the bit 8 they are the same, and no other domain
/// is.
const AF_INET_OR_INET6: u32 = !8;
/// `SOCK_TYPE_MASK`: above it are `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
const SOCK_TYPE: u32 = 0xf;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;
const SOCK_PACKET: u32 = 10;
const IPPROTO_DEFAULT: u32 = 0;
const IPPROTO_ICMP: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_ICMPV6: u32 = 58;

/// `socket` for IPv4 or IPv6; of this type; with this protocol.
macro_rules! internet {
    () => {
        &[bits(0, AF_INET_OR_INET6, AF_INET)]
    };
    ($kind:expr) => {
        &[
            bits(0, AF_INET_OR_INET6, AF_INET),
            bits(1, SOCK_TYPE, $kind),
        ]
    };
    ($kind:expr, $protocol:expr) => {
        &[
            bits(0, AF_INET_OR_INET6, AF_INET),
            bits(1, SOCK_TYPE, $kind),
            equals(2, $protocol),
        ]
    };
}

/// The policy. Foreign entry points (i386, x32, 32-bit Arm) and calls newer than the policy are
/// closed by the compiled program itself, because they are not a matter of single calls.
pub(super) const GROUPS: &[Group] = &[
    Group {
        name: "namespaces",
        reason: "A guest in a user namespace of its own has every capability there, and with them \
                 the kernel's least tested code (nftables, overlayfs and most local exploits of \
                 recent years start so). clone3 hides its flags in memory that a filter cannot \
                 read; ENOSYS makes the C library fall back to clone.",
        rules: &[
            deny(sys::UNSHARE, Errno::EPERM),
            deny(sys::SETNS, Errno::EPERM),
            allow_if(sys::CLONE, &[bits(0, CLONE_NEW, 0)]),
            deny(sys::CLONE, Errno::EPERM),
            deny(sys::CLONE3, Errno::ENOSYS),
        ],
    },
    Group {
        name: "mounts",
        reason: "The view of the file system is the sandbox: nothing may be mounted, unmounted, \
                 moved or made writable, by the old interface or the new one, and the root stays.",
        rules: &[
            deny(sys::MOUNT, Errno::EPERM),
            deny(sys::UMOUNT2, Errno::EPERM),
            deny(sys::PIVOT_ROOT, Errno::EPERM),
            deny(sys::CHROOT, Errno::EPERM),
            deny(sys::OPEN_TREE, Errno::EPERM),
            deny(sys::OPEN_TREE_ATTR, Errno::EPERM),
            deny(sys::MOVE_MOUNT, Errno::EPERM),
            deny(sys::FSOPEN, Errno::EPERM),
            deny(sys::FSCONFIG, Errno::EPERM),
            deny(sys::FSMOUNT, Errno::EPERM),
            deny(sys::FSPICK, Errno::EPERM),
            deny(sys::MOUNT_SETATTR, Errno::EPERM),
            deny(sys::SWAPON, Errno::EPERM),
            deny(sys::SWAPOFF, Errno::EPERM),
        ],
    },
    Group {
        name: "other processes",
        reason: "Reading, writing and steering other processes would reach the sandbox's own init, \
                 which reports the outcome. Debuggers do not work in here; nothing else asks for \
                 these.",
        rules: &[
            deny(sys::PTRACE, Errno::EPERM),
            deny(sys::PROCESS_VM_READV, Errno::EPERM),
            deny(sys::PROCESS_VM_WRITEV, Errno::EPERM),
            deny(sys::KCMP, Errno::EPERM),
            deny(sys::PIDFD_GETFD, Errno::EPERM),
        ],
    },
    Group {
        name: "kernel programs and tracing",
        reason: "bpf and perf_event_open run or observe code in the kernel; userfaultfd lets a \
                 program stop the kernel in the middle of an access, which makes races \
                 exploitable. EPERM is what a hardened kernel answers too.",
        rules: &[
            deny(sys::BPF, Errno::EPERM),
            deny(sys::PERF_EVENT_OPEN, Errno::EPERM),
            deny(sys::USERFAULTFD, Errno::EPERM),
        ],
    },
    Group {
        name: "io_uring",
        reason: "A second way to make system calls, which no seccomp filter sees. ENOSYS is the \
                 answer of a kernel without it, and libuv (Node) then uses epoll and threads.",
        rules: &[
            deny(sys::IO_URING_SETUP, Errno::ENOSYS),
            deny(sys::IO_URING_ENTER, Errno::ENOSYS),
            deny(sys::IO_URING_REGISTER, Errno::ENOSYS),
        ],
    },
    Group {
        name: "keyrings",
        reason: "The session keyring is inherited from the daemon through every namespace \
                 (session-keyring(7)): what one run leaves there, the next could read.",
        rules: &[
            deny(sys::ADD_KEY, Errno::EPERM),
            deny(sys::REQUEST_KEY, Errno::EPERM),
            deny(sys::KEYCTL, Errno::EPERM),
        ],
    },
    Group {
        name: "kernel modules, boot, host-wide state",
        reason: "They act on the whole machine. The kernel asks for capabilities that no guest \
                 has; the filter holds even where that check is wrong.",
        rules: &[
            deny(sys::INIT_MODULE, Errno::EPERM),
            deny(sys::FINIT_MODULE, Errno::EPERM),
            deny(sys::DELETE_MODULE, Errno::EPERM),
            deny(sys::KEXEC_LOAD, Errno::EPERM),
            deny(sys::KEXEC_FILE_LOAD, Errno::EPERM),
            deny(sys::REBOOT, Errno::EPERM),
            deny(sys::SYSLOG, Errno::EPERM),
            deny(sys::ACCT, Errno::EPERM),
            deny(sys::QUOTACTL, Errno::EPERM),
            deny(sys::QUOTACTL_FD, Errno::EPERM),
            deny(sys::VHANGUP, Errno::EPERM),
            deny(sys::NFSSERVCTL, Errno::EPERM),
            deny(sys::LOOKUP_DCOOKIE, Errno::EPERM),
            deny(sys::FANOTIFY_INIT, Errno::EPERM),
        ],
    },
    Group {
        name: "clocks",
        reason: "There is one clock for guests, host and daemon. Reading the time stays free.",
        rules: &[
            deny(sys::CLOCK_SETTIME, Errno::EPERM),
            deny(sys::SETTIMEOFDAY, Errno::EPERM),
            deny(sys::ADJTIMEX, Errno::EPERM),
            deny(sys::CLOCK_ADJTIME, Errno::EPERM),
        ],
    },
    Group {
        name: "file handles",
        reason: "A handle opens a file past every mount that hides it (the \"Shocker\" container \
                 escape). EOPNOTSUPP for making one is what many file systems answer, so that \
                 callers have a way on.",
        rules: &[
            deny(sys::OPEN_BY_HANDLE_AT, Errno::EPERM),
            deny(sys::NAME_TO_HANDLE_AT, Errno::EOPNOTSUPP),
        ],
    },
    Group {
        name: "processor state",
        reason: "I/O ports and segment tables of x86: nothing written for 64 bits needs them. Of \
                 personality only the query and the default remain; the rest are modes for foreign \
                 systems that weaken address layout.",
        rules: &[
            deny(sys::IOPL, Errno::EPERM),
            deny(sys::IOPERM, Errno::EPERM),
            deny(sys::MODIFY_LDT, Errno::EPERM),
            allow_if(sys::PERSONALITY, &[equals(0, 0)]),
            allow_if(sys::PERSONALITY, &[equals(0, u32::MAX)]),
            deny(sys::PERSONALITY, Errno::EPERM),
        ],
    },
    Group {
        name: "memory placement",
        reason: "Moving pages between NUMA nodes reaches other processes' memory and hints at the \
                 host's layout. OpenBLAS and libnuma ask for placement as a hint and go on without \
                 it, as they do under Docker's default profile. get_mempolicy, which libnuma calls \
                 while loading, stays free.",
        rules: &[
            deny(sys::MBIND, Errno::EPERM),
            deny(sys::SET_MEMPOLICY, Errno::EPERM),
            deny(sys::SET_MEMPOLICY_HOME_NODE, Errno::EPERM),
            deny(sys::MIGRATE_PAGES, Errno::EPERM),
            deny(sys::MOVE_PAGES, Errno::EPERM),
        ],
    },
    Group {
        name: "device nodes",
        reason: "A device node in the workspace would be a door to the driver for whoever opens it \
                 outside. FIFOs, sockets and regular files remain.",
        rules: &[
            deny_if(sys::MKNOD, &[bits(1, S_IFMT, S_IFCHR)], Errno::EPERM),
            deny_if(sys::MKNOD, &[bits(1, S_IFMT, S_IFBLK)], Errno::EPERM),
            deny_if(sys::MKNODAT, &[bits(2, S_IFMT, S_IFCHR)], Errno::EPERM),
            deny_if(sys::MKNODAT, &[bits(2, S_IFMT, S_IFBLK)], Errno::EPERM),
        ],
    },
    Group {
        name: "terminals",
        reason: "TIOCSTI and TIOCLINUX type into the terminal that the sandbox was started from \
                 (CVE-2017-5226, CVE-2023-28100). TIOCSETD loads line disciplines, old driver code \
                 that any holder of a pseudo-terminal could reach (CVE-2017-2636).",
        rules: &[
            deny_if(sys::IOCTL, &[equals(1, TIOCSTI)], Errno::EPERM),
            deny_if(sys::IOCTL, &[equals(1, TIOCLINUX)], Errno::EPERM),
            deny_if(sys::IOCTL, &[equals(1, TIOCSETD)], Errno::EPERM),
        ],
    },
    Group {
        name: "sockets",
        reason: "Unix sockets, TCP, UDP and ping; every other family or protocol is kernel code \
                 that may even be loaded on demand (netlink, vsock, packet, AF_ALG, SCTP, DCCP, \
                 L2TP). vsock leads to the hypervisor past any network namespace. EAFNOSUPPORT and \
                 EPROTONOSUPPORT are what a kernel without them answers: getaddrinfo goes on \
                 without netlink, listing interfaces fails as an ordinary error.",
        rules: &[
            allow_if(sys::SOCKET, &[equals(0, AF_UNIX)]),
            // EPERM is also the kernel's answer to whoever lacks CAP_NET_RAW.
            deny_if(sys::SOCKET, internet!(SOCK_RAW), Errno::EPERM),
            deny_if(sys::SOCKET, internet!(SOCK_PACKET), Errno::EPERM),
            allow_if(sys::SOCKET, internet!(SOCK_STREAM, IPPROTO_DEFAULT)),
            allow_if(sys::SOCKET, internet!(SOCK_STREAM, IPPROTO_TCP)),
            allow_if(sys::SOCKET, internet!(SOCK_DGRAM, IPPROTO_DEFAULT)),
            allow_if(sys::SOCKET, internet!(SOCK_DGRAM, IPPROTO_UDP)),
            allow_if(sys::SOCKET, internet!(SOCK_DGRAM, IPPROTO_ICMP)),
            allow_if(sys::SOCKET, internet!(SOCK_DGRAM, IPPROTO_ICMPV6)),
            deny_if(sys::SOCKET, internet!(), Errno::EPROTONOSUPPORT),
            deny(sys::SOCKET, Errno::EAFNOSUPPORT),
            allow_if(sys::SOCKETPAIR, &[equals(0, AF_UNIX)]),
            deny(sys::SOCKETPAIR, Errno::EAFNOSUPPORT),
        ],
    },
];

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.syscall)?;
        for (index, condition) in self.when.iter().enumerate() {
            let joint = if index == 0 { " where" } else { " and" };
            write!(f, "{joint} {condition}")?;
        }
        match self.verdict {
            Verdict::Allow => f.write_str(": allowed"),
            Verdict::Fail(errno) => write!(f, ": {errno:?}"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            argument,
            mask,
            value,
        } = self;
        if *mask == u32::MAX {
            write!(f, "arg{argument} == {value:#x}")
        } else {
            write!(f, "arg{argument} & {mask:#x} == {value:#x}")
        }
    }
}
