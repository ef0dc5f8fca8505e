use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::get_current_timestamp;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use serde_json::json;
use weft_runtime::config::parse;

use super::*;

// ring cannot make RSA keys: a public one, and what its forgotten private half signed, valid until 2100.
const RSA_MODULUS: &str = "zhEamaG9iv0LRsqMHdw5KaZCEfwzltWniWASf0DT9GOVFVw6EEj1OkJ3loHQFgqhYPN4M2n6ixqYgOMEwwMyFPZS3kDJSQXZehOadVfRh1k5WOp33tYSTay99-_9gyxq2bau3KRVmDgx15fIqvOpzZG6vtQN40jTvlqkSE9-QS5ed9YjTlahMVlbQZBbOij6SXgLKDKPe1W7ERXKK6TpCL30XZNYjPO2BIYGchPpS8TkGbCRmJJLadv43Rqq5S1AkGSxmf47dgHhnbasUYYHaSjlQyh_S2oOp3pkbvfZqwTFj-bNns1AO8-QRvXXPZbdKdFBbTvzlX6R2tVUXeCexw";
const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoid2VmdCIsInN1YiI6InJvYm90IiwidGVuYW50IjoiYWNtZSIsImV4cCI6NDEwMjQ0NDgwMH0.FZvkBfuDYBF8HkjG6uyAR_DbXq3Y2h0SHcg-j8Qyktnw-ou1O8kqKOPtGt2wNwraVWTHHUSpSgfEGqOS-XHPKJfFprwFLejQbc44fX4q-98xhc2GBq2IO9KxXZ5QluAWAlmhgqvaIhWqVTThUYoJ_AZr_G6Szw2KKiQKLScKczE6dZQBN03yRrDBBV0fGUewOoW40vN7D5noW40GSvB4eKO7Agaj-mFarhl7ggYrN5BdAq8_t5-JoklvLxyk7-XbfjL6XNbbSKlLZYs-ATaS9tTWN9xXxGT8m0mTU0nvyuxIwk8p60ZFVr1ytFWuL2IY5N-5nRe9mpBU-mRgPY_iTQ";
const CONFIG: &str = r#"
    file = "jwks.json"
    issuer = "https://issuer.example"
    audiences = ["weft", "other"]
    models_claim = "models"
    [[scopes]]
    name = "chat"
    methods = ["weft.gateway.v1.GatewayService/Chat"]
    [[scopes]]
    name = "list"
    methods = ["weft.gateway.v1.GatewayService/ListModels"]
"#;

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer with a key of each kind.
struct Issuer {
    random: SystemRandom,
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
}

impl Issuer {
    fn new() -> Self {
        signatures::install();
        let random = SystemRandom::new();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self {
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
            ec: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random).unwrap(),
            random,
        }
    }

    fn key_set(&self) -> KeySet {
        let point = self.ec.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        let text = json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encoded(self.ed.public_key())},
            {"kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "alg": "ES256", "x": encoded(x), "y": encoded(y)},
            {"kty": "RSA", "kid": "rsa", "n": RSA_MODULUS, "e": "AQAB"},
            {"kty": "RSA", "kid": "not for signatures", "use": "enc", "n": RSA_MODULUS, "e": "AQAB"},
        ]});
        KeySet::read(&text.to_string()).unwrap()
    }

    fn ed_token(&self, claims: &Value) -> String {
        self.signed(json!({"alg": "EdDSA", "kid": "ed"}), claims)
    }

    fn signed(&self, header: Value, claims: &Value) -> String {
        let message = message(header, claims);
        format!("{message}.{}", encoded(self.ed.sign(message.as_bytes())))
    }

    fn ec_token(&self, claims: &Value) -> String {
        let message = message(json!({"alg": "ES256", "kid": "ec"}), claims);
        format!("{message}.{}", encoded(self.ec.sign(&self.random, message.as_bytes()).unwrap()))
    }
}

fn message(header: Value, claims: &Value) -> String {
    format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()))
}

fn config() -> JwtConfig {
    parse(CONFIG, &[]).unwrap()
}

fn claims() -> Value {
    let now = get_current_timestamp();
    json!({
        "iss": "https://issuer.example", "aud": ["weft"], "sub": "robot", "tenant": "acme",
        "exp": now + 600, "nbf": now - 600, "scope": "list chat more", "models": ["m", "m:*", "a*b"],
    })
}

