//! The cryptography that signatures need, in Rust: `object_store` brings none by itself.

use hmac::{Hmac, KeyInit, Mac};
use object_store::{
    Error, Result,
    client::{
        CryptoProvider, DigestAlgorithm, DigestContext, HmacContext, Signer, SigningAlgorithm,
    },
};
use sha2::{Digest, Sha256};

/// SHA-256 and its HMAC, which is all that signature version 4 wants.
#[derive(Debug)]
pub(crate) struct Sha2;

impl CryptoProvider for Sha2 {
    fn digest(&self, algorithm: DigestAlgorithm) -> Result<Box<dyn DigestContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => Ok(Box::new(Hash {
                state: Sha256::new(),
                digest: Vec::new(),
            })),
            other => Err(unknown(&other)),
        }
    }

    fn hmac(&self, algorithm: DigestAlgorithm, secret: &[u8]) -> Result<Box<dyn HmacContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => Ok(Box::new(Authentication {
                state: Hmac::new_from_slice(secret).map_err(|error| Error::Generic {
                    store: "S3",
                    source: error.to_string().into(),
                })?,
                code: Vec::new(),
            })),
            other => Err(unknown(&other)),
        }
    }

    fn sign(&self, algorithm: SigningAlgorithm, _pem: &[u8]) -> Result<Box<dyn Signer>> {
        Err(unknown(&algorithm))
    }
}

fn unknown(algorithm: &dyn std::fmt::Debug) -> Error {
    Error::NotSupported {
        source: format!("{algorithm:?} is not built in").into(),
    }
}

struct Hash {
    state: Sha256,
    digest: Vec<u8>,
}

impl DigestContext for Hash {
    fn update(&mut self, data: &[u8]) {
        self.state.update(data);
    }

    fn finish(&mut self) -> Result<&[u8]> {
        self.digest = self.state.finalize_reset().to_vec();
        Ok(&self.digest)
    }
}

struct Authentication {
    state: Hmac<Sha256>,
    code: Vec<u8>,
}

impl HmacContext for Authentication {
    fn update(&mut self, data: &[u8]) {
        self.state.update(data);
    }

    fn finish(&mut self) -> Result<&[u8]> {
        self.code = self.state.clone().finalize().into_bytes().to_vec();
        Ok(&self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes
            .iter()
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    /// FIPS 180-2, B.1, and RFC 4231, test case 2.
    #[test]
    fn digests_and_codes_are_those_of_the_standards() {
        let mut digest = Sha2.digest(DigestAlgorithm::Sha256).unwrap();
        digest.update(b"a");
        digest.update(b"bc");
        assert_eq!(
            hex(digest.finish().unwrap()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let mut code = Sha2.hmac(DigestAlgorithm::Sha256, b"Jefe").unwrap();
        code.update(b"what do ya want ");
        code.update(b"for nothing?");
        assert_eq!(
            hex(code.finish().unwrap()),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert!(Sha2.sign(SigningAlgorithm::RS256, b"").is_err());
    }
}
