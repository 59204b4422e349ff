//! A reader of Seatbelt profiles, as far as ours go: checks their form, and says what they allow.
//!
//! The language is documented nowhere; this follows what Apple's own profiles in `/System/Library/Sandbox/Profiles` show.
//! Of the rules that fit a request, the last one decides.

use std::{collections::BTreeMap, fmt};

/// Every operation that our profiles may name. All of them are known since macOS 12 at the latest.
pub const OPERATIONS: &[&str] = &[
    "appleevent-send",
    "default",
    "dynamic-code-generation",
    "file-map-executable",
    "file-read*",
    "file-read-data",
    "file-read-metadata",
    "file-test-existence",
    "file-write*",
    "file-write-create",
    "file-write-data",
    "file-write-setugid",
    "iokit-open",
    "ipc-posix-sem",
    "ipc-posix-shm-read-data",
    "job-creation",
    "lsopen",
    "mach-lookup",
    "mach-register",
    "network*",
    "process-exec",
    "process-exec-interpreter",
    "process-fork",
    "process-info*",
    "signal",
    "sysctl-read",
    "system-socket",
];

/// What is wrong with a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}

fn malformed<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(what.into()))
}

/// An expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// A name or number.
    Symbol(String),
    /// A string.
    Text(String),
    /// What stands in parentheses.
    List(Vec<Expression>),
}

/// Reads all expressions of a text.
pub fn read(text: &str) -> Result<Vec<Expression>, Malformed> {
    let mut open: Vec<Vec<Expression>> = vec![Vec::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let done = match character {
            ';' => {
                while characters.next_if(|&next| next != '\n').is_some() {}
                continue;
            }
            '(' => {
                open.push(Vec::new());
                continue;
            }
            ')' => match open.pop() {
                Some(list) if !open.is_empty() => Expression::List(list),
                _ => return malformed("a parenthesis closes what was not opened"),
            },
            '"' => {
                let mut string = String::new();
                loop {
                    match characters.next() {
                        Some('"') => break,
                        Some('\\') | None => return malformed("a string that ours never have"),
                        Some(next) => string.push(next),
                    }
                }
                Expression::Text(string)
            }
            space if space.is_whitespace() => continue,
            first => {
                let mut symbol = String::from(first);
                while let Some(next) =
                    characters.next_if(|next| !next.is_whitespace() && !"();\"".contains(*next))
                {
                    symbol.push(next);
                }
                Expression::Symbol(symbol)
            }
        };
        match open.last_mut() {
            Some(list) => list.push(done),
            None => return malformed("nothing is open"),
        }
    }
    match open.pop() {
        Some(all) if open.is_empty() => Ok(all),
        _ => malformed("a parenthesis stays open"),
    }
}

/// What somebody wants to do something to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A file.
    Path(&'a str),
    /// A service, a kernel variable, a name of POSIX IPC.
    Name(&'a str),
    /// A process: whether in the same sandbox.
    Process {
        /// Whether it is one of the guest's own.
        own: bool,
    },
    /// Nothing in particular.
    Nothing,
}

/// A condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// A file or directory, and everything below.
    Subpath(String),
    /// A file or directory.
    Literal(String),
    /// A name.
    Name(String),
    /// Names that begin so.
    NamePrefix(String),
    /// The guest's own processes.
    SameSandbox,
}

impl Filter {
    fn fits(&self, target: Target<'_>) -> bool {
        match (self, target) {
            (Self::Subpath(top), Target::Path(path)) => path
                .strip_prefix(top.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            (Self::Literal(one), Target::Path(path)) => one == path,
            (Self::Name(one), Target::Name(name)) => one == name,
            (Self::NamePrefix(prefix), Target::Name(name)) => name.starts_with(prefix.as_str()),
            (Self::SameSandbox, Target::Process { own }) => own,
            _ => false,
        }
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whether it allows, or denies.
    pub allows: bool,
    /// What it is about.
    pub operations: Vec<String>,
    /// It fits where one of these does, or where there is none.
    pub filters: Vec<Filter>,
}

impl Rule {
    fn fits(&self, operation: &str, target: Target<'_>) -> bool {
        self.names(operation)
            && (self.filters.is_empty() || self.filters.iter().any(|filter| filter.fits(target)))
    }

    /// Whether it is about this operation.
    pub fn names(&self, operation: &str) -> bool {
        self.operations
            .iter()
            .any(|named| match named.strip_suffix('*') {
                Some(family) => operation.starts_with(family),
                None => named == operation || named == "default",
            })
    }
}

/// A profile that is well formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its rules, in their order.
    pub rules: Vec<Rule>,
}

impl Profile {
    /// Reads a profile: version 1, closed by default, of operations and filters that we know, with a value for every
    /// parameter that it reads and no other.
    pub fn parse(text: &str, parameters: &[(String, String)]) -> Result<Self, Malformed> {
        let values: BTreeMap<&str, &str> = parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        if values.len() != parameters.len() {
            return malformed("a parameter has two values");
        }
        let mut forms = read(text)?.into_iter();
        let version = Expression::List(vec![
            Expression::Symbol("version".into()),
            Expression::Symbol("1".into()),
        ]);
        if forms.next() != Some(version) {
            return malformed("it does not begin with (version 1)");
        }
        let mut used = Vec::new();
        let rules: Vec<Rule> = forms
            .map(|form| rule(form, &values, &mut used))
            .collect::<Result<_, _>>()?;
        let closed = Rule {
            allows: false,
            operations: vec!["default".into()],
            filters: Vec::new(),
        };
        if rules.first() != Some(&closed)
            || rules.iter().filter(|rule| rule.is_default()).count() != 1
        {
            return malformed("it is not closed by default, once and first");
        }
        match parameters.iter().find(|(name, _)| !used.contains(name)) {
            Some((name, _)) => malformed(format!("nobody reads the parameter {name}")),
            None => Ok(Self { rules }),
        }
    }