/// The claims, changed.
fn but(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn find(issuer: &Issuer, token: &str) -> Result<Identity, Denied> {
    let config = config();
    config.identity(&verified(token, &issuer.key_set(), &config)?)
}

#[test]
fn a_token_says_who_calls_and_what_it_may() {
    let issuer = Issuer::new();
    for token in [issuer.ed_token(&claims()), issuer.ec_token(&claims())] {
        let identity = find(&issuer, &token).unwrap();
        assert_eq!((identity.way(), identity.tenant().name()), (Way::Token, Some("acme")));
        assert!(identity.may_call("weft.gateway.v1.GatewayService/Chat").is_ok());
        assert!(identity.may_call("weft.gateway.v1.GatewayService/Embed").is_err());
        assert!(identity.may_use("m", None).is_ok() && identity.may_use("m", Some("x")).is_ok());
        assert!(identity.may_use("n", None).is_err() && identity.may_use("acb", None).is_err());
    }
    let identity = find(&issuer, RSA_TOKEN).unwrap();
    assert_eq!(identity.tenant().name(), Some("acme"));
    assert!(identity.may_call("weft.gateway.v1.GatewayService/Chat").is_err(), "a token without scopes");
}

#[test]
fn a_token_of_another_time_place_or_issuer_is_not_valid() {
    let (issuer, now) = (Issuer::new(), get_current_timestamp());
    let expired = find(&issuer, &issuer.ed_token(&but(json!({"exp": now - 60}))));
    assert_eq!(expired.unwrap_err(), Denied::Expired);
    // Clocks may be half a minute apart.
    assert!(find(&issuer, &issuer.ed_token(&but(json!({"exp": now - 10})))).is_ok());
    for changes in [
        json!({"nbf": now + 600}),
        json!({"iss": "https://else.example"}),
        json!({"aud": "elsewhere"}),
        json!({"exp": null}),
        json!({"aud": null}),
        json!({"iss": null}),
        json!({"exp": "soon"}),
    ] {
        let denied = find(&issuer, &issuer.ed_token(&but(changes.clone()))).unwrap_err();
        assert_eq!(denied, Denied::Invalid, "{changes}");
    }
    for tenant in [json!(null), json!(""), json!(7)] {
        let denied = find(&issuer, &issuer.ed_token(&but(json!({"tenant": tenant})))).unwrap_err();
        assert_eq!(denied, Denied::Claim { claim: "tenant".to_owned() });
    }
}

#[test]
fn the_key_decides_the_algorithm_and_not_the_token() {
    let issuer = Issuer::new();
    let unsigned = message(json!({"alg": "none", "kid": "ed"}), &claims());
    // What is public as a secret: the oldest trick with tokens.
    let secret = hmac::Key::new(hmac::HMAC_SHA256, issuer.ed.public_key().as_ref());
    let hmac_of = |kid: &str| {
        let message = message(json!({"alg": "HS256", "kid": kid}), &claims());
        format!("{message}.{}", encoded(hmac::sign(&secret, message.as_bytes())))
    };
    let good = issuer.ed_token(&claims());
    let (body, signature) = good.rsplit_once('.').unwrap();
    let (other, changed) =
        (Issuer::new().ed_token(&claims()), issuer.ed_token(&but(json!({"tenant": "zenith"}))));
    let header = |header: Value| {
        format!("{}.{}.{signature}", encoded(header.to_string()), body.split('.').nth(1).unwrap())
    };
    for token in [
        format!("{unsigned}."),
        format!("{unsigned}.{signature}"),
        hmac_of("ed"),
        hmac_of("rsa"),
        other,
        format!("{body}."),
        format!("{body}.{}", encoded([0; 64])),
        format!("{}.{signature}", changed.rsplit_once('.').unwrap().0),
        header(json!({"alg": "EdDSA", "kid": "ec"})),
        header(json!({"alg": "RS256", "kid": "rsa"})),
        header(json!({"alg": "EdDSA", "kid": "unknown"})),
        header(json!({"alg": "EdDSA"})),
        issuer.signed(json!({"alg": "EdDSA", "kid": "ed", "crit": ["b64"], "b64": true}), &claims()),
        header(json!({"alg": "EdDSA", "kid": "not for signatures"})),
        "..".to_owned(),
        "a.b.c".to_owned(),
    ] {
        assert_eq!(find(&issuer, &token).err(), Some(Denied::Invalid), "{token}");
    }
    assert!(find(&issuer, &good).is_ok());
}

#[test]
fn a_key_set_holds_public_keys_of_ours_each_once() {
    let ed = json!({"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": encoded([1; 32])});
    let error = |keys: Value| KeySet::read(&json!({ "keys": keys }).to_string()).unwrap_err().to_string();
    assert!(error(json!([])).contains("no key for"));
    assert!(error(json!([ed, ed])).contains("\"a\") more than once"));
    assert!(error(json!([ed, {"kty": "oct", "kid": "s", "k": "c2VjcmV0"}])).contains("shared secret"));
    assert!(
        error(json!([{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "!"}])).contains("cannot be read")
    );
    assert!(error(json!([{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "AQ"}])).contains("of 1 bytes"));
    assert!(
        error(json!([{"kty": "RSA", "kid": "a", "n": encoded([255; 128]), "e": "AQAB"}]))
            .contains("of 128 bytes")
    );
    let unknown = json!({"kty": "AKP", "alg": "ML-DSA-44", "kid": "new", "pub": "AA"});
    assert!(
        KeySet::read(&json!({"keys": [unknown, ed]}).to_string()).is_ok(),
        "a key of tomorrow beside ours"
    );
    assert!(KeySet::read("[]").is_err());
    let lonely = KeySet::read(&json!({"keys": [ed]}).to_string()).unwrap();
    assert!(lonely.find(None).is_some() && lonely.find(Some("b")).is_none());
}

#[test]
fn everything_that_is_wrong_with_the_section_is_said_at_once() {
    let text = "audiences = []\nleeway = \"1h\"\n[[scopes]]\nmethods = [\"a*b\"]\n\
                [[scopes]]\nname = \"s\"\n[[scopes]]\nname = \"s\"";
    let report = parse::<JwtConfig>(text, &[]).unwrap_err().to_string();
    for line in
        ["file", "issuer", "audiences", "leeway", "scopes.0.name", "scopes.0.methods", "each name once"]
    {
        assert!(report.contains(line), "{line} is not in\n{report}");
    }
}
