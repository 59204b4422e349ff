//! What to do when a sandbox cannot be made: from what sandbox-exec and the loader say to what an operator does.

/// One known failure.
struct Known {
    /// A part of what was said.
    says: &'static str,
    /// What it means, and what to do.
    remedy: &'static str,
}

/// Most specific first.
const KNOWN: [Known; 4] = [
    Known {
        says: "sandbox_apply: Operation not permitted",
        remedy: "the daemon runs in a sandbox itself, and there is none inside another. Remedy: start it from a terminal or by launchd, not from an application that is sandboxed",
    },
    Known {
        says: "unbound variable",
        remedy: "this macOS does not know an operation of the profile. Remedy: macOS 12 or later; where this is one, report it with the output of scripts/verify-macos.sh",
    },
    Known {
        says: "execvp()",
        remedy: "the profile keeps the interpreter from being started. Remedy: report it with the output of scripts/verify-macos.sh",
    },
    Known {
        says: "Some(Signal(6))",
        remedy: "the loader gave up, which it does where the profile keeps a library from it. Remedy: report it with the output of scripts/verify-macos.sh",
    },
];

/// What was said and what to do about it; what was said alone where it is not known.
pub(super) fn explain(message: &str) -> String {
    match KNOWN.iter().find(|known| message.contains(known.says)) {
        Some(known) => format!("{message} ({})", known.remedy),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_message_finds_its_own_remedy() {
        for known in &KNOWN {
            let explained = explain(&format!("sandbox-exec: {}: whatever", known.says));
            assert!(explained.contains(known.remedy), "{explained}");
        }
        assert_eq!(explain("the sky fell"), "the sky fell");
    }
}
