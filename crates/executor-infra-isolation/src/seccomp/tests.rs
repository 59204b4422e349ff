//! The compiled program is run in a small interpreter, for both architectures, and loaded for real.

use std::{collections::HashSet, fs::File, thread};

use super::{
    Arch, Condition, Verdict,
    compile::compile,
    policy::GROUPS,
    program,
    simulation::{ALLOW, Call, fails, interpret},
    syscalls::NEWEST,
};
use nix::{
    errno::Errno,
    fcntl::AT_FDCWD,
    libc,
    mount::{MntFlags, MsFlags},
    sched::CloneFlags,
    sys::{
        socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket, socketpair},
        stat::{Mode, SFlag, mknod, mknodat},
    },
};

const ARCHES: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];
/// No system call has this bit on in a register it reads as 32 bits.
const HIGH_GARBAGE: u64 = 0xdead_beef_0000_0000;

/// The verdict on a call by name (looked up in the policy), with its first arguments.
fn judge(arch: Arch, name: &str, arguments: &[u64]) -> u32 {
    let syscall = GROUPS
        .iter()
        .flat_map(|group| group.rules)
        .map(|rule| rule.syscall)
        .find(|syscall| syscall.name() == name)
        .unwrap_or_else(|| panic!("{name} is not in the policy"));
    let number = syscall
        .number(arch)
        .unwrap_or_else(|| panic!("{name} does not exist on {arch:?}"));
    judge_number(arch, arch.audit_value(), number, arguments)
}

fn judge_number(arch: Arch, entered_as: u32, number: u32, arguments: &[u64]) -> u32 {
    let mut padded = [0; 6];
    padded[..arguments.len()].copy_from_slice(arguments);
    let call = Call {
        number,
        arch: entered_as,
        arguments: padded,
    };
    interpret(&compile(GROUPS, arch).unwrap(), &call)
}

#[test]
fn plain_denials_hold_whatever_the_arguments() {
    for arch in ARCHES {
        for rule in GROUPS.iter().flat_map(|group| group.rules) {
            let Verdict::Fail(errno) = rule.verdict else {
                continue;
            };
            // Calls with conditions have tests of their own below.
            let conditional = GROUPS
                .iter()
                .flat_map(|group| group.rules)
                .any(|other| other.syscall == rule.syscall && !other.when.is_empty());
            let Some(number) = rule.syscall.number(arch).filter(|_| !conditional) else {
                continue;
            };
            for arguments in [[0; 6], [u64::MAX; 6]] {
                let verdict = judge_number(arch, arch.audit_value(), number, &arguments);
                assert_eq!(verdict, fails(errno), "{} on {arch:?}", rule.syscall);
            }
        }
    }
}

#[test]
fn the_required_calls_are_denied() {
    // A list of its own, so that a line that vanishes from the policy is noticed.
    let eperm = "unshare setns mount umount2 pivot_root chroot open_tree open_tree_attr \
                 move_mount fsopen fsconfig fsmount fspick mount_setattr swapon swapoff ptrace \
                 process_vm_readv process_vm_writev kcmp pidfd_getfd bpf perf_event_open \
                 userfaultfd add_key request_key keyctl init_module finit_module delete_module \
                 kexec_load kexec_file_load reboot syslog acct quotactl quotactl_fd vhangup \
                 nfsservctl lookup_dcookie fanotify_init clock_settime settimeofday adjtimex \
                 clock_adjtime open_by_handle_at mbind set_mempolicy set_mempolicy_home_node \
                 migrate_pages move_pages";
    for arch in ARCHES {
        for name in eperm.split_whitespace() {
            assert_eq!(judge(arch, name, &[]), fails(Errno::EPERM), "{name}");
        }
        for name in [
            "clone3",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
        ] {
            assert_eq!(judge(arch, name, &[]), fails(Errno::ENOSYS), "{name}");
        }
        let handle = judge(arch, "name_to_handle_at", &[]);
        assert_eq!(handle, fails(Errno::EOPNOTSUPP));
    }
    for name in ["iopl", "ioperm", "modify_ldt"] {
        assert_eq!(
            judge(Arch::X86_64, name, &[]),
            fails(Errno::EPERM),
            "{name}"
        );
    }
}

#[test]
fn clone_makes_processes_and_threads_but_no_namespaces() {
    const SIGCHLD: u64 = 17;
    let vfork = 0x100 | 0x4000 | SIGCHLD;
    // CLONE_VM|FS|FILES|SIGHAND|THREAD|SYSVSEM|SETTLS|PARENT_SETTID|CHILD_CLEARTID, as glibc does.
    let thread = 0x003d_0f00;
    let namespaces = [
        0x0002_0000,
        0x0200_0000,
        0x0400_0000,
        0x0800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ];
    for arch in ARCHES {
        for flags in [SIGCHLD, vfork, thread, thread | HIGH_GARBAGE] {
            assert_eq!(judge(arch, "clone", &[flags]), ALLOW, "{flags:#x}");
        }
        for namespace in namespaces {
            for flags in [namespace, namespace | SIGCHLD, namespace | vfork] {
                let verdict = judge(arch, "clone", &[flags]);
                assert_eq!(verdict, fails(Errno::EPERM), "{flags:#x}");
            }
        }
    }
}

