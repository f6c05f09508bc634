//! The signed statement that a mirror equals its source.

use reprise_api::{PROOF_FORMAT, VerifyProof, VerifyStatement};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};

use crate::net::BoxKey;

/// What stands before the point in the SubjectPublicKeyInfo of a P-256 key (RFC 5480, section 2).
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why a proof is not made or not taken.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The box's key does not sign.
    #[error("the key of the box cannot sign")]
    Key,
    /// The statement cannot be written as JSON.
    #[error("write the statement")]
    Json(#[from] serde_json::Error),
    /// A release that is not known made it.
    #[error("the proof has the format {found:?}, this version knows {PROOF_FORMAT:?}")]
    Format {
        /// What it says.
        found: String,
    },
    /// Key or signature are no such thing.
    #[error("{what} of the proof is malformed")]
    Malformed {
        /// Which.
        what: &'static str,
    },
    /// Statement, key and signature do not belong together.
    #[error("the signature does not fit the statement: it was changed, or another box signed it")]
    Signature,
}

/// Signs a statement with the box's key.
///
/// # Errors
/// The key does not sign.
pub fn sign(key: &BoxKey, statement: VerifyStatement) -> Result<VerifyProof, ProofError> {
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.key_der(), &random);
    let pair = pair.map_err(|_| ProofError::Key)?;
    let bytes = serde_json::to_vec(&statement)?;
    let signature = pair.sign(&random, &bytes).map_err(|_| ProofError::Key)?;
    let key = hex::encode(pair.public_key().as_ref());
    Ok(VerifyProof { statement, key, signature: hex::encode(signature.as_ref()) })
}

/// Checks a proof; gives the fingerprint of the key that signed it, by which boxes know each other.
///
/// # Errors
/// See [`ProofError`].
pub fn check(proof: &VerifyProof) -> Result<String, ProofError> {
    if proof.statement.format != PROOF_FORMAT {
        return Err(ProofError::Format { found: proof.statement.format.clone() });
    }
    let bytes = |text: &str, what| hex::decode(text).map_err(|_| ProofError::Malformed { what });
    let (key, signature) = (bytes(&proof.key, "the key")?, bytes(&proof.signature, "the signature")?);
    if key.len() != 65 {
        return Err(ProofError::Malformed { what: "the key" });
    }
    let statement = serde_json::to_vec(&proof.statement)?;
    let known = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key);
    known.verify(&statement, &signature).map_err(|_| ProofError::Signature)?;
    Ok(hex::encode(blake3::hash(&[&P256_SPKI[..], &key].concat()).as_bytes()))
}

#[cfg(test)]
mod tests {
    use reprise_types::{BoxId, BranchId, GroupId, Seq};

    use super::*;

    #[test]
    fn a_proof_is_taken_as_it_was_signed_and_not_otherwise() {
        let key = BoxKey::generate().unwrap();
        let statement = VerifyStatement {
            format: PROOF_FORMAT.into(),
            group: GroupId::from_raw([1; 16]),
            group_name: "pg".parse().unwrap(),
            branch: BranchId::from_raw([2; 16]),
            seq: Seq::from_raw(77),
            hash: "ab".repeat(16),
            volumes: Vec::new(),
            digest: "cd".repeat(32),
            source: BoxId::from_raw([3; 16]),
            mirror: BoxId::from_raw([4; 16]),
            at_unix_ms: 5,
        };
        let proof = sign(&key, statement).unwrap();
        assert_eq!(check(&proof).unwrap(), hex::encode(key.fingerprint()));
        let text = serde_json::to_string_pretty(&proof).unwrap();
        assert_eq!(check(&serde_json::from_str(&text).unwrap()).unwrap(), hex::encode(key.fingerprint()));
        let mut other = proof.clone();
        other.statement.seq = Seq::from_raw(78);
        assert!(matches!(check(&other), Err(ProofError::Signature)));
        let mut other = proof.clone();
        other.key = sign(&BoxKey::generate().unwrap(), proof.statement.clone()).unwrap().key;
        assert!(matches!(check(&other), Err(ProofError::Signature)));
        let mut other = proof.clone();
        other.statement.format = "reprise-proof-2".into();
        assert!(matches!(check(&other), Err(ProofError::Format { .. })));
        let mut other = proof;
        other.key.truncate(10);
        assert!(matches!(check(&other), Err(ProofError::Malformed { .. })));
    }
}
