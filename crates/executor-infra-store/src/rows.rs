//! The statements, each with what it means.

use executor_application::{Cursor, Fingerprint, Kept, Page, Query, StoreError, Summary};
use executor_domain::{Execution, ExecutionId, SessionId, Status, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params, types::ValueRef};

use crate::{
    age::Remembered,
    codec::{self, Columns, Encoded},
    error::Cause,
};

/// Bytes that an execution takes beside its result: its row, and its share of the indexes.
const ROW_BYTES: usize = 512;

/// What a report is.
const WAITS: i64 = 1;
const REFUSED: i64 = 2;
/// Whatever it was: the execution cannot be read.
const SET_ASIDE: i64 = 3;

/// Longest reason that is kept of an execution that cannot be read, in bytes.
const MAX_WHY: usize = 512;

/// What a write has changed, for what is counted in memory.
#[derive(Debug, Default)]
pub(crate) struct Effect {
    /// Bytes that are kept more, or less.
    pub bytes: i64,
    /// Reports that wait more, or less.
    pub waiting: i64,
    /// Whether a report has come in, however many went at the same time.
    pub arrived: bool,
    /// Reports that were refused.
    pub refused: u64,
    /// Executions that turned out to be unreadable.
    pub set_aside: Vec<SetAside>,
    /// Ids that are not kept any more.
    pub forgotten: Vec<String>,
}

/// An execution whose columns are not what we wrote.
#[derive(Debug)]
pub(crate) struct Unreadable {
    /// Its number in the order of acceptance: its name may be what is damaged.
    pub number: i64,
    pub why: String,
}

impl Unreadable {
    fn new(number: i64, why: &StoreError) -> Self {
        // Who reads it wants the cause, not that it is damaged.
        let mut why =
            std::error::Error::source(why).map_or_else(|| why.to_string(), ToString::to_string);
        why.truncate(why.floor_char_boundary(MAX_WHY));
        Self { number, why }
    }
}

/// What was read of the execution of this number; `None`, and noted, where it cannot be read.
fn sift<T>(
    read: Result<T, StoreError>,
    number: i64,
    unreadable: &mut Vec<Unreadable>,
) -> Result<Option<T>, StoreError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(why @ StoreError::Damaged(_)) => {
            unreadable.push(Unreadable::new(number, &why));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// An execution that was set aside just now.
#[derive(Debug)]
pub(crate) struct SetAside {
    pub number: i64,
    /// Its name, as far as it can be read.
    pub id: String,
    pub why: String,
    /// Whether the control plane waits for its result in vain.
    pub was_to_be_reported: bool,
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

pub(crate) fn accept(
    connection: &Connection,
    execution: &Execution,
    fingerprint: &Fingerprint,
) -> rusqlite::Result<Effect> {
    connection
        .prepare_cached(
            "INSERT INTO executions (id, session, fingerprint, accepted_at, status, bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            execution.id().as_str(),
            execution.session().as_str(),
            fingerprint.as_bytes(),
            execution.accepted_at().unix_micros(),
            Status::Pending.as_str(),
            signed(ROW_BYTES),
        ])?;
    Ok(Effect {
        bytes: signed(ROW_BYTES),
        ..Effect::default()
    })
}

/// `ended`: its number in the order of endings.
pub(crate) fn finish(
    connection: &Connection,
    result: &Encoded,
    ended: i64,
    kept_at: i64,
    is_reported: bool,
) -> rusqlite::Result<Effect> {
    let bytes = signed(result.bytes());
    // No row: it was not accepted, or has ended before. Either is a mistake of ours, and an error.
    let number: i64 = connection
        .prepare_cached(
            "UPDATE executions
             SET started_at = ?2, completed_at = ?3, status = ?4, ended = ?5, kept_at = ?6,
                 bytes = bytes + ?7, report = ?8
             WHERE id = ?1 AND ended IS NULL
             RETURNING number",
        )?
        .query_row(
            params![
                result.execution.id().as_str(),
                result.started_at,
                result.completed_at,
                result.execution.status().as_str(),
                ended,
                kept_at,
                bytes,
                if is_reported { WAITS } else { 0 },
            ],
            |row| row.get(0),
        )?;
    connection
        .prepare_cached(
            "INSERT INTO results (number, facts, value, stdout, stderr) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            number,
            result.facts,
            result.value(),
            result.stdout(),
            result.stderr(),
        ])?;
    Ok(Effect {
        bytes,
        waiting: i64::from(is_reported),
        arrived: is_reported,
        ..Effect::default()
    })
}