#[test]
fn only_device_nodes_are_refused() {
    let kinds = [
        (0o010_644, ALLOW),               // FIFO
        (0o140_600, ALLOW),               // socket
        (0o100_644, ALLOW),               // regular
        (0o000_644, ALLOW),               // regular, as 0
        (0o020_666, fails(Errno::EPERM)), // character device
        (0o060_660, fails(Errno::EPERM)), // block device
        (0o020_666 | HIGH_GARBAGE, fails(Errno::EPERM)),
    ];
    for (mode, expected) in kinds {
        for arch in ARCHES {
            let verdict = judge(arch, "mknodat", &[0, 0, mode, 0]);
            assert_eq!(verdict, expected, "mknodat {mode:#o}");
        }
        let verdict = judge(Arch::X86_64, "mknod", &[0, mode, 0]);
        assert_eq!(verdict, expected, "mknod {mode:#o}");
    }
}

#[test]
fn terminal_injection_is_refused_even_with_the_upper_half_set() {
    const TCGETS: u64 = 0x5401;
    for arch in ARCHES {
        assert_eq!(judge(arch, "ioctl", &[0, TCGETS]), ALLOW);
        for request in [0x5412, 0x541c, 0x5423] {
            for garbage in [0, HIGH_GARBAGE, 1 << 32] {
                let verdict = judge(arch, "ioctl", &[0, request | garbage]);
                assert_eq!(verdict, fails(Errno::EPERM), "{request:#x}");
            }
        }
    }
}

#[test]
fn personality_answers_the_query_and_keeps_the_default() {
    for arch in ARCHES {
        for harmless in [0, 0xffff_ffff, u64::MAX] {
            assert_eq!(judge(arch, "personality", &[harmless]), ALLOW);
        }
        // ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, PER_LINUX32
        for weaker in [0x0004_0000, 0x0040_0000, 0x0008] {
            let verdict = judge(arch, "personality", &[weaker]);
            assert_eq!(verdict, fails(Errno::EPERM));
        }
    }
}

#[test]
fn sockets_are_unix_tcp_udp_and_ping_only() {
    const FLAGS: u64 = 0o2_000_000 | 0o4_000; // SOCK_CLOEXEC, SOCK_NONBLOCK
    let (unix, inet, inet6) = (1, 2, 10);
    let (stream, datagram, raw, seqpacket, dccp, packet) = (1, 2, 3, 5, 6, 10);
    let (tcp, udp, icmp, icmpv6, sctp, mptcp, l2tp) = (6, 17, 1, 58, 132, 262, 115);
    let mut table = vec![
        ([unix, stream, 0], ALLOW),
        ([unix, datagram, 0], ALLOW),
        ([unix, seqpacket, 0], ALLOW),
    ];
    for domain in [inet, inet6] {
        table.extend([
            ([domain, stream, 0], ALLOW),
            ([domain, stream, tcp], ALLOW),
            ([domain, datagram, 0], ALLOW),
            ([domain, datagram, udp], ALLOW),
            ([domain, datagram, icmp], ALLOW),
            ([domain, datagram, icmpv6], ALLOW),
            ([domain, raw, icmp], fails(Errno::EPERM)),
            ([domain, packet, 0], fails(Errno::EPERM)),
            ([domain, stream, sctp], fails(Errno::EPROTONOSUPPORT)),
            ([domain, stream, mptcp], fails(Errno::EPROTONOSUPPORT)),
            ([domain, seqpacket, 0], fails(Errno::EPROTONOSUPPORT)),
            ([domain, dccp, 0], fails(Errno::EPROTONOSUPPORT)),
            ([domain, datagram, l2tp], fails(Errno::EPROTONOSUPPORT)),
        ]);
    }
    // NETLINK, PACKET, BLUETOOTH, ALG, VSOCK, XDP, and one without a name.
    for domain in [16, 17, 31, 38, 40, 44, 99] {
        for kind in [stream, datagram, raw] {
            table.push(([domain, kind, 0], fails(Errno::EAFNOSUPPORT)));
        }
    }
    for arch in ARCHES {
        for ([domain, kind, protocol], expected) in &table {
            for (flags, garbage) in [(0, 0), (FLAGS, HIGH_GARBAGE)] {
                let arguments = [domain | garbage, kind | flags | garbage, protocol | garbage];
                let verdict = judge(arch, "socket", &arguments);
                assert_eq!(verdict, *expected, "socket({domain}, {kind}, {protocol})");
            }
        }
        assert_eq!(judge(arch, "socketpair", &[unix, stream, 0]), ALLOW);
        let inet_pair = judge(arch, "socketpair", &[inet, stream, 0]);
        assert_eq!(inet_pair, fails(Errno::EAFNOSUPPORT));
    }
}

