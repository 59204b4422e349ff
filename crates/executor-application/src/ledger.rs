//! Which executions are under way, and who has a say in them.
//!
//! An execution id is an idempotency key. Whoever sends the same request twice joins the first run; whoever sends another
//! request under a known id is told so. What has ended is the store's to know.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use executor_domain::{Execution, ExecutionId, SessionId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Fingerprint, execute::RunFailure, transcript::Transcript};

/// How far a run has come, as those who wait for it see it. Nobody sends any more once the run has left the ledger.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// Whether its acceptance is on record.
    pub(crate) recorded: bool,
    /// The execution as it is now.
    pub(crate) execution: Execution,
    /// Why there is no result: we failed, and nothing is kept.
    pub(crate) failure: Option<Arc<RunFailure>>,
}

impl Progress {
    pub(crate) fn is_over(&self) -> bool {
        self.failure.is_some() || self.execution.status().is_final()
    }
}

/// One registration in the ledger. An id that leaves and is registered again gets another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Registration(u64);

/// A run that is under way, for those who look on.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) registration: Registration,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) transcript: Arc<Transcript>,
}

#[derive(Debug)]
struct Entry {
    live: Live,
    fingerprint: Fingerprint,
    cancel: CancellationToken,
    /// Callers who wait for the result.
    waiting: usize,
    /// Whether the run goes on, and its result is kept, whoever waits.
    detached: bool,
    /// Whether somebody has asked for its end.
    cancelled: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It goes its way.
    Going,
    /// Everybody has gone who waited: it is being killed, to be forgotten.
    Abandoned,
    /// It is over, and its result is kept.
    Over,
    /// It is over, and nothing of it is kept.
    Forgotten,
}

#[derive(Debug, Default)]
struct Book {
    entries: HashMap<ExecutionId, Entry>,
    next: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    book: Mutex<Book>,
}

/// What the ledger knows of an id.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// Nothing; it is registered now.
    New(Live),
    /// The same request; its caller waits with the others now.
    Same(Live),
    /// It is about to leave, and the id is free once nobody sends here any more.
    Leaving(watch::Receiver<Progress>),
    /// Another request.
    Different,
}

/// What comes of asking for the end of a run.
#[derive(Debug)]
pub(crate) enum Cancelled {
    /// It ends with a result.
    Ends(Live),
    /// It is about to be forgotten, and is once nobody sends here any more.
    Leaving(watch::Receiver<Progress>),
}

/// What becomes of a run that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remains {
    /// Its result is kept; where we failed, there is none and the id is free again.
    Result,
    /// Its result is kept, also where we failed: its caller has been told that there would be one.
    ResultWhatever,
    /// Nothing.
    Nothing,
}

impl Ledger {
    /// Looks an id up and, where it is unknown, registers what `admit` makes of it, all in one step: of two equal
    /// requests at the same time exactly one is admitted.
    pub(crate) fn join_or_register<E>(
        &self,
        id: &ExecutionId,
        fingerprint: Fingerprint,
        admit: impl FnOnce(Registration) -> Result<(Live, CancellationToken), E>,
    ) -> Result<Lookup, E> {
        let mut book = self.book();
        if let Some(entry) = book.entries.get_mut(id) {
            if matches!(entry.phase, Phase::Abandoned | Phase::Forgotten) {
                return Ok(Lookup::Leaving(entry.live.progress.clone()));
            }
            if entry.fingerprint != fingerprint {
                return Ok(Lookup::Different);
            }
            entry.waiting += 1;
            return Ok(Lookup::Same(entry.live.clone()));
        }
        let (live, cancel) = admit(Registration(book.next))?;
        book.next += 1;
        let entry = Entry {
            live: live.clone(),
            fingerprint,
            cancel,
            waiting: 1,
            detached: false,
            cancelled: false,
            phase: Phase::Going,
        };
        book.entries.insert(id.clone(), entry);
        Ok(Lookup::New(live))
    }

    /// The run of this id, if it is under way.
    pub(crate) fn find(&self, id: &ExecutionId) -> Option<Live> {
        self.book().entries.get(id).map(|entry| entry.live.clone())
    }

    /// From now on the run goes on, and its result is kept, whoever waits.
    pub(crate) fn detach(&self, id: &ExecutionId, registration: Registration) {
        if let Some(entry) = self.book().entry(id, registration) {
            entry.detached = true;
        }
    }

