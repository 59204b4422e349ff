//! The REST interface of Sandbox Executor: routes, wire types, errors, and the server that carries them.
//!
//! [`router`] makes the routes of an [`ApiState`], and [`serve`] offers them on a listener:
//!
//! - what a request is made of is checked here and parsed once into domain types (`request`),
//! - what a client may read of an error stands in one table (`error`),
//! - who may call is decided by an extractor that a handler takes as an argument (`auth`),
//! - how a caller wants to be answered is read in `prefer`, and a run becomes server-sent events in `events`,
//! - what each route takes and answers stands at its handler, and `openapi` makes one document of it,
//! - what every request passes through (id, span, log line, last-resort error handling) is in `middleware`,
//! - what a slow, greedy or vanished peer can cost is bounded in `server` and `stream`.

mod answer;
mod auth;
mod body;
mod error;
mod events;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod middleware;
mod openapi;
mod prefer;
mod problems;
mod request;
mod request_id;
mod response;
mod routes;
mod server;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod trace;

pub use auth::{Access, BearerToken};
pub use openapi::openapi_json;
pub use request::command_of;
pub use response::execution_json;
pub use routes::router;
pub use server::{ServerOptions, serve};
pub use state::{ApiOptions, ApiState};
