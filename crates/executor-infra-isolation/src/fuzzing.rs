//! A door for the fuzz targets of `fuzz/`: what reads a stage's bytes in the daemon. What a guest sends is read by
//! [`GuestFrames`](crate::guest::channel::GuestFrames), which needs no door.
//!
//! It is there with the feature `fuzzing` alone, is no part of the API, and nothing here decides anything.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use crate::{stage::wire, supervisor::read_report};

/// Reads reports as the supervisor does, until one is none. Returns each as it is written again, with its frame.
pub fn reports(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut read = Vec::new();
    loop {
        let report = {
            let report = pin!(read_report(&mut stream));
            report.poll(&mut Context::from_waker(Waker::noop()))
        };
        // Bytes in memory are never waited for.
        let Poll::Ready(Ok(report)) = report else {
            return read;
        };
        read.extend(wire::encode(&report));
    }
}
