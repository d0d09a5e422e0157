//! The admin page: one document with nothing from elsewhere, for whoever wants to see what is decided and why.
//!
//! It holds no data. It asks the listener that serves it, with the key that is typed into it where one is wanted, so the page itself is open to whoever reaches the listener.
//! What a browser may do in it is bound by a policy that names its one script and its one style by their hashes.

use std::sync::LazyLock;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{Html, IntoResponse, Redirect};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

const PAGE: &str = include_str!("console/page.html");
const STYLE: &str = include_str!("console/page.css");
const SCRIPT: &str = include_str!("console/page.js");

/// The document, and the policy that it is served with.
static SERVED: LazyLock<(String, HeaderValue)> = LazyLock::new(|| {
    let document = PAGE.replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT);
    let policy = policy(STYLE, SCRIPT);
    // Directives and Base64 are visible ASCII; a header that is none would forbid everything, which is the safe side.
    (document, HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'")))
});

/// The page's routes, at any listener that has what it asks for.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let to_page = || async { Redirect::to("/admin/") };
    Router::new().route("/", get(to_page)).route("/admin", get(to_page)).route("/admin/", get(page))
}

async fn page() -> impl IntoResponse {
    let (document, policy) = &*SERVED;
    let of = HeaderValue::from_static;
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy.clone()),
        (header::CACHE_CONTROL, of("no-cache")),
        (header::REFERRER_POLICY, of("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, of("nosniff")),
        (HeaderName::from_static("cross-origin-opener-policy"), of("same-origin")),
        (HeaderName::from_static("cross-origin-resource-policy"), of("same-origin")),
    ];
    (headers, Html(document.as_str()))
}

fn policy(style: &str, script: &str) -> String {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        hash(script),
        hash(style)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_all_there_is_and_its_policy_names_its_parts() {
        let (document, policy) = &*SERVED;
        let policy = policy.to_str().expect("visible ASCII");
        for (tag, text) in [("style", STYLE), ("script", SCRIPT)] {
            let (_, rest) = document.split_once(&format!("<{tag}>")).expect("the tag");
            let (inner, _) = rest.split_once(&format!("</{tag}>")).expect("its end");
            assert_eq!(inner, text, "the browser hashes what stands between the tags");
            assert!(policy.contains(&format!("'sha256-{}'", STANDARD.encode(Sha256::digest(inner)))));
        }
        assert!(!policy.contains("unsafe"));
        for elsewhere in ["src=", "url(", "@import", "innerHTML", "insertAdjacentHTML", "eval("] {
            assert!(!document.contains(elsewhere), "{elsewhere}");
        }
    }
}
