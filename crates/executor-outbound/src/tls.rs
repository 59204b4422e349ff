//! TLS without C code: rustls on top of Graviola, and the certificates that the host trusts (`docs/adr/0008-tls-without-c.md`).

use std::{io, sync::Arc};

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};

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
    let config = trusted()
        .and_then(trusting)
        .map_err(OutboundError::Certificates)?;
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_http1()
        .wrap_connector(connector))
}

/// A client that believes in whom these authorities vouch for.
fn trusting(authorities: Vec<CertificateDer<'static>>) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // A host's list may have some that nobody can use any more.
    let (usable, _) = roots.add_parsable_certificates(authorities);
    if usable == 0 {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "there is no certificate of an authority",
        ));
    }
    let provider = Arc::new(rustls_graviola::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// The authorities that this host trusts, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
#[cfg(not(target_os = "macos"))]
fn trusted() -> io::Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    match found.errors.into_iter().next() {
        Some(error) if found.certs.is_empty() => Err(io::Error::other(error)),
        _ => Ok(found.certs),
    }
}

/// The authorities that macOS comes with, or those that `SSL_CERT_FILE` names. Whoever asks the keychain links Apple's
/// frameworks, which only a Mac has (`docs/adr/0029-certificates-on-macos.md`).
#[cfg(target_os = "macos")]
fn trusted() -> io::Result<Vec<CertificateDer<'static>>> {
    let file = std::env::var_os("SSL_CERT_FILE").unwrap_or_else(|| "/etc/ssl/cert.pem".into());
    bundle(file.as_ref())
}

/// All certificates of a file of PEM. Fails where one is damaged.
#[cfg(any(target_os = "macos", test))]
fn bundle(file: &std::path::Path) -> io::Result<Vec<CertificateDer<'static>>> {
    use rustls::pki_types::pem::PemObject as _;

    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| io::Error::other(format!("{}: {error}", file.display())))
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_of_certificates_is_read_whole_or_not_at_all() {
        // The suites' authority, twice.
        let authority = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/fixtures/tls/authority.pem"
        );
        let authority = fs::read_to_string(authority).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("authorities.pem");
        fs::write(&file, format!("words\n{authority}more words\n{authority}")).unwrap();
        let whole = bundle(&file).unwrap();
        assert_eq!(whole.len(), 2);
        trusting(whole).unwrap();

        fs::write(&file, format!("{authority}{}", authority.replace('M', "!"))).unwrap();
        let damaged = bundle(&file).unwrap_err().to_string();
        assert!(damaged.contains(file.to_str().unwrap()), "{damaged}");
        fs::write(&file, "").unwrap();
        trusting(bundle(&file).unwrap()).unwrap_err();
        fs::remove_file(&file).unwrap();
        bundle(&file).unwrap_err();
    }
}
