//! Tokens that must be accepted, and the many that must not.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::*;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const OTHER_SECRET: &[u8] = b"another secret of thirty-two bytes";
const RSA_PUBLIC: &[u8] = include_bytes!("../../../tests/keys/rsa_public.pem");
const RSA_PRIVATE: &[u8] = include_bytes!("../../../tests/keys/rsa_private.pem");
const RSA_OTHER_PRIVATE: &[u8] = include_bytes!("../../../tests/keys/rsa_other_private.pem");
const RSA_1024_PUBLIC: &[u8] = include_bytes!("../../../tests/keys/rsa_1024_public.pem");
const ED_PUBLIC: &[u8] = include_bytes!("../../../tests/keys/ed25519_public.pem");
const ED_PRIVATE: &[u8] = include_bytes!("../../../tests/keys/ed25519_private.pem");
const ED_OTHER_PRIVATE: &[u8] = include_bytes!("../../../tests/keys/ed25519_other_private.pem");

/// The tests' wall clock.
const NOW_S: u64 = 1_800_000_000;
const NOW_MS: u64 = NOW_S * 1_000;

fn hs256() -> Signer {
    Signer::from_secret(SECRET).unwrap()
}

fn verifier() -> Verifier {
    Verifier::new(VerifierOptions { hs256_secret: Some(SECRET), leeway_s: 30, ..Default::default() }).unwrap()
}

/// What the verifier says of claims that are properly signed.
fn judged(claims: Value) -> Result<Claims, TokenRefused> {
    verifier().verify(&hs256().sign_any(&claims).unwrap(), NOW_MS)
}

fn alice() -> Grant {
    Grant { client_id: "alice".into(), expires_at_s: NOW_S + 60, ..Default::default() }
}

#[test]
fn a_good_token_says_who_and_what() {
    let grant = Grant {
        device_class: Some("phone".into()),
        join: vec!["room/*".into()],
        write: vec!["room/7".into()],
        watch: vec!["team-*".into()],
        issued_at_s: Some(NOW_S),
        not_before_s: Some(NOW_S),
        ..alice()
    };
    let claims = verifier().verify(&hs256().sign(&grant).unwrap(), NOW_MS).unwrap();
    assert_eq!(claims.client_id, "alice");
    assert_eq!(claims.device_class.as_deref(), Some("phone"));
    assert_eq!(claims.expires_at_ms, NOW_MS + 60_000);
    assert!(claims.join.allows("room/8") && !claims.join.allows("lobby"));
    assert!(claims.write.allows("room/7") && !claims.write.allows("room/8"));
    assert!(claims.watch.allows("team-bob") && !claims.watch.allows("bob"));
}

#[test]
fn absent_claims_give_no_rights() {
    let claims = judged(json!({ "sub": "alice", "exp": NOW_S + 1 })).unwrap();
    assert_eq!(claims.device_class, None);
    assert_eq!([claims.join, claims.write, claims.watch], [(); 3].map(|()| NameRights::none()));
}

#[test]
fn all_three_algorithms_work_side_by_side() {
    let options = VerifierOptions {
        hs256_secret: Some(SECRET),
        rs256_public_pem: Some(RSA_PUBLIC),
        eddsa_public_pem: Some(ED_PUBLIC),
        ..Default::default()
    };
    let verifier = Verifier::new(options).unwrap();
    for signer in [hs256(), Signer::from_private_pem(RSA_PRIVATE).unwrap(), Signer::from_private_pem(ED_PRIVATE).unwrap()] {
        let token = signer.sign(&alice()).unwrap();
        assert_eq!(verifier.verify(&token, NOW_MS).unwrap().client_id, "alice", "{signer:?}");
    }
    let forgers = [
        Signer::from_secret(OTHER_SECRET).unwrap(),
        Signer::from_private_pem(RSA_OTHER_PRIVATE).unwrap(),
        Signer::from_private_pem(ED_OTHER_PRIVATE).unwrap(),
    ];
    for forger in forgers {
        let token = forger.sign(&alice()).unwrap();
        assert_eq!(verifier.verify(&token, NOW_MS), Err(TokenRefused::Signature), "{forger:?}");
    }
}