pub(crate) fn forget(connection: &Connection, id: &ExecutionId) -> rusqlite::Result<Effect> {
    let number: Option<i64> = connection
        .prepare_cached("SELECT number FROM executions WHERE id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    match number {
        Some(number) => remove(connection, number),
        None => Ok(Effect::default()),
    }
}

pub(crate) fn delivered(connection: &Connection, id: &ExecutionId) -> rusqlite::Result<Effect> {
    let changed = connection
        .prepare_cached("UPDATE executions SET report = 0 WHERE id = ?1 AND report = ?2")?
        .execute(params![id.as_str(), WAITS])?;
    Ok(settled(changed))
}

pub(crate) fn refused(
    connection: &Connection,
    id: &ExecutionId,
    reason: &str,
) -> rusqlite::Result<Effect> {
    let changed = connection
        .prepare_cached(
            "UPDATE executions SET report = ?2, refusal = ?3 WHERE id = ?1 AND report = ?4",
        )?
        .execute(params![id.as_str(), REFUSED, reason, WAITS])?;
    Ok(Effect {
        refused: changed as u64,
        ..settled(changed)
    })
}

fn settled(reports: usize) -> Effect {
    Effect {
        waiting: -signed(reports),
        ..Effect::default()
    }
}

/// Takes an execution that cannot be read out of the way of all others: it counts as ended, its report as settled, and it
/// is kept for as long as a result that has come in now. `ended`: its number in the order of endings, where it has none.
pub(crate) fn set_aside(
    connection: &Connection,
    unreadable: &Unreadable,
    ended: i64,
    kept_at: i64,
    is_reported: bool,
) -> rusqlite::Result<Effect> {
    let found: Option<(String, i64, bool)> = connection
        .prepare_cached(
            "SELECT id, report, ended IS NULL FROM executions WHERE number = ?1 AND report <> ?2",
        )?
        .query_row(params![unreadable.number, SET_ASIDE], |row| {
            Ok((text(row.get_ref(0)?), row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((id, report, has_not_ended)) = found else {
        return Ok(Effect::default());
    };
    connection
        .prepare_cached(
            "UPDATE executions
             SET report = ?2, refusal = ?3, kept_at = ?4, ended = coalesce(ended, ?5),
                 status = iif(ended IS NULL, ?6, status)
             WHERE number = ?1",
        )?
        .execute(params![
            unreadable.number,
            SET_ASIDE,
            unreadable.why,
            kept_at,
            ended,
            Status::Crashed.as_str(),
        ])?;
    let waited = report == WAITS;
    Ok(Effect {
        waiting: -i64::from(waited),
        set_aside: vec![SetAside {
            number: unreadable.number,
            id,
            why: unreadable.why.clone(),
            was_to_be_reported: waited || (has_not_ended && is_reported),
        }],
        ..Effect::default()
    })
}

/// A column's text, whatever has become of it.
fn text(column: ValueRef<'_>) -> String {
    match column {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        _ => String::new(),
    }
}

/// The result of no execution, for a moment.
const TRIAL: i64 = 0;

/// Writes so many bytes, which [`end_trial`] takes back: in another transaction, or nothing would have been tried.
pub(crate) fn begin_trial(connection: &Connection, bytes: usize) -> rusqlite::Result<Effect> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO results (number, facts, stdout, stderr) VALUES (?1, '', zeroblob(?2), x'')",
        )?
        .execute(params![TRIAL, signed(bytes)])?;
    Ok(Effect::default())
}

pub(crate) fn end_trial(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM results WHERE number = ?1")?
        .execute([TRIAL])?;
    Ok(())
}

/// Removes an execution with all that is kept of it.
pub(crate) fn remove(connection: &Connection, number: i64) -> rusqlite::Result<Effect> {
    let (id, bytes, report): (String, i64, i64) = connection
        .prepare_cached("DELETE FROM executions WHERE number = ?1 RETURNING id, bytes, report")?
        .query_row([number], |row| {
            Ok((text(row.get_ref(0)?), row.get(1)?, row.get(2)?))
        })?;
    connection
        .prepare_cached("DELETE FROM results WHERE number = ?1")?
        .execute([number])?;
    Ok(Effect {
        bytes: -bytes,
        waiting: -i64::from(report == WAITS),
        forgotten: vec![id],
        ..Effect::default()
    })
}

/// An ended execution that may have to go.
pub(crate) struct Candidate {
    pub number: i64,
    /// Its number in the order of endings.
    pub ended: i64,
    pub kept_at: i64,
}

impl Candidate {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            number: row.get(0)?,
            ended: row.get(1)?,
            kept_at: row.get(2)?,
        })
    }
}

