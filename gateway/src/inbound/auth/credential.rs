//! What a caller shows: `authorization: Bearer …` or `x-api-key: …`.

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};

use super::error::Denied;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The secret that a caller shows, if it shows one.
pub(super) fn shown(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let bearer = single(headers, &AUTHORIZATION)?.map(bearer).transpose()?;
    let key = single(headers, &API_KEY)?.map(text).transpose()?;
    match (bearer, key) {
        (Some(_), Some(_)) => malformed("`authorization` and `x-api-key` are both set; must be one of them"),
        (bearer, key) => Ok(bearer.or(key)),
    }
}

/// Takes the secrets out of a request, so that nothing behind this place can pass them on or write them down.
pub(super) fn take_out(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    headers.remove(API_KEY);
}

/// Two of a kind would let two readers see two callers.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Denied> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (first, None) => Ok(first),
        _ => malformed("a header of theirs is there more than once"),
    }
}

fn bearer(value: &HeaderValue) -> Result<&str, Denied> {
    let rule = "`authorization` must be `Bearer` and one key or token";
    let (scheme, secret) = text(value)?.split_once(' ').ok_or(Denied::Malformed { rule })?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return malformed(rule);
    }
    let secret = secret.trim_start();
    if secret.is_empty() || secret.contains(' ') { malformed(rule) } else { Ok(secret) }
}

fn text(value: &HeaderValue) -> Result<&str, Denied> {
    match value.to_str() {
        Ok(text) if !text.is_empty() => Ok(text),
        _ => malformed("a header of theirs is empty or not ASCII"),
    }
}

fn malformed<T>(rule: &'static str) -> Result<T, Denied> {
    Err(Denied::Malformed { rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_secret_is_shown_in_one_of_two_headers() {
        assert_eq!(shown(&headers(&[])), Ok(None));
        for good in [("authorization", "Bearer s"), ("authorization", "bearer  s"), ("x-api-key", "s")] {
            assert_eq!(shown(&headers(&[good])), Ok(Some("s")), "{good:?}");
        }
    }

    #[test]
    fn what_is_not_one_secret_is_malformed_and_not_repeated() {
        let authorization = |value| [("authorization", value)];
        for bad in ["Basic czpz", "Bearer", "Bearer ", "Bearer top secret", "top-secret", ""] {
            let error = shown(&headers(&authorization(bad))).unwrap_err();
            assert!(matches!(error, Denied::Malformed { .. }), "{bad:?}: {error:?}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert!(shown(&headers(&[("authorization", "Bearer a"), ("x-api-key", "b")])).is_err());
        assert!(shown(&headers(&[("x-api-key", "a"), ("x-api-key", "b")])).is_err());
    }
}
