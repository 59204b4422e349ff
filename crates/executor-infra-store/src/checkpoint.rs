//! The thread that brings the log back into the database. That waits for the disk twice (`fsync`), which no write should.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use rusqlite::Connection;

use crate::writer::pragma;

/// How much log there may be before it is brought back, roughly, in bytes. What a power loss may take (docs/adr/0006).
const LOG_BYTES: usize = 4 << 20;

/// What a write adds to the log beside its own bytes: the pages of its row and of the indexes, each in whole. An acceptance
/// and its result were seen to take nine.
const BYTES_OF_A_WRITE: usize = 5 * 4096;

/// Brings the log back from time to time, beside the writer.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    /// Bytes of log since the last time.
    log: usize,
    nudge: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Checkpoints {
    /// Starts the thread. The connection is its own.
    pub(crate) fn start(connection: Connection) -> io::Result<Self> {
        let (nudge, nudged) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn(move || bring_back(&connection, &nudged))?;
        Ok(Self {
            log: 0,
            nudge,
            thread,
        })
    }

    /// The writer has committed so many writes with so many bytes.
    pub(crate) fn wrote(&mut self, writes: usize, bytes: usize) {
        self.log += writes * BYTES_OF_A_WRITE + bytes;
        if self.log >= LOG_BYTES {
            self.log = 0;
            // Full: it is about to, and takes what was written until then along.
            let _ = self.nudge.try_send(());
        }
    }

    /// Ends the thread, and with it its connection, once what was asked for is done. Blocks.
    pub(crate) fn end(self) {
        drop(self.nudge);
        // A panic in there is on record, and nothing depends on it.
        let _ = self.thread.join();
    }
}

/// `PASSIVE` waits for nobody, and nobody waits for it: what is written meanwhile comes back the next time.
fn bring_back(connection: &Connection, nudged: &Receiver<()>) {
    // SQLite opens the log when it first reads: now, while there are descriptors to be had. If it fails, so will the rest.
    let _ = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    while nudged.recv().is_ok() {
        if let Err(error) = pragma(connection, "wal_checkpoint(PASSIVE)") {
            // The writer does it itself before the log gets out of hand.
            tracing::warn!(%error, "the store's log was not brought back");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::open;

    /// How many notes there are in the database file alone, without its log.
    fn without_log(directory: &Path) -> i64 {
        let copy = tempfile::tempdir().unwrap();
        let path = copy.path().join("copy.db");
        fs::copy(directory.join("executions.db"), &path).unwrap();
        let copy = Connection::open(path).unwrap();
        copy.query_row("SELECT count(*) FROM notes", [], |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn the_log_comes_back_once_there_is_enough_of_it() {
        for (bytes, expected) in [(LOG_BYTES - BYTES_OF_A_WRITE - 1, 0), (LOG_BYTES, 1)] {
            let directory = tempfile::tempdir().unwrap();
            let opened = open::in_directory(directory.path()).unwrap();
            // The tables themselves are in the log as well.
            pragma(&opened.writer, "wal_checkpoint(TRUNCATE)").unwrap();
            opened
                .writer
                .execute("INSERT INTO notes VALUES ('a', 1)", [])
                .unwrap();
            let mut checkpoints = Checkpoints::start(opened.checkpointer.unwrap()).unwrap();
            checkpoints.wrote(1, bytes);
            checkpoints.end();
            assert_eq!(without_log(directory.path()), expected, "{bytes} bytes");
        }
    }
}