#[test]
fn foreign_entry_points_and_unjudged_calls_do_not_exist() {
    const AUDIT_ARCH_I386: u32 = 0x4000_0003;
    const AUDIT_ARCH_ARM: u32 = 0x4000_0028;
    const X32: u32 = 0x4000_0000;
    let unknown = fails(Errno::ENOSYS);
    for arch in ARCHES {
        for foreign in [AUDIT_ARCH_I386, AUDIT_ARCH_ARM, 0, u32::MAX] {
            // 1 is `exit` on both 32-bit systems; 165 is denied at home.
            for number in [1, 165] {
                assert_eq!(judge_number(arch, foreign, number, &[]), unknown);
            }
        }
        let home = arch.audit_value();
        for number in [NEWEST + 1, X32, X32 + 41, X32 + 512, u32::MAX] {
            assert_eq!(
                judge_number(arch, home, number, &[]),
                unknown,
                "{number:#x}"
            );
        }
        assert_eq!(judge_number(arch, home, NEWEST, &[]), ALLOW);
    }
}

#[test]
fn everything_else_is_allowed() {
    for arch in ARCHES {
        let judged: HashSet<_> = GROUPS
            .iter()
            .flat_map(|group| group.rules)
            .filter_map(|rule| rule.syscall.number(arch))
            .collect();
        for number in (0..=NEWEST).filter(|number| !judged.contains(number)) {
            let verdict = judge_number(arch, arch.audit_value(), number, &[u64::MAX; 6]);
            assert_eq!(verdict, ALLOW, "call {number} on {arch:?}");
        }
    }
}

#[test]
fn the_policy_is_well_formed() {
    let mut home: Vec<(&str, &str)> = Vec::new();
    for group in GROUPS {
        assert!(group.reason.len() > 40, "{} needs a reason", group.name);
        for rule in group.rules {
            let name = rule.syscall.name();
            match home.iter().find(|(syscall, _)| *syscall == name) {
                Some((_, owner)) => assert_eq!(*owner, group.name, "{name} is in two groups"),
                None => home.push((name, group.name)),
            }
            for Condition { mask, value, .. } in rule.when {
                assert_eq!(value & mask, *value, "{rule} can never hold");
            }
        }
        // A rule after an unconditional one for the same call would never be reached.
        for (index, rule) in group.rules.iter().enumerate() {
            let shadowed = rule.when.is_empty()
                && group.rules[index + 1..]
                    .iter()
                    .any(|later| later.syscall == rule.syscall);
            assert!(!shadowed, "rules behind \"{rule}\" are dead");
        }
    }
    let shown = GROUPS[0].rules[2].to_string();
    assert_eq!(shown, "clone where arg0 & 0x7e020080 == 0x0: allowed");
}

#[test]
fn numbers_agree_with_libc() {
    macro_rules! same {
        ($($name:ident)*) => {
            $(assert_eq!(
                number_here(stringify!($name)),
                libc::$name,
                stringify!($name)
            );)*
        };
    }
    fn number_here(constant: &str) -> libc::c_long {
        let name = constant.trim_start_matches("SYS_");
        let arch = Arch::current().unwrap();
        GROUPS
            .iter()
            .flat_map(|group| group.rules)
            .find(|rule| rule.syscall.name() == name)
            .and_then(|rule| rule.syscall.number(arch))
            .unwrap()
            .into()
    }
    // Left out: nfsservctl, lookup_dcookie and the newest, which libc has not on every target.
    same! {
        SYS_acct SYS_add_key SYS_adjtimex SYS_bpf SYS_chroot SYS_clock_adjtime SYS_clock_settime
        SYS_clone SYS_clone3 SYS_delete_module SYS_fanotify_init SYS_finit_module SYS_fsconfig
        SYS_fsmount SYS_fsopen SYS_fspick SYS_init_module SYS_ioctl SYS_io_uring_enter
        SYS_io_uring_register SYS_io_uring_setup SYS_kcmp SYS_kexec_load SYS_keyctl SYS_mbind
        SYS_migrate_pages SYS_mknodat SYS_mount SYS_mount_setattr SYS_move_mount SYS_move_pages
        SYS_name_to_handle_at SYS_open_by_handle_at SYS_open_tree SYS_perf_event_open
        SYS_personality SYS_pidfd_getfd SYS_pivot_root SYS_process_vm_readv SYS_process_vm_writev
        SYS_ptrace SYS_quotactl SYS_quotactl_fd SYS_reboot SYS_request_key SYS_setns
        SYS_settimeofday SYS_set_mempolicy SYS_socket SYS_socketpair SYS_swapoff SYS_swapon
        SYS_syslog SYS_umount2 SYS_unshare SYS_userfaultfd SYS_vhangup
    }
    #[cfg(target_arch = "x86_64")]
    same! { SYS_ioperm SYS_iopl SYS_kexec_file_load SYS_mknod SYS_modify_ldt }
}