/// The execution that ended first of those whose report does not wait, or of those whose report does.
pub(crate) fn oldest(
    connection: &Connection,
    report_waits: bool,
) -> rusqlite::Result<Option<Candidate>> {
    let statement = if report_waits {
        "SELECT number, ended, kept_at FROM executions WHERE report = 1 ORDER BY ended LIMIT 1"
    } else {
        "SELECT number, ended, kept_at FROM executions
         WHERE ended IS NOT NULL AND report <> 1 ORDER BY ended LIMIT 1"
    };
    connection
        .prepare_cached(statement)?
        .query_row([], Candidate::of)
        .optional()
}

/// What large results take (more than 1 MiB each) whose report does not wait.
pub(crate) fn large_bytes(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "SELECT coalesce(sum(bytes), 0) FROM executions
             WHERE ended IS NOT NULL AND report <> 1 AND bytes > 1048576",
        )?
        .query_row([], |row| row.get(0))
}

/// The one of these that ended first.
pub(crate) fn oldest_large(connection: &Connection) -> rusqlite::Result<Option<Candidate>> {
    connection
        .prepare_cached(
            "SELECT number, ended, kept_at FROM executions
             WHERE ended IS NOT NULL AND report <> 1 AND bytes > 1048576 ORDER BY ended LIMIT 1",
        )?
        .query_row([], Candidate::of)
        .optional()
}

/// Counts of what is kept.
pub(crate) struct Totals {
    pub bytes: i64,
    pub waiting: i64,
    /// The last number in the order of endings that was given away.
    pub ended: i64,
}

pub(crate) fn totals(connection: &Connection) -> rusqlite::Result<Totals> {
    connection.query_row(
        "SELECT coalesce(sum(bytes), 0), coalesce(sum(report = 1), 0),
                max(coalesce(max(ended), 0), coalesce((SELECT value FROM notes WHERE name = 'ended'), 0))
         FROM executions",
        [],
        |row| {
            Ok(Totals {
                bytes: row.get(0)?,
                waiting: row.get(1)?,
                ended: row.get(2)?,
            })
        },
    )
}

/// Calls with every id that is kept and can be read: nobody asks for another one.
pub(crate) fn each_id(connection: &Connection, mut each: impl FnMut(&str)) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT id FROM executions")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Ok(id) = row.get_ref(0)?.as_str() {
            each(id);
        }
    }
    Ok(())
}

/// What is remembered of the store's time.
pub(crate) fn remembered(connection: &Connection) -> rusqlite::Result<Option<Remembered>> {
    let note = |name: &str| {
        connection
            .query_row("SELECT value FROM notes WHERE name = ?1", [name], |row| {
                row.get(0)
            })
            .optional()
    };
    let remembered = (note("age")?, note("wall")?);
    Ok(match remembered {
        (Some(age), Some(wall)) => Some(Remembered { age, wall }),
        _ => None,
    })
}

/// Remembers the store's time, and how many executions have ended.
pub(crate) fn remember(
    connection: &Connection,
    time: Remembered,
    ended: i64,
) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("INSERT OR REPLACE INTO notes (name, value) VALUES (?1, ?2)")?;
    for (name, value) in [("age", time.age), ("wall", time.wall), ("ended", ended)] {
        statement.execute(params![name, value])?;
    }
    Ok(())
}

const FIND: &str = "read an execution";
const LIST: &str = "list executions";

const KEPT: &str = "
    SELECT id, session, fingerprint, accepted_at, started_at, completed_at, facts, value, stdout, stderr
    FROM executions LEFT JOIN results USING (number)";

/// What a question has met.
#[derive(Debug)]
pub(crate) struct Met<T> {
    pub found: T,
    /// What it has passed over.
    pub unreadable: Vec<Unreadable>,
}

