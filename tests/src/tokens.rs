//! The tokens of a site, signed as its server would.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::Value;

/// The site's secret.
pub const SECRET: &str = "a-secret-of-the-test-shop-0123456789";

/// The configuration of an edge that takes the site's tokens.
pub fn configuration(audience: &str) -> String {
    format!("[[identity.tokens]]\nalgorithm = \"HS256\"\naudience = \"{audience}\"\nsecret = \"{SECRET}\"\n")
}

/// Signs claims with HS256.
pub fn sign(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// A token that nobody signed.
pub fn unsigned(claims: &Value) -> String {
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    format!("{}.{}.", part(r#"{"alg":"none","typ":"JWT"}"#), part(&claims.to_string()))
}

/// Now, in seconds, as claims have it.
pub fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}
