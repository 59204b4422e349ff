//! System calls the policy names, with their numbers per architecture.
//!
//! The `libc` constants cover only the architecture being compiled and lag behind the kernel, so
//! the numbers stand here: from `arch/x86/entry/syscalls/syscall_64.tbl` and
//! `include/uapi/asm-generic/unistd.h` (aarch64) of Linux 6.18. From 424 on both tables agree. A
//! test compares them with `libc` wherever `libc` has the constant.

use std::fmt;

/// A processor architecture whose system-call numbers are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86, without its i386 and x32 entry points.
    X86_64,
    /// 64-bit Arm, without its 32-bit entry points.
    Aarch64,
}

impl Arch {
    /// The architecture this program was compiled for; `None` where no table exists.
    pub fn current() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// `AUDIT_ARCH_*` of `linux/audit.h`: ELF machine, 64-bit flag, little-endian flag.
    pub(super) fn audit_value(self) -> u32 {
        const LITTLE_ENDIAN_64_BIT: u32 = 0xc000_0000;
        LITTLE_ENDIAN_64_BIT
            | match self {
                Self::X86_64 => 62,
                Self::Aarch64 => 183,
            }
    }
}

/// One system call by name, and its number where the architecture has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syscall {
    name: &'static str,
    x86_64: Option<u32>,
    aarch64: Option<u32>,
}

impl Syscall {
    /// The kernel's name.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The number on `arch`; `None` if that architecture never had the call.
    pub fn number(self, arch: Arch) -> Option<u32> {
        match arch {
            Arch::X86_64 => self.x86_64,
            Arch::Aarch64 => self.aarch64,
        }
    }
}

impl fmt::Display for Syscall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The newest call that this policy was written for: `file_setattr`, Linux 6.17. Whatever comes
/// later has not been judged.
pub(super) const NEWEST: u32 = 469;

const fn on_both(name: &'static str, x86_64: u32, aarch64: u32) -> Syscall {
    Syscall {
        name,
        x86_64: Some(x86_64),
        aarch64: Some(aarch64),
    }
}

const fn unified(name: &'static str, number: u32) -> Syscall {
    on_both(name, number, number)
}

const fn x86_only(name: &'static str, number: u32) -> Syscall {
    Syscall {
        name,
        x86_64: Some(number),
        aarch64: None,
    }
}