/// The execution of this id; nothing is found where it is unreadable.
pub(crate) fn find(
    connection: &Connection,
    id: &ExecutionId,
) -> Result<Met<Option<Kept>>, StoreError> {
    let number: Option<i64> = connection
        .prepare_cached("SELECT number FROM executions WHERE id = ?1")
        .and_then(|mut statement| {
            statement
                .query_row([id.as_str()], |row| row.get(0))
                .optional()
        })
        .map_err(|error| Cause::new(error).while_doing(FIND))?;
    let mut met = Met {
        found: None,
        unreadable: Vec::new(),
    };
    if let Some(number) = number {
        let read = sift(kept(connection, number), number, &mut met.unreadable)?;
        met.found = read.flatten().map(|(kept, _bytes)| kept);
    }
    Ok(met)
}

/// The execution of this number, and the bytes of its result. An error is about this one alone.
fn kept(connection: &Connection, number: i64) -> Result<Option<(Kept, usize)>, StoreError> {
    let row = connection
        .prepare_cached(&format!("{KEPT} WHERE number = ?1"))
        .and_then(|mut statement| statement.query_row([number], KeptRow::read).optional())
        .map_err(|error| Cause::new(error).while_doing(FIND))?;
    let Some(row) = row else { return Ok(None) };
    let bytes = row.bytes();
    Ok(Some((row.into_kept()?, bytes)))
}

/// Executions that were accepted and have not ended, oldest first.
pub(crate) fn unfinished(connection: &Connection) -> Result<Met<Vec<Execution>>, StoreError> {
    executions(
        connection,
        "WHERE ended IS NULL ORDER BY number",
        [],
        usize::MAX,
        usize::MAX,
    )
}

/// Ended executions whose reports wait, oldest first, after this one if it is known; at most `limit` of them, and one more
/// than fit into `max_bytes` of output.
pub(crate) fn undelivered(
    connection: &Connection,
    after: Option<&ExecutionId>,
    limit: usize,
    max_bytes: usize,
) -> Result<Met<Vec<Execution>>, StoreError> {
    let after: Option<Option<i64>> = after
        .map(|id| {
            connection
                .prepare_cached("SELECT ended FROM executions WHERE id = ?1")?
                .query_row([id.as_str()], |row| row.get(0))
                .optional()
        })
        .transpose()
        .map_err(|error| Cause::new(error).while_doing(LIST))?
        .flatten();
    executions(
        connection,
        "WHERE report = 1 AND ended > ?1 ORDER BY ended",
        [after.flatten().unwrap_or(0)],
        limit,
        max_bytes,
    )
}

/// Finds them by index first and reads each by itself, so that one that is damaged is in nobody's way.
fn executions(
    connection: &Connection,
    which: &str,
    parameters: impl rusqlite::Params,
    limit: usize,
    max_bytes: usize,
) -> Result<Met<Vec<Execution>>, StoreError> {
    let failed = |error| Cause::new(error).while_doing(LIST);
    let mut statement = connection
        .prepare_cached(&format!("SELECT number FROM executions {which}"))
        .map_err(failed)?;
    let mut numbers = statement.query(parameters).map_err(failed)?;
    let mut met = Met {
        found: Vec::new(),
        unreadable: Vec::new(),
    };
    let mut bytes = 0;
    while met.found.len() < limit && bytes <= max_bytes {
        let Some(row) = numbers.next().map_err(failed)? else {
            break;
        };
        let number = row.get(0).map_err(failed)?;
        let read = sift(kept(connection, number), number, &mut met.unreadable)?;
        if let Some((kept, size)) = read.flatten() {
            bytes += size;
            met.found.push(kept.execution);
        }
    }
    Ok(met)
}

/// A row of [`KEPT`].
struct KeptRow {
    id: String,
    session: String,
    fingerprint: [u8; 32],
    accepted_at: i64,
    started_at: Option<i64>,
    completed_at: Option<i64>,
    result: Option<Columns>,
}

