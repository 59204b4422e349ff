//! A stand-in for the kernel's side of seccomp, so that programs can be judged for any architecture on any.

use nix::errno::Errno;
use seccompiler::sock_filter;

/// `SECCOMP_RET_ALLOW`, `linux/seccomp.h`.
pub(super) const ALLOW: u32 = 0x7fff_0000;

/// `SECCOMP_RET_ERRNO` with this error.
pub(super) fn fails(errno: Errno) -> u32 {
    0x0005_0000 | errno as u32
}

/// What the kernel hands to a filter, `struct seccomp_data`.
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) arch: u32,
    pub(super) arguments: [u64; 6],
}

impl Call {
    /// The 32-bit word at a byte offset, little endian.
    fn word(&self, offset: u32) -> u32 {
        let halves = |value: u64| [(value & 0xffff_ffff) as u32, (value >> 32) as u32];
        let mut words = vec![self.number, self.arch, 0, 0];
        words.extend(self.arguments.into_iter().flat_map(halves));
        assert_eq!(offset % 4, 0, "the kernel refuses unaligned loads");
        words[offset as usize / 4]
    }
}

/// The part of classic BPF that seccomp programs use, `linux/bpf_common.h`.
pub(super) fn interpret(program: &[sock_filter], call: &Call) -> u32 {
    let mut accumulator = 0;
    let mut next = 0;
    loop {
        let instruction = &program[next];
        next += 1;
        let mut jump = |taken: bool| {
            let distance = if taken {
                instruction.jt
            } else {
                instruction.jf
            };
            next += usize::from(distance);
        };
        match instruction.code {
            0x20 => accumulator = call.word(instruction.k),
            0x54 => accumulator &= instruction.k,
            0x05 => next += instruction.k as usize,
            0x15 => jump(accumulator == instruction.k),
            0x35 => jump(accumulator >= instruction.k),
            0x06 => return instruction.k,
            other => panic!("operation {other:#x} is not expected in this program"),
        }
    }
}
