//! From the policy to a BPF program.
//!
//! `seccompiler` translates the conditions on arguments. Its own whole-filter compiler is not used:
//! it knows one verdict per filter, kills on a foreign architecture without a trace, and tests one
//! number after the other. The kernel runs a new filter once for every system call to find those
//! that it may always allow, so a search tree more than halves the time that loading takes.

use std::collections::BTreeMap;

use nix::errno::Errno;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompRule, sock_filter,
};

use super::{
    SeccompError,
    policy::{Group, Rule, Verdict},
    syscalls::{Arch, NEWEST, Syscall},
};

/// `BPF_MAXINSNS` of `linux/bpf_common.h`: the kernel refuses longer programs.
const MAX_INSTRUCTIONS: usize = 4096;

// Operation codes, `linux/bpf_common.h`.
const LOAD_WORD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

// Offsets in `struct seccomp_data`, `linux/seccomp.h`.
const SYSCALL_NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// Compiles `groups` for `arch`.
///
/// An entry point of another architecture gets ENOSYS, and so does every number above [`NEWEST`]:
/// calls that nobody has judged yet (callers fall back, as on an older kernel), and the x32 calls,
/// whose numbers carry bit 30.
pub(super) fn compile(groups: &[Group], arch: Arch) -> Result<BpfProgram, SeccompError> {
    compile_where(groups, arch, |_| true)
}

/// The same, with the rules for some system calls only.
pub(super) fn compile_where(
    groups: &[Group],
    arch: Arch,
    is_judged: impl Fn(Syscall) -> bool,
) -> Result<BpfProgram, SeccompError> {
    let mut by_number: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
    let rules = groups.iter().flat_map(|group| group.rules);
    for rule in rules.filter(|rule| is_judged(rule.syscall)) {
        if let Some(number) = rule.syscall.number(arch) {
            by_number.entry(number).or_default().push(rule);
        }
    }

    let mut ranges = Ranges(Vec::new());
    let mut next = 0;
    for (number, rules) in by_number {
        if number > next {
            ranges.add(next, vec![verdict(Verdict::Allow)]);
        }
        ranges.add(number, first_match(&rules).map_err(SeccompError::Compile)?);
        next = number + 1;
    }
    ranges.add(next, vec![verdict(Verdict::Allow)]);
    let unknown = verdict(Verdict::Fail(Errno::ENOSYS));
    ranges.add(NEWEST + 1, vec![unknown.clone()]);

    let mut own_entry_point = vec![statement(LOAD_WORD, SYSCALL_NUMBER)];
    own_entry_point.extend(search(&ranges.0)?);
    let mut program = vec![statement(LOAD_WORD, ARCHITECTURE)];
    program.extend(branch(
        JUMP_IF_EQUAL,
        arch.audit_value(),
        own_entry_point,
        vec![unknown],
    )?);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong);
    }
    Ok(program)
}

/// What to do with the system calls from a number up to that of the next entry.
struct Ranges(Vec<(u32, BpfProgram)>);

impl Ranges {
    /// Neighbours that are treated alike become one range.
    fn add(&mut self, first: u32, treatment: BpfProgram) {
        if self.0.last().is_none_or(|(_, last)| *last != treatment) {
            self.0.push((first, treatment));
        }
    }
}

/// A binary search for the range that holds the loaded number.
fn search(ranges: &[(u32, BpfProgram)]) -> Result<BpfProgram, SeccompError> {
    match ranges {
        [] => Ok(vec![verdict(Verdict::Allow)]),
        [(_, treatment)] => Ok(treatment.clone()),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            branch(
                JUMP_IF_GREATER_OR_EQUAL,
                high[0].0,
                search(high)?,
                search(low)?,
            )
        }
    }
}

/// The rules of one system call, in order; where none applies, "allowed".
fn first_match(rules: &[&Rule]) -> Result<BpfProgram, BackendError> {
    let mut program = BpfProgram::new();
    for rule in rules {
        if rule.when.is_empty() {
            program.push(verdict(rule.verdict));
            return Ok(program);
        }
        let conditions = rule
            .when
            .iter()
            .map(|condition| {
                SeccompCondition::new(
                    condition.argument,
                    SeccompCmpArgLen::Dword,
                    SeccompCmpOp::MaskedEq(condition.mask.into()),
                    condition.value.into(),
                )
            })
            .collect::<Result<_, _>>()?;
        // Falls through where all conditions hold, else jumps over exactly one instruction.
        program.extend(BpfProgram::from(SeccompRule::new(conditions)?));
        program.push(verdict(rule.verdict));
    }
    program.push(verdict(Verdict::Allow));
    Ok(program)
}

/// `if A <test> operand { then } else { otherwise }`, where both end by returning. A conditional
/// jump reaches 255 instructions; what is farther takes a detour over an unconditional one.
fn branch(
    test: u16,
    operand: u32,
    then: BpfProgram,
    otherwise: BpfProgram,
) -> Result<BpfProgram, SeccompError> {
    let conditional = |jt, jf| sock_filter {
        code: test,
        jt,
        jf,
        k: operand,
    };
    let mut program = if let Ok(near) = u8::try_from(then.len()) {
        vec![conditional(0, near)]
    } else {
        let far = u32::try_from(then.len()).map_err(|_| SeccompError::TooLong)?;
        vec![conditional(1, 0), statement(JUMP, far)]
    };
    program.extend(then);
    program.extend(otherwise);
    Ok(program)
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

fn verdict(verdict: Verdict) -> sock_filter {
    let action = match verdict {
        Verdict::Allow => SeccompAction::Allow,
        Verdict::Fail(errno) => SeccompAction::Errno(errno as u32),
    };
    statement(RETURN, action.into())
}
