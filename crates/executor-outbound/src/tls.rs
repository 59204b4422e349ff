//! TLS without C code: rustls on top of Graviola, and the certificates that the host trusts (`docs/adr/0008-tls-without-c.md`).

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;

use crate::OutboundError;

/// Makes connections with TLS, and no others.
pub(crate) type Connector = HttpsConnector<HttpConnector>;

/// TLS on top of what makes connections.
pub(crate) fn over(mut connector: HttpConnector) -> Result<Connector, OutboundError> {
    // Graviola panics where this is missing.
    if !processor_suffices() {
        return Err(OutboundError::Processor { what: NEEDED });
    }
    // The scheme is checked above it.
    connector.enforce_http(false);
    let builder = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls_graviola::default_provider())
        .map_err(OutboundError::Certificates)?;
    Ok(builder
        .https_only()
        .enable_http1()
        .wrap_connector(connector))
}

#[cfg(target_arch = "x86_64")]
const NEEDED: &str =
    "the instructions AES, PCLMULQDQ, BMI1, BMI2, ADX, AVX and AVX2 (any server since 2015)";

#[cfg(target_arch = "x86_64")]
fn processor_suffices() -> bool {
    use std::arch::is_x86_feature_detected as has;

    has!("aes")
        && has!("pclmulqdq")
        && has!("bmi1")
        && has!("bmi2")
        && has!("adx")
        && has!("avx")
        && has!("avx2")
}

#[cfg(target_arch = "aarch64")]
const NEEDED: &str = "the instructions NEON, AES, PMULL and SHA2";

#[cfg(target_arch = "aarch64")]
fn processor_suffices() -> bool {
    use std::arch::is_aarch64_feature_detected as has;

    has!("neon") && has!("aes") && has!("pmull") && has!("sha2")
}
