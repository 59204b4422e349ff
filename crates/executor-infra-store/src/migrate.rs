//! Brings a database that an earlier version has written to ours: all of it, or nothing.

use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::Value;

use crate::open::VERSION;

/// From version 1, whose daemons wrote down whether output was cut and not how much of it, and at first microseconds. Facts
/// that are no JSON object are left as they are: they are damaged, and whoever meets them says so.
pub(crate) fn from_1(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let numbers: Vec<i64> = transaction
            .prepare("SELECT number FROM results")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let mut read = transaction.prepare("SELECT facts FROM results WHERE number = ?1")?;
        let mut write = transaction.prepare("UPDATE results SET facts = ?2 WHERE number = ?1")?;
        for number in numbers {
            let facts = read.query_row([number], |row| {
                Ok(row.get_ref(0)?.as_str().ok().and_then(facts_from_1))
            })?;
            if let Some(facts) = facts {
                write.execute(params![number, facts])?;
            }
        }
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

fn facts_from_1(text: &str) -> Option<String> {
    let mut facts: Value = serde_json::from_str(text).ok()?;
    let object = facts.as_object_mut()?;
    for name in ["stdout_truncated", "stderr_truncated"] {
        if let Some(lost @ Value::Bool(_)) = object.get_mut(name) {
            // Nobody has counted: at least one.
            *lost = u64::from(*lost == Value::Bool(true)).into();
        }
    }
    to_nanos(object, "wall");
    to_nanos(object, "cpu");
    if let Some(ending) = object.get_mut("ending").and_then(Value::as_object_mut) {
        to_nanos(ending, "allowed");
    }
    Some(facts.to_string())
}

fn to_nanos(object: &mut serde_json::Map<String, Value>, of: &str) {
    if let Some(micros) = object.remove(&format!("{of}_micros")) {
        let nanos = micros.as_u64().map(|micros| micros.saturating_mul(1000));
        object.insert(format!("{of}_nanos"), nanos.into());
    }
}