    /// A caller no longer waits. Where it was the last one, and `cancel_abandoned` says so, a run that has not ended is
    /// cancelled, to be forgotten, so that a retry under the same id runs anew.
    pub(crate) fn leave(
        &self,
        id: &ExecutionId,
        registration: Registration,
        cancel_abandoned: bool,
    ) {
        let mut book = self.book();
        let Some(entry) = book.entry(id, registration) else {
            return;
        };
        entry.waiting = entry.waiting.saturating_sub(1);
        let wanted = entry.waiting > 0 || entry.detached || entry.cancelled;
        if cancel_abandoned && !wanted && entry.phase == Phase::Going {
            entry.phase = Phase::Abandoned;
            entry.cancel.cancel();
        }
    }

    /// Somebody asks for the end of a run: it is cancelled, and its result kept, unless it is over already. Where it was
    /// abandoned and is still dying, it is wanted again: who asks is about to be shown a result, and may look for it later.
    pub(crate) fn cancel(&self, id: &ExecutionId) -> Option<Cancelled> {
        let mut book = self.book();
        let entry = book.entries.get_mut(id)?;
        Some(match entry.phase {
            Phase::Forgotten => Cancelled::Leaving(entry.live.progress.clone()),
            Phase::Abandoned => {
                entry.phase = Phase::Going;
                Cancelled::Ends(entry.cancel())
            }
            Phase::Going | Phase::Over => Cancelled::Ends(entry.cancel()),
        })
    }

    /// Whether somebody has asked for the end of a run.
    pub(crate) fn was_cancelled(&self, id: &ExecutionId, registration: Registration) -> bool {
        self.book()
            .entry(id, registration)
            .is_some_and(|entry| entry.cancelled || entry.phase == Phase::Abandoned)
    }

    /// The run is over. From now on it cannot be abandoned.
    pub(crate) fn over(&self, id: &ExecutionId, registration: Registration) -> Remains {
        let mut book = self.book();
        let Some(entry) = book.entry(id, registration) else {
            return Remains::Nothing;
        };
        if matches!(entry.phase, Phase::Abandoned | Phase::Forgotten) {
            entry.phase = Phase::Forgotten;
            return Remains::Nothing;
        }
        entry.phase = Phase::Over;
        if entry.detached {
            Remains::ResultWhatever
        } else {
            Remains::Result
        }
    }

    /// What remains of the run is where it belongs; the ledger has no more to say.
    pub(crate) fn remove(&self, id: &ExecutionId, registration: Registration) {
        let mut book = self.book();
        if book.entry(id, registration).is_some() {
            book.entries.remove(id);
        }
    }

    /// Ends every run of a session. What was abandoned stays so.
    pub(crate) fn cancel_session(&self, session: &SessionId) -> Vec<Live> {
        let mut book = self.book();
        let of_session = book
            .entries
            .values_mut()
            .filter(|entry| entry.live.progress.borrow().execution.session() == session);
        of_session.map(Entry::cancel).collect()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing in here panics half-way through a change.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn cancel(&mut self) -> Live {
        if self.phase == Phase::Going {
            self.cancelled = true;
            self.cancel.cancel();
        }
        self.live.clone()
    }
}

impl Book {
    fn entry(&mut self, id: &ExecutionId, registration: Registration) -> Option<&mut Entry> {
        self.entries
            .get_mut(id)
            .filter(|entry| entry.live.registration == registration)
    }
}

#[cfg(test)]
mod tests {
    use executor_domain::Timestamp;

    use super::*;

    fn id(n: usize) -> ExecutionId {
        ExecutionId::parse(&format!("e{n}")).unwrap()
    }

    struct Registered {
        registration: Registration,
        cancel: CancellationToken,
    }

    /// Registers an id, or says what is known of it.
    fn register(ledger: &Ledger, n: usize, print: u8) -> (Lookup, Option<Registered>) {
        let mut registered = None;
        let lookup = ledger
            .join_or_register::<()>(&id(n), Fingerprint::new([print; 32]), |registration| {
                let session = SessionId::parse("s").unwrap();
                let accepted = Timestamp::from_unix_micros(0);
                let progress = Progress {
                    recorded: false,
                    execution: Execution::accept(id(n), session, accepted),
                    failure: None,
                };
                let cancel = CancellationToken::new();
                registered = Some(Registered {
                    registration,
                    cancel: cancel.clone(),
                });
                let live = Live {
                    registration,
                    progress: watch::channel(progress).1,
                    transcript: Arc::new(Transcript::new(0)),
                };
                Ok((live, cancel))
            })
            .unwrap();
        (lookup, registered)
    }