impl KeptRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let facts: Option<String> = row.get(6)?;
        let result = match facts {
            None => None,
            Some(facts) => Some(Columns {
                facts,
                value: row.get(7)?,
                stdout: row.get(8)?,
                stderr: row.get(9)?,
            }),
        };
        Ok(Self {
            id: row.get(0)?,
            session: row.get(1)?,
            fingerprint: row.get(2)?,
            accepted_at: row.get(3)?,
            started_at: row.get(4)?,
            completed_at: row.get(5)?,
            result,
        })
    }

    fn bytes(&self) -> usize {
        self.result.as_ref().map_or(0, |result| {
            let value = result.value.as_ref().map_or(0, String::len);
            result.facts.len() + value + result.stdout.len() + result.stderr.len()
        })
    }

    fn into_kept(self) -> Result<Kept, StoreError> {
        let accepted_at = Timestamp::from_unix_micros(self.accepted_at);
        let mut execution = Execution::accept(id(&self.id)?, session(&self.session)?, accepted_at);
        match (self.completed_at, self.result) {
            (None, None) => {}
            (Some(completed_at), Some(columns)) => {
                let decoded = codec::decode(columns).map_err(damaged)?;
                if let Some(step) = decoded.trace_parent {
                    execution.trace(step);
                }
                if let Some(started_at) = self.started_at {
                    execution
                        .start(Timestamp::from_unix_micros(started_at))
                        .map_err(damaged)?;
                }
                let completed_at = Timestamp::from_unix_micros(completed_at);
                execution
                    .finish(completed_at, decoded.outcome, decoded.artifacts)
                    .map_err(damaged)?;
            }
            _ => return Err(damaged("an execution has half a result")),
        }
        Ok(Kept {
            execution,
            fingerprint: Fingerprint::new(self.fingerprint),
        })
    }
}

fn id(text: &str) -> Result<ExecutionId, StoreError> {
    ExecutionId::parse(text).map_err(damaged)
}

fn session(text: &str) -> Result<SessionId, StoreError> {
    SessionId::parse(text).map_err(damaged)
}

fn damaged(why: impl Into<executor_application::PortError>) -> StoreError {
    StoreError::Damaged(why.into())
}

/// One page. What cannot be read is not on it.
pub(crate) fn list(connection: &Connection, query: &Query) -> Result<Met<Page>, StoreError> {
    let limit = query.limit.max(1);
    // One shape for each kind of question, so that each finds its index.
    let of_session = if query.session.is_some() {
        "session = ?2"
    } else {
        "?2 IS NULL"
    };
    let of_status = match query.status {
        None => "?3 IS NULL",
        Some(Status::Pending) => "ended IS NULL AND ?3 = 'pending'",
        Some(_) => "status = ?3",
    };
    let failed = |error| Cause::new(error).while_doing(LIST);
    let mut statement = connection
        .prepare_cached(&format!(
            "SELECT number, id, session, status, accepted_at, started_at, completed_at FROM executions
             WHERE number < ?1 AND {of_session} AND {of_status} ORDER BY number DESC LIMIT ?4"
        ))
        .map_err(failed)?;
    let mut rows = statement
        .query(params![
            query.before.map_or(i64::MAX, |cursor| {
                i64::try_from(cursor.number()).unwrap_or(i64::MAX)
            }),
            query.session.as_ref().map(SessionId::as_str),
            query.status.map(Status::as_str),
            // One more, to know whether there is one.
            signed(limit.saturating_add(1)),
        ])
        .map_err(failed)?;
    let mut page = Page::default();
    let mut unreadable = Vec::new();
    let mut last = None;
    for met in 0.. {
        let Some(row) = rows.next().map_err(failed)? else {
            break;
        };
        if met == limit {
            page.next = last.map(Cursor::new);
            break;
        }
        let number: i64 = row.get(0).map_err(failed)?;
        last = Some(number.unsigned_abs());
        let summary = SummaryRow::read(row)
            .map_err(failed)
            .and_then(SummaryRow::into_summary);
        page.items.extend(sift(summary, number, &mut unreadable)?);
    }
    Ok(Met {
        found: page,
        unreadable,
    })
}

struct SummaryRow {
    id: String,
    session: String,
    status: String,
    accepted_at: i64,
    started_at: Option<i64>,
    completed_at: Option<i64>,
}

impl SummaryRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(1)?,
            session: row.get(2)?,
            status: row.get(3)?,
            accepted_at: row.get(4)?,
            started_at: row.get(5)?,
            completed_at: row.get(6)?,
        })
    }

    fn into_summary(self) -> Result<Summary, StoreError> {
        let status = Status::ALL
            .into_iter()
            .find(|status| status.as_str() == self.status)
            .ok_or_else(|| damaged("an execution has no status that we know"))?;
        Ok(Summary {
            id: id(&self.id)?,
            session: session(&self.session)?,
            status,
            accepted_at: Timestamp::from_unix_micros(self.accepted_at),
            started_at: self.started_at.map(Timestamp::from_unix_micros),
            completed_at: self.completed_at.map(Timestamp::from_unix_micros),
        })
    }
}