#[test]
fn a_public_key_is_no_hs256_secret() {
    for pem in [RSA_PUBLIC, ED_PUBLIC] {
        let token = Signer::from_secret(pem).unwrap().sign(&alice()).unwrap();
        let keys =
            VerifierOptions { rs256_public_pem: Some(RSA_PUBLIC), eddsa_public_pem: Some(ED_PUBLIC), ..Default::default() };
        let without_hs256 = Verifier::new(keys).unwrap();
        assert_eq!(without_hs256.verify(&token, NOW_MS), Err(TokenRefused::Algorithm { seen: "HS256" }));
        let with_hs256 = Verifier::new(VerifierOptions { hs256_secret: Some(SECRET), ..keys }).unwrap();
        assert_eq!(with_hs256.verify(&token, NOW_MS), Err(TokenRefused::Signature));
    }
}

#[test]
fn only_configured_algorithms_count() {
    let token = Signer::from_private_pem(ED_PRIVATE).unwrap().sign(&alice()).unwrap();
    assert_eq!(verifier().verify(&token, NOW_MS), Err(TokenRefused::Algorithm { seen: "EdDSA" }));
    // The same secret, another hash: still not what was configured.
    let hs512 = Signer { algorithm: Algorithm::HS512, ..hs256() };
    assert_eq!(verifier().verify(&hs512.sign(&alice()).unwrap(), NOW_MS), Err(TokenRefused::Algorithm { seen: "HS512" }));
    // The same RSA key, another padding.
    let ps256 = Signer { algorithm: Algorithm::PS256, ..Signer::from_private_pem(RSA_PRIVATE).unwrap() };
    let rsa = Verifier::new(VerifierOptions { rs256_public_pem: Some(RSA_PUBLIC), ..Default::default() }).unwrap();
    assert_eq!(rsa.verify(&ps256.sign(&alice()).unwrap(), NOW_MS), Err(TokenRefused::Algorithm { seen: "PS256" }));
}

#[test]
fn none_is_no_algorithm() {
    let token = hs256().sign(&alice()).unwrap();
    let claims = token.split('.').nth(1).unwrap();
    // {"alg":"none"}, {"alg":"None"}, {"alg":"none","typ":"JWT"}
    for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJOb25lIn0", "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"] {
        for signature in ["", "AAAA"] {
            let forged = format!("{header}.{claims}.{signature}");
            assert_eq!(verifier().verify(&forged, NOW_MS), Err(TokenRefused::Malformed), "{forged}");
        }
    }
}

