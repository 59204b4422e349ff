//! The filter's own table, line by line, from inside: what it says of a call is what a guest gets.

use std::collections::BTreeMap;

use executor_infra_isolation::seccomp::{Arch, Rule, Syscall, Verdict, policy};
use serde_json::{Value, json};

use crate::{
    support::Workspace,
    world::{findings, guest, run, with_event},
};

fn rules_of(syscall: Syscall) -> impl Iterator<Item = &'static Rule> {
    policy()
        .iter()
        .flat_map(|group| group.rules)
        .filter(move |rule| rule.syscall == syscall)
}

/// The first rule that applies decides (`seccomp/policy.rs`).
fn deciding(syscall: Syscall, arguments: &[u64; 6]) -> Option<&'static Rule> {
    rules_of(syscall).find(|rule| rule.applies(arguments))
}

/// Arguments, out of those that its call's conditions mention, for which this very rule decides. With the upper half of every
/// register set as well, which the kernel ignores where a condition looks.
fn arguments_of(rule: &Rule) -> Vec<[u64; 6]> {
    const UPPER_HALF: u64 = 0xdead_beef_0000_0000;
    let mut all = vec![[0; 6]];
    for argument in 0..6_u8 {
        let mut values = vec![0];
        let conditions = rules_of(rule.syscall).flat_map(|rule| rule.when);
        for condition in conditions.filter(|condition| condition.argument == argument) {
            // The value, and the bits beside it that the condition looks at, one by one.
            let looked_at = (0..u32::BITS).filter(|bit| condition.mask >> bit & 1 == 1);
            let beside = looked_at.take(8).map(|bit| condition.value ^ 1 << bit);
            for value in beside.chain([condition.value, condition.mask]) {
                values.extend([u64::from(value), u64::from(value) | UPPER_HALF]);
            }
        }
        values.sort_unstable();
        values.dedup();
        all = all
            .into_iter()
            .flat_map(|one| {
                values.iter().map(move |value| {
                    let mut other = one;
                    other[usize::from(argument)] = *value;
                    other
                })
            })
            .filter(|arguments| argument < 5 || decides(rule, arguments))
            .collect();
    }
    // Some are as good as all: the compiled program is compared with the table elsewhere, exhaustively.
    let step = all.len() / 60 + 1;
    all.into_iter().step_by(step).collect()
}

fn decides(rule: &Rule, arguments: &[u64; 6]) -> bool {
    deciding(rule.syscall, arguments).is_some_and(|first| std::ptr::eq(first, rule))
}

/// The number of a call that the policy has no word on.
fn number_of_the_allowed(arch: Arch, x86_64: u32, aarch64: u32) -> u32 {
    match arch {
        Arch::X86_64 => x86_64,
        Arch::Aarch64 => aarch64,
    }
}

#[test]
fn every_line_of_the_filter_is_what_a_guest_meets() {
    let arch = Arch::current().unwrap();
    let mut calls = Vec::new();
    let mut expected = BTreeMap::new();
    for rule in policy().iter().flat_map(|group| group.rules) {
        let (Verdict::Fail(errno), Some(number)) = (rule.verdict, rule.syscall.number(arch)) else {
            continue;
        };
        let arguments = arguments_of(rule);
        assert!(!arguments.is_empty(), "\"{rule}\" never decides");
        calls.push(json!({
            "name": rule.to_string(),
            "number": number,
            "arguments": arguments,
        }));
        expected.insert(rule.to_string(), format!("{errno:?}"));
    }
    assert!(calls.len() > 70, "only {} lines deny", calls.len());
    let event: Value = json!({
        "getpid": number_of_the_allowed(arch, 39, 172),
        "close": number_of_the_allowed(arch, 3, 57),
        "calls": calls,
    });

    let workspace = Workspace::new();
    let outcome = run(with_event(&event, guest!(python "walk").script(&workspace)));
    let found: BTreeMap<_, _> = findings(&outcome);
    let differences: Vec<_> = expected
        .iter()
        .filter(|(name, errno)| {
            // Python knows EOPNOTSUPP by its other name.
            let errno = errno.replace("EOPNOTSUPP", "ENOTSUP");
            found.get(*name) != Some(&errno)
        })
        .map(|(name, errno)| format!("{name}: {:?}, not {errno}", found.get(name)))
        .collect();
    assert!(differences.is_empty(), "{differences:#?}");
    assert_eq!(found.len(), expected.len());
}