/// What a thread finds when it tries calls that need no privilege, so that without the filter the
/// same attempts succeed or fail for another reason.
#[derive(Debug, PartialEq, Eq)]
struct Attempts {
    unshare: Result<(), Errno>,
    setns: Result<(), Errno>,
    chroot: Result<(), Errno>,
    mount: Result<(), Errno>,
    umount: Result<(), Errno>,
    netlink: Result<(), Errno>,
    tcp: Result<(), Errno>,
    unix_pair: Result<(), Errno>,
    fifo: Result<(), Errno>,
    device: Result<(), Errno>,
}

fn attempt() -> Attempts {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let not_a_namespace = File::open("/dev/null").unwrap();
    let no_data: Option<&str> = None;
    let inet = |family, kind, protocol: Option<SockProtocol>| {
        socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol).map(drop)
    };
    Attempts {
        unshare: nix::sched::unshare(CloneFlags::CLONE_FS),
        setns: nix::sched::setns(&not_a_namespace, CloneFlags::empty()),
        chroot: nix::unistd::chroot(&missing),
        mount: nix::mount::mount(no_data, &missing, no_data, MsFlags::MS_BIND, no_data),
        umount: nix::mount::umount2(&missing, MntFlags::MNT_DETACH),
        netlink: inet(
            AddressFamily::Netlink,
            SockType::Raw,
            Some(SockProtocol::NetlinkRoute),
        ),
        tcp: inet(AddressFamily::Inet, SockType::Stream, None),
        unix_pair: socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map(drop),
        fifo: mknod(
            &directory.path().join("fifo"),
            SFlag::S_IFIFO,
            Mode::S_IRWXU,
            0,
        ),
        // Device 0:0 is overlayfs's whiteout, which Linux lets anybody make.
        device: mknodat(
            AT_FDCWD,
            &directory.path().join("device"),
            SFlag::S_IFCHR,
            Mode::S_IRWXU,
            0,
        ),
    }
}

#[test]
fn the_kernel_enforces_the_program() {
    let free = thread::spawn(attempt).join().unwrap();
    let filtered = thread::spawn(|| {
        super::apply().unwrap();
        attempt()
    })
    .join()
    .unwrap();

    let expected_without = Attempts {
        unshare: Ok(()),
        setns: Err(Errno::EINVAL),
        chroot: Err(Errno::ENOENT),
        mount: Err(Errno::ENOENT),
        umount: Err(Errno::ENOENT),
        netlink: Ok(()),
        tcp: Ok(()),
        unix_pair: Ok(()),
        fifo: Ok(()),
        device: Ok(()),
    };
    let expected_with = Attempts {
        unshare: Err(Errno::EPERM),
        setns: Err(Errno::EPERM),
        chroot: Err(Errno::EPERM),
        mount: Err(Errno::EPERM),
        umount: Err(Errno::EPERM),
        netlink: Err(Errno::EAFNOSUPPORT),
        tcp: Ok(()),
        unix_pair: Ok(()),
        fifo: Ok(()),
        device: Err(Errno::EPERM),
    };
    assert_eq!(free, expected_without, "positive control");
    assert_eq!(filtered, expected_with);
}

#[test]
fn threads_and_children_still_start_and_inherit_the_filter() {
    let worked = thread::spawn(|| {
        super::apply().unwrap();
        // The C library asks for clone3 first and must fall back.
        let in_thread = thread::spawn(|| nix::sched::unshare(CloneFlags::CLONE_FS));
        let child = std::process::Command::new("/bin/sh")
            .args([
                "-c",
                "grep '^Seccomp:' /proc/self/status | (read -r line; echo \"$line\")",
            ])
            .output()
            .unwrap();
        (
            in_thread.join().unwrap(),
            String::from_utf8(child.stdout).unwrap(),
        )
    })
    .join()
    .unwrap();
    assert_eq!(worked, (Err(Errno::EPERM), "Seccomp:\t2\n".to_owned()));
}

#[test]
fn the_program_is_compiled_once() {
    let (first, second) = (program().unwrap(), program().unwrap());
    assert!(std::ptr::eq(first, second));
    assert_eq!(first, compile(GROUPS, Arch::current().unwrap()).unwrap());
}