pub(super) const ACCT: Syscall = on_both("acct", 163, 89);
pub(super) const ADD_KEY: Syscall = on_both("add_key", 248, 217);
pub(super) const ADJTIMEX: Syscall = on_both("adjtimex", 159, 171);
pub(super) const BPF: Syscall = on_both("bpf", 321, 280);
pub(super) const CHROOT: Syscall = on_both("chroot", 161, 51);
pub(super) const CLOCK_ADJTIME: Syscall = on_both("clock_adjtime", 305, 266);
pub(super) const CLOCK_SETTIME: Syscall = on_both("clock_settime", 227, 112);
pub(super) const CLONE: Syscall = on_both("clone", 56, 220);
pub(super) const CLONE3: Syscall = unified("clone3", 435);
pub(super) const DELETE_MODULE: Syscall = on_both("delete_module", 176, 106);
pub(super) const FANOTIFY_INIT: Syscall = on_both("fanotify_init", 300, 262);
pub(super) const FINIT_MODULE: Syscall = on_both("finit_module", 313, 273);
pub(super) const FSCONFIG: Syscall = unified("fsconfig", 431);
pub(super) const FSMOUNT: Syscall = unified("fsmount", 432);
pub(super) const FSOPEN: Syscall = unified("fsopen", 430);
pub(super) const FSPICK: Syscall = unified("fspick", 433);
pub(super) const INIT_MODULE: Syscall = on_both("init_module", 175, 105);
pub(super) const IOCTL: Syscall = on_both("ioctl", 16, 29);
pub(super) const IOPERM: Syscall = x86_only("ioperm", 173);
pub(super) const IOPL: Syscall = x86_only("iopl", 172);
pub(super) const IO_URING_ENTER: Syscall = unified("io_uring_enter", 426);
pub(super) const IO_URING_REGISTER: Syscall = unified("io_uring_register", 427);
pub(super) const IO_URING_SETUP: Syscall = unified("io_uring_setup", 425);
pub(super) const KCMP: Syscall = on_both("kcmp", 312, 272);
pub(super) const KEXEC_FILE_LOAD: Syscall = on_both("kexec_file_load", 320, 294);
pub(super) const KEXEC_LOAD: Syscall = on_both("kexec_load", 246, 104);
pub(super) const KEYCTL: Syscall = on_both("keyctl", 250, 219);
pub(super) const LOOKUP_DCOOKIE: Syscall = on_both("lookup_dcookie", 212, 18);
pub(super) const MBIND: Syscall = on_both("mbind", 237, 235);
pub(super) const MIGRATE_PAGES: Syscall = on_both("migrate_pages", 256, 238);
pub(super) const MKNOD: Syscall = x86_only("mknod", 133);
pub(super) const MKNODAT: Syscall = on_both("mknodat", 259, 33);
pub(super) const MODIFY_LDT: Syscall = x86_only("modify_ldt", 154);
pub(super) const MOUNT: Syscall = on_both("mount", 165, 40);
pub(super) const MOUNT_SETATTR: Syscall = unified("mount_setattr", 442);
pub(super) const MOVE_MOUNT: Syscall = unified("move_mount", 429);
pub(super) const MOVE_PAGES: Syscall = on_both("move_pages", 279, 239);
pub(super) const NAME_TO_HANDLE_AT: Syscall = on_both("name_to_handle_at", 303, 264);
pub(super) const NFSSERVCTL: Syscall = on_both("nfsservctl", 180, 42);
pub(super) const OPEN_BY_HANDLE_AT: Syscall = on_both("open_by_handle_at", 304, 265);
pub(super) const OPEN_TREE: Syscall = unified("open_tree", 428);
pub(super) const OPEN_TREE_ATTR: Syscall = unified("open_tree_attr", 467);
pub(super) const PERF_EVENT_OPEN: Syscall = on_both("perf_event_open", 298, 241);
pub(super) const PERSONALITY: Syscall = on_both("personality", 135, 92);
pub(super) const PIDFD_GETFD: Syscall = unified("pidfd_getfd", 438);
pub(super) const PIVOT_ROOT: Syscall = on_both("pivot_root", 155, 41);
pub(super) const PROCESS_VM_READV: Syscall = on_both("process_vm_readv", 310, 270);
pub(super) const PROCESS_VM_WRITEV: Syscall = on_both("process_vm_writev", 311, 271);
pub(super) const PTRACE: Syscall = on_both("ptrace", 101, 117);
pub(super) const QUOTACTL: Syscall = on_both("quotactl", 179, 60);
pub(super) const QUOTACTL_FD: Syscall = unified("quotactl_fd", 443);
pub(super) const REBOOT: Syscall = on_both("reboot", 169, 142);
pub(super) const REQUEST_KEY: Syscall = on_both("request_key", 249, 218);
pub(super) const SETNS: Syscall = on_both("setns", 308, 268);
pub(super) const SETTIMEOFDAY: Syscall = on_both("settimeofday", 164, 170);
pub(super) const SET_MEMPOLICY: Syscall = on_both("set_mempolicy", 238, 237);
pub(super) const SET_MEMPOLICY_HOME_NODE: Syscall = unified("set_mempolicy_home_node", 450);
pub(super) const SOCKET: Syscall = on_both("socket", 41, 198);
pub(super) const SOCKETPAIR: Syscall = on_both("socketpair", 53, 199);
pub(super) const SWAPOFF: Syscall = on_both("swapoff", 168, 225);
pub(super) const SWAPON: Syscall = on_both("swapon", 167, 224);
pub(super) const SYSLOG: Syscall = on_both("syslog", 103, 116);
pub(super) const UMOUNT2: Syscall = on_both("umount2", 166, 39);
pub(super) const UNSHARE: Syscall = on_both("unshare", 272, 97);
pub(super) const USERFAULTFD: Syscall = on_both("userfaultfd", 323, 282);
pub(super) const VHANGUP: Syscall = on_both("vhangup", 153, 58);