    /// Whether this may be done.
    pub fn allows(&self, operation: &str, target: Target<'_>) -> bool {
        self.rules
            .iter()
            .rev()
            .find(|rule| rule.fits(operation, target))
            .is_some_and(|rule| rule.allows)
    }
}

impl Rule {
    fn is_default(&self) -> bool {
        self.operations
            .iter()
            .any(|operation| operation == "default")
    }
}

fn rule(
    form: Expression,
    values: &BTreeMap<&str, &str>,
    used: &mut Vec<String>,
) -> Result<Rule, Malformed> {
    let Expression::List(words) = form else {
        return malformed("a word stands outside of parentheses");
    };
    let mut words = words.into_iter();
    let allows = match words.next() {
        Some(Expression::Symbol(action)) if action == "allow" => true,
        Some(Expression::Symbol(action)) if action == "deny" => false,
        other => return malformed(format!("neither allow nor deny: {other:?}")),
    };
    let (mut operations, mut filters) = (Vec::new(), Vec::new());
    for word in words {
        match word {
            Expression::Symbol(operation) if filters.is_empty() => {
                if !OPERATIONS.contains(&operation.as_str()) {
                    return malformed(format!("an operation that we do not know: {operation}"));
                }
                operations.push(operation);
            }
            Expression::List(list) => filters.push(filter(&list, values, used)?),
            other => return malformed(format!("out of place: {other:?}")),
        }
    }
    if operations.is_empty() {
        return malformed("a rule about nothing");
    }
    Ok(Rule {
        allows,
        operations,
        filters,
    })
}

fn filter(
    list: &[Expression],
    values: &BTreeMap<&str, &str>,
    used: &mut Vec<String>,
) -> Result<Filter, Malformed> {
    let [Expression::Symbol(kind), argument] = list else {
        return malformed(format!("no filter: {list:?}"));
    };
    if kind == "target" {
        return match argument {
            Expression::Symbol(whose) if whose == "same-sandbox" => Ok(Filter::SameSandbox),
            other => malformed(format!("a target that we do not know: {other:?}")),
        };
    }
    let text = match argument {
        Expression::Text(text) => text.clone(),
        Expression::List(list) => match &list[..] {
            [Expression::Symbol(param), Expression::Text(name)] if param == "param" => {
                used.push(name.clone());
                match values.get(name.as_str()) {
                    Some(value) => (*value).to_owned(),
                    None => return malformed(format!("the parameter {name} has no value")),
                }
            }
            other => return malformed(format!("an argument that we do not know: {other:?}")),
        },
        Expression::Symbol(other) => return malformed(format!("no string: {other}")),
    };
    if matches!(kind.as_str(), "subpath" | "literal")
        && (!text.starts_with('/') || (text.len() > 1 && text.ends_with('/')))
    {
        return malformed(format!("no absolute path as the kernel has them: {text}"));
    }
    match kind.as_str() {
        "subpath" => Ok(Filter::Subpath(text)),
        "literal" => Ok(Filter::Literal(text)),
        "global-name" | "ipc-posix-name" | "sysctl-name" => Ok(Filter::Name(text)),
        "sysctl-name-prefix" => Ok(Filter::NamePrefix(text)),
        other => malformed(format!("a filter that we do not know: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rules: &str) -> Result<Profile, Malformed> {
        let text = format!("(version 1)\n(deny default)\n{rules}");
        Profile::parse(&text, &[("P".to_owned(), "/p".to_owned())])
    }

    #[test]
    fn the_last_rule_that_fits_decides() {
        let profile = parse(
            "(allow file-read* (subpath \"/a\")) ; comment (\n\
             (deny file-read-data (literal \"/a/b\"))\n\
             (allow file-write* (subpath (param \"P\")))",
        )
        .unwrap();
        for (operation, path, allowed) in [
            ("file-read-data", "/a", true),
            ("file-read-data", "/a/c", true),
            ("file-read-data", "/a/b", false),
            ("file-read-metadata", "/a/b", true),
            ("file-read-data", "/ab", false),
            ("file-write-create", "/p/x", true),
            ("file-write-create", "/a/x", false),
        ] {
            assert_eq!(
                profile.allows(operation, Target::Path(path)),
                allowed,
                "{operation} {path}"
            );
        }
        assert!(!profile.allows("network-outbound", Target::Nothing));
    }

    #[test]
    fn what_is_not_a_profile_is_refused() {
        let read_p = "(allow file-read* (literal (param \"P\")))";
        assert!(parse(read_p).is_ok());
        for bad in [
            "",
            "(allow file-read*",
            "(allow file-read*))",
            "(permit file-read*)",
            "(allow)",
            "(allow file-raed*)",
            "(allow file-read* (subpath a))",
            "(allow file-read* (subpath \"a\"))",
            "(allow file-read* (subpath \"/a/\"))",
            "(allow file-read* (regex \"/a\"))",
            "(allow file-read* (literal (param \"Q\")))",
            "(allow file-read* \"/a\")",
            "(allow default)",
            "word",
        ] {
            let text = format!("{read_p}\n{bad}");
            let result = parse(if bad.is_empty() { bad } else { &text });
            assert!(result.is_err(), "{bad}");
        }
        let open = format!("(version 1)\n(allow default)\n{read_p}");
        let values = [("P".to_owned(), "/p".to_owned())];
        assert!(Profile::parse(&open, &values).is_err());
        assert!(Profile::parse(&format!("(deny default)\n{read_p}"), &values).is_err());
    }
}
