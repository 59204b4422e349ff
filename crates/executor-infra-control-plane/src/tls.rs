//! TLS without C code: rustls on top of Graviola, and the certificates that the host trusts (`docs/adr/0008-tls-without-c.md`).

use crate::OptionsError;

/// Makes TLS available to clients that are made from here on. Where the process has chosen another provider before, that
/// one stays.
pub(crate) fn prepare() -> Result<(), OptionsError> {
    // Graviola panics where this is missing.
    if !processor_suffices() {
        return Err(OptionsError::Processor { what: NEEDED });
    }
    let _ = rustls_graviola::default_provider().install_default();
    Ok(())
}

#[cfg(target_arch = "x86_64")]
const NEEDED: &str = "the instructions AES, PCLMULQDQ, BMI1, BMI2, ADX, AVX and AVX2 (any server since 2015)";

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
