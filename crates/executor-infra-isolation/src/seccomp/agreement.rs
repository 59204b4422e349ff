//! The compiled programs decide what the policy says, on both architectures and for every way in.

use std::collections::BTreeSet;

use seccompiler::sock_filter;

use super::{
    Arch, FURNISHING, Rule, Syscall, Verdict,
    compile::compile,
    policy::GROUPS,
    programs_for,
    simulation::{ALLOW, Call, fails, interpret},
    syscalls::NEWEST,
};

const ARCHES: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];
/// `__X32_SYSCALL_BIT`, `asm/unistd.h` of x86.
const X32: u32 = 0x4000_0000;

/// `AUDIT_ARCH_*` of `linux/audit.h` that are neither architecture's own: i386, 32-bit Arm in both byte orders, big-endian
/// aarch64, 32-bit and 64-bit Power, s390x, MIPS, RISC-V; and what is nobody's.
const FOREIGN: [u32; 10] = [
    0x4000_0003,
    0x4000_0028,
    0x0000_0028,
    0x8000_00b7,
    0x0000_0014,
    0xc000_0015,
    0x8000_0016,
    0x4000_0008,
    0xc000_00f3,
    0,
];

fn rules() -> impl Iterator<Item = &'static Rule> {
    GROUPS.iter().flat_map(|group| group.rules)
}

/// What the policy says of a call, read rule by rule.
fn said(syscall: Syscall, arguments: &[u64; 6]) -> u32 {
    let rule = rules().find(|rule| rule.syscall == syscall && rule.applies(arguments));
    match rule.map(|rule| rule.verdict) {
        Some(Verdict::Fail(errno)) => fails(errno),
        Some(Verdict::Allow) | None => ALLOW,
    }
}

/// Bits of a condition whose change must matter, or must not: each one of a set of flags, of a number its ends.
fn telling_bits(mask: u32) -> BTreeSet<u32> {
    let looked_at: BTreeSet<u32> = (0..u32::BITS).filter(|bit| mask >> bit & 1 == 1).collect();
    let ends = [looked_at.first(), looked_at.last()].map(|bit| bit.copied().unwrap_or_default());
    let mut bits = if looked_at.len() <= 16 {
        looked_at
    } else {
        ends.into()
    };
    bits.extend((0..u32::BITS).find(|bit| mask >> bit & 1 == 0));
    bits
}

/// Values of one argument on both sides of every condition that looks at it; one where none does.
fn values(syscall: Syscall, argument: u8) -> BTreeSet<u64> {
    let mut values = BTreeSet::new();
    let conditions = rules()
        .filter(|rule| rule.syscall == syscall)
        .flat_map(|rule| rule.when)
        .filter(|condition| condition.argument == argument);
    for condition in conditions {
        values.extend([1, u64::MAX]);
        let near = telling_bits(condition.mask)
            .into_iter()
            .map(|bit| condition.value ^ (1 << bit));
        for value in near.chain([condition.value]) {
            values.insert(value.into());
            // The kernel reads the low half; a filter that read more could be dodged.
            values.insert(u64::from(value) | 0xdead_beef_0000_0000);
        }
    }
    values.insert(0);
    values
}

/// Arguments on both sides of every condition of a call.
fn arguments(syscall: Syscall) -> Vec<[u64; 6]> {
    let mut all = vec![[0; 6]];
    for argument in 0..6_u8 {
        let values = values(syscall, argument);
        all = all
            .into_iter()
            .flat_map(|one| {
                values.iter().map(move |value| {
                    let mut other = one;
                    other[usize::from(argument)] = *value;
                    other
                })
            })
            .collect();
    }
    all
}

