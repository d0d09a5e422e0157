//! The site's own tokens: a browser that carries one speaks for its user.
//!
//! A token is a JWT (RFC 7519) that the site's server signs for a signed-in visitor: `sub` is the user's id, `aud` this installation's
//! audience, `exp` its end. The algorithm is pinned to the key, never taken from the token (RFC 8725, section 3.1), so a token that
//! is not signed, or signed with a public key as if it were a secret, is refused.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use axum::http::StatusCode;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use selvedge_core::identity::{Identifier, Namespaces};
use serde::Deserialize;

use crate::error::Problem;

/// The header that carries a token.
pub const HEADER: &str = "selvedge-identity";
/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Seconds by which clocks may differ.
const LEEWAY_S: u64 = 60;

/// One of `[[identity.tokens]]`: a key with which the site signs. Several may hold at once, so that they can be changed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSettings {
    /// `HS256` or `EdDSA`.
    algorithm: String,
    /// Whom tokens are for.
    audience: String,
    /// Of HS256: the secret, 32 bytes or more.
    secret: Option<String>,
    /// Of HS256: a file with the secret.
    secret_file: Option<PathBuf>,
    /// Of EdDSA: the public key as PEM.
    public_key: Option<String>,
    /// Of EdDSA: a file with the public key as PEM.
    public_key_file: Option<PathBuf>,
}

/// The keys by which tokens are checked.
#[derive(Default)]
pub struct Tokens(Vec<(DecodingKey, Validation)>);

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl TokenSettings {
    fn key(&self) -> Result<(DecodingKey, Validation)> {
        let read = |given: &Option<String>, file: &Option<PathBuf>, name: &str| match (given, file) {
            (Some(text), None) => Ok(text.clone()),
            (None, Some(path)) => std::fs::read_to_string(path).with_context(|| format!("read {}", path.display())),
            _ => bail!("{} needs either {name} or {name}_file", self.algorithm),
        };
        let unused = |fields: [bool; 2], names: &str| {
            ensure!(!fields.contains(&true), "{} does not use {names}", self.algorithm);
            Ok(())
        };
        let (algorithm, key) = match self.algorithm.as_str() {
            "HS256" => {
                unused([self.public_key.is_some(), self.public_key_file.is_some()], "public_key")?;
                let secret = read(&self.secret, &self.secret_file, "secret")?;
                let secret = secret.trim();
                ensure!(secret.len() >= 32, "the secret has {} bytes; use 32 or more random ones", secret.len());
                ensure!(!secret.contains("-----BEGIN"), "the secret is a key in PEM; that is for EdDSA");
                (Algorithm::HS256, DecodingKey::from_secret(secret.as_bytes()))
            }
            "EdDSA" => {
                unused([self.secret.is_some(), self.secret_file.is_some()], "secret")?;
                let pem = read(&self.public_key, &self.public_key_file, "public_key")?;
                let key =
                    DecodingKey::from_ed_pem(pem.as_bytes()).context("public_key is not an Ed25519 key in PEM")?;
                (Algorithm::EdDSA, key)
            }
            other => bail!("algorithm = {other:?} is not HS256 or EdDSA"),
        };
        ensure!(!self.audience.trim().is_empty(), "audience is empty; name this installation");
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_S;
        Ok((key, validation))
    }
}

impl Tokens {
    /// The keys of the configuration.
    pub fn new(settings: &[TokenSettings]) -> Result<Self> {
        let key = |(index, settings): (usize, &TokenSettings)| {
            settings.key().with_context(|| format!("identity.tokens, number {}", index + 1))
        };
        settings.iter().enumerate().map(key).collect::<Result<_>>().map(Self)
    }

    /// The user for whom a token speaks.
    pub fn user(&self, token: &str, namespaces: &Namespaces) -> Result<Identifier, Problem> {
        let refuse = |code, detail: &str| Problem::new(StatusCode::UNAUTHORIZED, code, detail);
        if self.0.is_empty() {
            return Err(refuse(
                "tokens_not_configured",
                "this edge has no key to check tokens by; configure identity.tokens",
            ));
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(refuse("token_invalid", "the token is longer than 8 KiB"));
        }
        // The error of the key that came closest says the most.
        let mut closest = refuse("token_invalid", "the token is not a JWT that one of this edge's keys signed");
        for (key, validation) in &self.0 {
            let error = match decode::<Claims>(token, key, validation) {
                Ok(claims) => {
                    let user = namespaces.identifier("user", &claims.claims.sub);
                    return user.map_err(|error| refuse("token_invalid", &format!("the token's sub {error}")));
                }
                Err(error) => error,
            };
            closest = match error.kind() {
                ErrorKind::ExpiredSignature => refuse("token_expired", "the token has ended; fetch a new one"),
                ErrorKind::InvalidAudience => refuse("token_audience", "the token is for another audience"),
                ErrorKind::ImmatureSignature => refuse("token_invalid", "the token does not hold yet"),
                ErrorKind::MissingRequiredClaim(claim) => {
                    refuse("token_invalid", &format!("the token has no {claim}; it needs sub, aud and exp"))
                }
                ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName if self.0.len() == 1 => {
                    refuse("token_algorithm", "the token is signed in another way than this edge's key allows")
                }
                _ => closest,
            };
        }
        Err(closest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    // RFC 8410, section 10: the example key, private and public.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    fn settings(algorithm: &str) -> TokenSettings {
        let (secret, public_key) =
            if algorithm == "HS256" { (Some(SECRET.into()), None) } else { (None, Some(PUBLIC.into())) };
        let (algorithm, audience) = (algorithm.into(), "shop".into());
        TokenSettings { algorithm, audience, secret, secret_file: None, public_key, public_key_file: None }
    }

    fn claims() -> Value {
        json!({"sub": "42", "aud": "shop", "exp": jsonwebtoken::get_current_timestamp() + 600})
    }

    fn signed(claims: &Value) -> String {
        encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token")
    }

    fn user(algorithm: &str, token: &str) -> Result<String, &'static str> {
        let tokens = Tokens::new(&[settings(algorithm)]).expect("a key");
        let user = tokens.user(token, &Namespaces::default());
        user.map(|user| user.to_string()).map_err(|problem| problem.code)
    }

