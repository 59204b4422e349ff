//! What is wrong with a request, field by field.

use std::fmt;

use executor_domain::LimitError;

/// Problems that are listed; further ones are counted. A request can have as many as it has bytes.
const MAX_SHOWN: usize = 20;

/// Most characters of a field's name that are repeated to the client who made it up.
const MAX_NAME_CHARS: usize = 64;

/// What is wrong with a request, field by field, in the order of discovery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Problems {
    shown: Vec<Problem>,
    more: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    field: String,
    problem: String,
}

impl Problems {
    /// Adds a problem: a sentence whose subject is the field.
    pub(crate) fn add(&mut self, field: impl fmt::Display, problem: impl fmt::Display) {
        if self.shown.len() < MAX_SHOWN {
            self.shown.push(Problem {
                field: shortened(field.to_string()),
                problem: problem.to_string(),
            });
        } else {
            self.more += 1;
        }
    }

    /// Adds every wish that the policy refused.
    pub(crate) fn add_limits(&mut self, refused: &[LimitError]) {
        for refusal in refused {
            self.add(refusal.limit, refusal);
        }
    }

    /// One problem.
    pub(crate) fn one(field: impl fmt::Display, problem: impl fmt::Display) -> Self {
        let mut problems = Self::default();
        problems.add(field, problem);
        problems
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }
}

fn shortened(name: String) -> String {
    match name.char_indices().nth(MAX_NAME_CHARS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name,
    }
}

/// In one line: `code is required; timout is not a field of this request`.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Problem { field, problem }) in self.shown.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{field} {problem}")?;
        }
        if self.more > 0 {
            write!(f, "; and {} more", self.more)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_up_to_the_cap_and_counts_the_rest() {
        let mut problems = Problems::default();
        assert!(problems.is_empty());
        for n in 0..MAX_SHOWN {
            problems.add(n, "is odd");
        }
        assert!(problems.to_string().ends_with("; 19 is odd"));
        problems.add("x", "is odd");
        problems.add("y", "is odd");
        assert!(problems.to_string().ends_with("; 19 is odd; and 2 more"));
    }

    #[test]
    fn repeats_no_more_of_a_name_than_a_person_reads() {
        let at_cap = "é".repeat(MAX_NAME_CHARS);
        assert_eq!(
            Problems::one(&at_cap, "is odd").to_string(),
            format!("{at_cap} is odd")
        );
        let above = "é".repeat(MAX_NAME_CHARS + 1);
        assert_eq!(
            Problems::one(above, "is odd").to_string(),
            format!("{at_cap}… is odd")
        );
    }
}