#[test]
fn compiled_programs_decide_as_the_policy_says_on_both_architectures() {
    let mut tried = 0;
    for arch in ARCHES {
        let program = compile(GROUPS, arch).unwrap();
        let mut last = None;
        for rule in rules() {
            let syscall = rule.syscall;
            let Some(number) = syscall.number(arch).filter(|_| last != Some(syscall)) else {
                continue;
            };
            last = Some(syscall);
            for arguments in arguments(syscall) {
                let call = Call {
                    number,
                    arch: arch.audit_value(),
                    arguments,
                };
                let verdict = interpret(&program, &call);
                assert_eq!(
                    verdict,
                    said(syscall, &arguments),
                    "{syscall} {arguments:x?} on {arch:?}"
                );
                tried += 1;
            }
        }
    }
    // Control: conditions were met and missed. A call without one is tried once, `socket` some ten thousand times.
    assert!(tried > 10_000, "{tried}");
}

/// What the kernel makes of several filters: the strictest verdict, and of equals the youngest filter's (seccomp(2)).
fn together(filters: [&[sock_filter]; 2], call: &Call) -> u32 {
    let [young, old] = filters.map(|filter| interpret(filter, call));
    let action = |verdict: u32| verdict & 0xffff_0000;
    if action(old) < action(young) {
        old
    } else {
        young
    }
}

#[test]
fn filters_in_parts_decide_as_the_policy_says() {
    let mut furnished = 0;
    for arch in ARCHES {
        let programs = programs_for(arch).unwrap();
        for rule in rules() {
            let Some(number) = rule.syscall.number(arch) else {
                continue;
            };
            for arguments in arguments(rule.syscall) {
                let call = Call {
                    number,
                    arch: arch.audit_value(),
                    arguments,
                };
                let said = said(rule.syscall, &arguments);
                let told = || format!("{} {arguments:x?} on {arch:?}", rule.syscall);
                let guest = together([&programs.guest, &programs.zygote], &call);
                assert_eq!(guest, said, "a guest, {}", told());
                let init = together([&programs.init, &programs.zygote], &call);
                let may_furnish = FURNISHING.contains(&rule.syscall);
                furnished += usize::from(may_furnish);
                let of_init = if may_furnish { ALLOW } else { said };
                assert_eq!(init, of_init, "an init, {}", told());
            }
        }
        let whole = compile(GROUPS, arch).unwrap();
        // What slots add is to be short: that is what the parts are for.
        for added in [&programs.init, &programs.guest] {
            assert!(
                added.len() * 5 <= whole.len(),
                "{} of {}",
                added.len(),
                whole.len()
            );
        }
        for number in (0..=NEWEST + 64).chain([u32::MAX, X32, X32 | NEWEST]) {
            for entered_as in FOREIGN.into_iter().chain([arch.audit_value()]) {
                let call = Call {
                    number,
                    arch: entered_as,
                    arguments: [0; 6],
                };
                assert_eq!(
                    together([&programs.guest, &programs.zygote], &call),
                    interpret(&whole, &call),
                    "{number} by {entered_as:#x} on {arch:?}"
                );
            }
        }
    }
    // Control: the exception was met, on each architecture.
    assert_eq!(furnished, 2 * FURNISHING.len());
}

#[test]
fn no_foreign_way_in_leads_to_any_call() {
    let nothing = fails(nix::errno::Errno::ENOSYS);
    for arch in ARCHES {
        let program = compile(GROUPS, arch).unwrap();
        let decide = |number, entered_as| {
            let call = Call {
                number,
                arch: entered_as,
                arguments: [0; 6],
            };
            interpret(&program, &call)
        };
        let other = ARCHES.into_iter().find(|other| *other != arch).unwrap();
        for number in (0..=NEWEST + 64).chain([u32::MAX]) {
            for entered_as in FOREIGN.into_iter().chain([other.audit_value()]) {
                let verdict = decide(number, entered_as);
                assert_eq!(verdict, nothing, "{number} by {entered_as:#x} on {arch:?}");
            }
            // The numbers of x32 come by the very entry of 64-bit calls.
            let verdict = decide(number | X32, arch.audit_value());
            assert_eq!(verdict, nothing, "x32 call {number} on {arch:?}");
        }
        // Control.
        assert_eq!(decide(NEWEST, arch.audit_value()), ALLOW);
    }
}
