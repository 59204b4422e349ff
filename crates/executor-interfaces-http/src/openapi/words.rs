//! Words of the domain as schemas. Their spelling is the domain's own.

use executor_domain::{ArtifactKind, Language, LimitHit, Reason, Start, Status};
use utoipa::openapi::{
    ArrayBuilder, Object, ObjectBuilder,
    schema::{Array, SchemaType, Type},
};

fn one_of(meaning: &str, words: impl IntoIterator<Item = &'static str>) -> Object {
    ObjectBuilder::new()
        .description(Some(meaning))
        .schema_type(SchemaType::new(Type::String))
        .enum_values(Some(words))
        .build()
}

pub(crate) fn status() -> Object {
    one_of(
        "Where the execution is in its life",
        [
            Status::Pending,
            Status::Running,
            Status::Completed,
            Status::Failed,
            Status::Timeout,
            Status::Crashed,
            Status::Cancelled,
        ]
        .map(Status::as_str),
    )
}

pub(crate) fn reason() -> Object {
    one_of(
        "Why, for programs",
        [
            Reason::HandlerError,
            Reason::HandlerNotFound,
            Reason::SyntaxError,
            Reason::NotSerializable,
            Reason::ResultTooLarge,
            Reason::ExitCode,
            Reason::Signal,
            Reason::WallTime,
            Reason::CpuTime,
            Reason::Memory,
            Reason::Output,
            Reason::WorkspaceQuota,
            Reason::Cancelled,
            Reason::ExecutorLost,
        ]
        .map(Reason::as_str),
    )
}

pub(crate) fn start() -> Object {
    one_of(
        "How its sandbox was started",
        [Start::Warm, Start::Forked, Start::Cold].map(Start::as_str),
    )
}

pub(crate) fn limits_hit() -> Array {
    let limits = [
        LimitHit::Memory,
        LimitHit::Processes,
        LimitHit::CpuTime,
        LimitHit::WallTime,
        LimitHit::Output,
        LimitHit::ResultSize,
        LimitHit::Workspace,
    ];
    ArrayBuilder::new()
        .description(Some(
            "Limits that it ran into, whether or not they ended it",
        ))
        .items(one_of("A limit", limits.map(LimitHit::as_str)))
        .build()
}

pub(crate) fn artifact_kind() -> Object {
    one_of(
        "`log` for `*.log`, `output` below `output/` or `outputs/`",
        [
            ArtifactKind::Artifact,
            ArtifactKind::Log,
            ArtifactKind::Output,
        ]
        .map(ArtifactKind::as_str),
    )
}

pub(crate) fn language() -> Object {
    one_of("The language", Language::ALL.map(Language::as_str))
}