    #[test]
    fn one_of_two_equal_requests_is_admitted() {
        let ledger = Ledger::default();
        assert!(matches!(register(&ledger, 1, 1).0, Lookup::New(_)));
        assert!(matches!(register(&ledger, 1, 1).0, Lookup::Same(_)));
        assert!(matches!(register(&ledger, 1, 2).0, Lookup::Different));
    }

    #[test]
    fn who_leaves_last_ends_the_run_and_the_id_is_taken_until_it_has_ended() {
        let ledger = Ledger::default();
        let first = register(&ledger, 1, 1).1.unwrap();
        register(&ledger, 1, 1);
        ledger.leave(&id(1), first.registration, true);
        assert!(!first.cancel.is_cancelled(), "somebody still waits");
        ledger.leave(&id(1), first.registration, true);
        assert!(first.cancel.is_cancelled());
        assert!(matches!(register(&ledger, 1, 2).0, Lookup::Leaving(_)));
        assert_eq!(ledger.over(&id(1), first.registration), Remains::Nothing);
        ledger.remove(&id(1), first.registration);
        assert!(matches!(register(&ledger, 1, 2).0, Lookup::New(_)));
    }

    #[test]
    fn who_cancels_an_abandoned_run_finds_its_result_or_nothing() {
        let ledger = Ledger::default();
        let dying = register(&ledger, 1, 1).1.unwrap();
        ledger.leave(&id(1), dying.registration, true);
        assert!(matches!(ledger.cancel(&id(1)), Some(Cancelled::Ends(_))));
        assert!(matches!(register(&ledger, 1, 1).0, Lookup::Same(_)));
        assert!(ledger.was_cancelled(&id(1), dying.registration));
        assert_eq!(ledger.over(&id(1), dying.registration), Remains::Result);

        let gone = register(&ledger, 2, 1).1.unwrap();
        ledger.leave(&id(2), gone.registration, true);
        assert_eq!(ledger.over(&id(2), gone.registration), Remains::Nothing);
        assert!(matches!(ledger.cancel(&id(2)), Some(Cancelled::Leaving(_))));
        assert!(matches!(register(&ledger, 2, 1).0, Lookup::Leaving(_)));
        assert_eq!(ledger.over(&id(2), gone.registration), Remains::Nothing);
        ledger.remove(&id(2), gone.registration);
        assert!(ledger.cancel(&id(2)).is_none());
    }

    #[test]
    fn what_is_detached_or_cancelled_or_over_is_not_abandoned() {
        let ledger = Ledger::default();
        let detached = register(&ledger, 1, 1).1.unwrap();
        ledger.detach(&id(1), detached.registration);
        ledger.leave(&id(1), detached.registration, true);
        assert!(!detached.cancel.is_cancelled());
        assert_eq!(
            ledger.over(&id(1), detached.registration),
            Remains::ResultWhatever
        );

        let cancelled = register(&ledger, 2, 1).1.unwrap();
        assert!(ledger.cancel(&id(2)).is_some() && ledger.cancel(&id(2)).is_some());
        assert!(cancelled.cancel.is_cancelled());
        ledger.leave(&id(2), cancelled.registration, true);
        assert!(ledger.was_cancelled(&id(2), cancelled.registration));
        assert_eq!(ledger.over(&id(2), cancelled.registration), Remains::Result);

        let over = register(&ledger, 3, 1).1.unwrap();
        assert_eq!(ledger.over(&id(3), over.registration), Remains::Result);
        ledger.leave(&id(3), over.registration, true);
        assert!(!over.cancel.is_cancelled());
    }

    #[test]
    fn a_late_word_of_an_earlier_registration_changes_nothing() {
        let ledger = Ledger::default();
        let first = register(&ledger, 1, 1).1.unwrap();
        ledger.remove(&id(1), first.registration);
        let second = register(&ledger, 1, 1).1.unwrap();
        ledger.leave(&id(1), first.registration, true);
        ledger.remove(&id(1), first.registration);
        assert_eq!(ledger.over(&id(1), first.registration), Remains::Nothing);
        assert!(!second.cancel.is_cancelled());
        assert!(matches!(
            register(&ledger, 1, 1).0,
            Lookup::Same(live) if live.registration == second.registration
        ));
    }
}