    #[test]
    fn a_token_speaks_for_its_user() {
        assert_eq!(user("HS256", &signed(&claims())).as_deref(), Ok("user:42"));
        let key = EncodingKey::from_ed_pem(PRIVATE.as_bytes()).expect("a key");
        let token = encode(&Header::new(Algorithm::EdDSA), &claims(), &key).expect("a token");
        assert_eq!(user("EdDSA", &token).as_deref(), Ok("user:42"));
        // Both keys hold while one replaces the other.
        let both = Tokens::new(&[settings("HS256"), settings("EdDSA")]).expect("keys");
        assert!([token, signed(&claims())].iter().all(|token| both.user(token, &Namespaces::default()).is_ok()));
    }

    #[test]
    fn a_token_that_does_not_hold_is_refused_with_its_cause() {
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            signed(&claims)
        };
        let now = jsonwebtoken::get_current_timestamp();
        assert_eq!(user("HS256", &with("exp", json!(now - 61))), Err("token_expired"));
        assert_eq!(user("HS256", &with("aud", json!("another"))), Err("token_audience"));
        assert_eq!(user("HS256", &with("nbf", json!(now + 600))), Err("token_invalid"));
        assert_eq!(user("HS256", &with("sub", json!("null"))), Err("token_invalid"));
        for claim in ["sub", "aud", "exp"] {
            let mut claims = claims();
            claims.as_object_mut().expect("an object").remove(claim);
            assert!(user("HS256", &signed(&claims)).is_err(), "without {claim}");
        }
        let forged =
            encode(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(b"another")).expect("a token");
        assert_eq!(user("HS256", &forged), Err("token_invalid"));
        assert_eq!(user("HS256", "no.token.atall"), Err("token_invalid"));
        let code = Tokens::default().user(&signed(&claims()), &Namespaces::default()).map_err(|problem| problem.code);
        assert_eq!(code, Err("tokens_not_configured"));
    }

    #[test]
    fn the_algorithm_is_the_keys_and_not_the_tokens() {
        let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let unsigned = format!("{}.{}.", part(json!({"alg": "none", "typ": "JWT"})), part(claims()));
        assert!(user("HS256", &unsigned).is_err() && user("EdDSA", &unsigned).is_err());
        // Signed with the public key as if it were a secret.
        for secret in [PUBLIC.as_bytes(), PUBLIC.trim().as_bytes()] {
            let confused =
                encode(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(secret)).expect("a token");
            assert_eq!(user("EdDSA", &confused), Err("token_algorithm"));
        }
        let other = encode(&Header::new(Algorithm::HS512), &claims(), &EncodingKey::from_secret(SECRET.as_bytes()))
            .expect("a token");
        assert_eq!(user("HS256", &other), Err("token_algorithm"));
    }

    #[test]
    fn a_faulty_key_names_itself() {
        let fault = |settings: TokenSettings| format!("{:#}", Tokens::new(&[settings]).err().expect("a fault"));
        assert!(fault(TokenSettings { secret: Some("short".into()), ..settings("HS256") }).contains("32 or more"));
        assert!(fault(TokenSettings { secret: Some(PUBLIC.into()), ..settings("HS256") }).contains("for EdDSA"));
        assert!(fault(TokenSettings { secret: None, ..settings("HS256") }).contains("secret_file"));
        assert!(
            fault(TokenSettings { secret: Some(SECRET.into()), ..settings("EdDSA") }).contains("does not use secret")
        );
        assert!(fault(TokenSettings { public_key: Some("key".into()), ..settings("EdDSA") }).contains("Ed25519"));
        assert!(fault(TokenSettings { algorithm: "none".into(), ..settings("HS256") }).contains("HS256 or EdDSA"));
        assert!(fault(TokenSettings { audience: " ".into(), ..settings("HS256") }).contains("audience"));
    }
}