#[test]
fn another_ones_claims_do_not_fit_the_signature() {
    let token = hs256().sign(&alice()).unwrap();
    let root = hs256().sign(&Grant { client_id: "root".into(), ..alice() }).unwrap();
    let (head, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{}.{signature}", root.rsplit_once('.').unwrap().0);
    assert_eq!(verifier().verify(&forged, NOW_MS), Err(TokenRefused::Signature));
    assert_eq!(verifier().verify(&format!("{head}."), NOW_MS), Err(TokenRefused::Signature));
}

#[test]
fn a_critical_extension_is_refused() {
    let mut header = jsonwebtoken::Header::new(Algorithm::HS256);
    header.crit = Some(vec!["exp".into()]);
    let token = jsonwebtoken::encode(&header, &alice(), &jsonwebtoken::EncodingKey::from_secret(SECRET)).unwrap();
    assert_eq!(verifier().verify(&token, NOW_MS), Err(TokenRefused::CriticalHeader));
}

#[test]
fn exp_and_nbf_count_with_leeway() {
    let leeway_s = 30;
    let token = hs256().sign(&Grant { expires_at_s: NOW_S, not_before_s: Some(NOW_S - 100), ..alice() }).unwrap();
    assert!(verifier().verify(&token, NOW_MS + leeway_s * 1_000 - 1).is_ok());
    let late = verifier().verify(&token, NOW_MS + leeway_s * 1_000).unwrap_err();
    assert_eq!(late, TokenRefused::Expired { ago_ms: 30_000 });
    assert_eq!(late.code(), ErrorCode::TokenExpired);
    assert!(verifier().verify(&token, NOW_MS - (100 + leeway_s) * 1_000).is_ok());
    let early = verifier().verify(&token, NOW_MS - (100 + leeway_s) * 1_000 - 1).unwrap_err();
    assert_eq!(early, TokenRefused::NotYetValid { ahead_ms: 30_001 });
    assert_eq!(early.code(), ErrorCode::TokenExpired);
}

#[test]
fn claims_that_are_needed_are_missed() {
    assert_eq!(judged(json!({ "sub": "alice" })), Err(TokenRefused::ClaimMissing { claim: "exp" }));
    assert_eq!(judged(json!({ "sub": "alice", "exp": null })), Err(TokenRefused::ClaimMissing { claim: "exp" }));
    assert_eq!(judged(json!({ "exp": NOW_S + 1 })), Err(TokenRefused::ClaimMissing { claim: "sub" }));
}

#[test]
fn odd_numbers_neither_wrap_nor_panic() {
    let exp = |exp: Value| judged(json!({ "sub": "alice", "exp": exp }));
    for huge in [json!(u64::MAX), json!(i64::MAX), json!(1e300), json!(f64::MAX)] {
        assert_eq!(exp(huge.clone()).unwrap().expires_at_ms, TOKEN_EXPIRY_MS_MAX, "{huge}");
    }
    for past in [json!(-1), json!(0), json!(i64::MIN), json!(-1e300), json!(0.5)] {
        assert!(matches!(exp(past.clone()), Err(TokenRefused::Expired { .. })), "{past}");
    }
    assert_eq!(exp(json!(NOW_S as f64 + 1.5)).unwrap().expires_at_ms, NOW_MS + 1_500);
    for odd in [json!("1800000001"), json!([NOW_S]), json!({}), json!(true)] {
        assert!(matches!(exp(odd.clone()), Err(TokenRefused::ClaimInvalid { .. })), "{odd}");
    }
    let nbf = |nbf: Value| judged(json!({ "sub": "alice", "exp": NOW_S + 1, "nbf": nbf }));
    assert!(nbf(json!(i64::MIN)).is_ok());
    assert!(matches!(nbf(json!(u64::MAX)), Err(TokenRefused::NotYetValid { .. })));
    // The ends of the clock's own range.
    let token = hs256().sign(&alice()).unwrap();
    assert!(verifier().verify(&token, 0).is_ok());
    assert!(matches!(verifier().verify(&token, u64::MAX), Err(TokenRefused::Expired { .. })));
}

#[test]
fn names_and_patterns_are_checked() {
    let long = "n".repeat(NAME_BYTES_MAX + 1);
    for sub in ["", "a\nb", &long] {
        let refused = judged(json!({ "sub": sub, "exp": NOW_S + 1 })).unwrap_err();
        assert!(matches!(refused, TokenRefused::ClaimInvalid { claim: "sub", .. }), "{refused}");
        let refused = judged(json!({ "sub": "alice", "device_class": sub, "exp": NOW_S + 1 })).unwrap_err();
        assert!(matches!(refused, TokenRefused::ClaimInvalid { claim: "device_class", .. }), "{refused}");
    }
    for claim in ["join", "write", "watch"] {
        let refused = judged(json!({ "sub": "alice", "exp": NOW_S + 1, claim: ["a*b"] })).unwrap_err();
        assert!(matches!(&refused, TokenRefused::ClaimInvalid { claim: seen, .. } if *seen == claim), "{refused}");
        assert!(matches!(
            judged(json!({ "sub": "alice", "exp": NOW_S + 1, claim: "room/*" })),
            Err(TokenRefused::ClaimInvalid { .. })
        ));
    }
}

#[test]
fn the_audience_counts_when_one_is_configured() {
    let audiences = ["weir".to_owned(), "chat".to_owned()];
    let strict =
        Verifier::new(VerifierOptions { hs256_secret: Some(SECRET), audiences: &audiences, ..Default::default() }).unwrap();
    let judged = |aud: Value| {
        let token = hs256().sign_any(&json!({ "sub": "alice", "exp": NOW_S + 1, "aud": aud })).unwrap();
        strict.verify(&token, NOW_MS)
    };
    assert!(judged(json!("chat")).is_ok());
    assert!(judged(json!(["mail", "weir"])).is_ok());
    for wrong in [json!("mail"), json!(["mail"]), json!([]), json!("")] {
        assert_eq!(judged(wrong.clone()), Err(TokenRefused::Audience), "{wrong}");
    }
    assert_eq!(judged(Value::Null), Err(TokenRefused::ClaimMissing { claim: "aud" }));
    assert!(matches!(judged(json!(7)), Err(TokenRefused::ClaimInvalid { .. })));
    // Not configured: whatever it says.
    let token = hs256().sign(&Grant { audience: vec!["mail".into()], ..alice() }).unwrap();
    assert!(verifier().verify(&token, NOW_MS).is_ok());
}

#[test]
fn garbage_is_no_token() {
    assert_eq!(verifier().verify("", NOW_MS), Err(TokenRefused::Missing));
    let longest = "a".repeat(LOGIN_BODY_BYTES_MAX as usize);
    for garbage in ["a", ".", "..", "...", "a.b.c", "a.b.c.d", "é.é.é", "\0\0.\0.\0", "eyJhbGciOiJIUzI1NiJ9.e30", &longest] {
        assert_eq!(verifier().verify(garbage, NOW_MS), Err(TokenRefused::Malformed), "{garbage:?}");
    }
    let too_long = "a".repeat(LOGIN_BODY_BYTES_MAX as usize + 1);
    assert_eq!(verifier().verify(&too_long, NOW_MS), Err(TokenRefused::TooLong { bytes: too_long.len() }));
    // Signed, and yet not an object.
    for claims in [json!([]), json!("x"), json!(1), Value::Null] {
        let token = hs256().sign_any(&claims).unwrap();
        assert!(verifier().verify(&token, NOW_MS).is_err(), "{claims}");
    }
}

proptest::proptest! {
    #[test]
    fn no_byte_of_a_token_can_be_changed(position in 0..1_000_usize, byte in proptest::char::range(' ', '~')) {
        let token = hs256().sign(&alice()).unwrap();
        let mut bytes = token.clone().into_bytes();
        let position = position % bytes.len();
        bytes[position] = byte as u8;
        let changed = String::from_utf8(bytes).unwrap();
        let verdict = verifier().verify(&changed, NOW_MS);
        proptest::prop_assert_eq!(verdict.is_ok(), changed == token, "{}", changed);
    }

    #[test]
    fn any_text_gets_an_answer(text in "\\PC*") {
        proptest::prop_assert!(verifier().verify(&text, NOW_MS).is_err());
    }
}

#[test]
fn unusable_keys_are_refused_with_advice() {
    let refused = |options| Verifier::new(options).unwrap_err();
    assert_eq!(refused(VerifierOptions::default()), KeyUnusable::None);
    let short = refused(VerifierOptions { hs256_secret: Some(b"short"), ..Default::default() });
    assert_eq!(short, KeyUnusable::SecretTooShort { bytes: 5 });
    assert!(short.to_string().contains("openssl rand -hex 32"));
    let rsa = |pem| VerifierOptions { rs256_public_pem: Some(pem), ..Default::default() };
    let ed = |pem| VerifierOptions { eddsa_public_pem: Some(pem), ..Default::default() };
    assert_eq!(refused(rsa(RSA_PRIVATE)), KeyUnusable::Private { algorithm: "RS256" });
    assert_eq!(refused(ed(ED_PRIVATE)), KeyUnusable::Private { algorithm: "EdDSA" });
    assert_eq!(refused(rsa(RSA_1024_PUBLIC)), KeyUnusable::RsaTooSmall);
    for wrong in [b"".as_slice(), b"garbage", ED_PUBLIC] {
        assert_eq!(refused(rsa(wrong)), KeyUnusable::NotAPublicKey { algorithm: "RS256" });
    }
    assert_eq!(refused(ed(RSA_PUBLIC)), KeyUnusable::NotAPublicKey { algorithm: "EdDSA" });
}

#[test]
fn what_no_gateway_would_take_is_not_signed() {
    let signer = hs256();
    for grant in [
        Grant { client_id: String::new(), ..alice() },
        Grant { device_class: Some(String::new()), ..alice() },
        Grant { join: vec!["a*b".into()], ..alice() },
        Grant { write: vec![String::new()], ..alice() },
        Grant { watch: vec!["*a".into()], ..alice() },
    ] {
        assert!(matches!(signer.sign(&grant), Err(SignFailed::Claim { .. })), "{grant:?}");
    }
    assert_eq!(Signer::from_secret(b"short").unwrap_err(), SignFailed::SecretTooShort { bytes: 5 });
    assert_eq!(Signer::from_private_pem(RSA_PUBLIC).unwrap_err(), SignFailed::NotAPrivateKey);
    assert_eq!(Signer::from_private_pem(b"garbage").unwrap_err(), SignFailed::NotAPrivateKey);
}

#[test]
fn nothing_printed_holds_a_secret() {
    let secret = std::str::from_utf8(SECRET).unwrap();
    for text in [format!("{:?}", verifier()), format!("{:?}", hs256())] {
        assert!(!text.contains(secret), "{text}");
    }
}
