//! Work that is shared out to two threads.

use std::{panic::resume_unwind, thread};

/// What becomes of each item, in their order. From so many items on, another thread does half of them, where one can be
/// had. Two, because a scan is one of many things that a host does at a time.
pub(super) fn in_two<T: Sync, R: Send>(
    items: &[T],
    worth_sharing: usize,
    each: &(impl Fn(&T) -> R + Sync),
) -> Vec<R> {
    let all_of = |items: &[T]| items.iter().map(each).collect::<Vec<R>>();
    if items.len() < worth_sharing {
        return all_of(items);
    }
    let (ours, theirs) = items.split_at(items.len() / 2);
    thread::scope(|scope| {
        let name = "scan".to_owned();
        let other = thread::Builder::new()
            .name(name)
            .spawn_scoped(scope, || all_of(theirs));
        let mut done = all_of(ours);
        match other {
            Ok(other) => done.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic))),
            // No thread is to be had.
            Err(_) => done.extend(all_of(theirs)),
        }
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_stays_and_nothing_is_done_twice() {
        for count in [0, 1, 2, 3, 8, 9, 1000] {
            let items: Vec<usize> = (0..count).collect();
            let done = in_two(&items, 3, &|item| item * 2);
            assert_eq!(done, (0..count).map(|item| item * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn another_thread_takes_part_where_it_is_worth_it() {
        let who = |count: usize| {
            let mut who = in_two(&vec![(); count], 4, &|()| thread::current().id());
            who.dedup();
            who
        };
        assert_eq!(who(3), [thread::current().id()]);
        let two = who(4);
        assert_eq!(two.len(), 2);
        assert_eq!(two[0], thread::current().id());
    }
}
