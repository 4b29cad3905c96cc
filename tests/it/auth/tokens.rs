//! Tokens, right and wrong: each wrong one differs from a right one in one thing, and is refused for that.

use super::issuer::{Key, KeyServer, b64, hmac_token, with_secret};
use crate::http::{call, get};
use crate::support::app::{Setup, TestApp};
use chartgate::auth::Role::{Admin, Platform, Reader, Sender};
use chartgate::auth::{AuthError, Caller, Refusal};
use chartgate::clock::Clock;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// An application that accepts the tokens of three issuers, and their keys.
struct Scene {
    app: TestApp,
    rsa: Key,
    p256: Key,
    p384: Key,
    ed: Key,
    /// Of the second issuer, under a name that the first one uses, too.
    foreign: Key,
    _servers: [KeyServer; 2],
}

fn now() -> i64 {
    Clock::system().now().unix_timestamp()
}

impl Scene {
    async fn set() -> Self {
        let (rsa, p256, p384, ed, foreign) = (Key::rsa(), Key::p256(), Key::p384(), Key::ed(), Key::p256());
        let first = KeyServer::start(&[rsa.jwk("rsa"), p256.jwk("p256"), p384.jwk("p384"), ed.jwk("ed")]).await;
        let second = KeyServer::start(&[foreign.jwk("p256"), rsa.jwk("shared")]).await;
        let mut config = first.config("first");
        config.roles.insert("ops".to_owned(), "admin".to_owned());
        config.roles.insert("system/Patient.rs".to_owned(), "reader".to_owned());
        let mut other = second.config("second");
        other.algorithms = vec!["ES256".to_owned()];
        other.organization = Some("Test Hospital".to_owned());
        "realm_access.roles".clone_into(&mut other.roles_claim);
        other.platform = true;
        let jwt = vec![config, other, with_secret("third", SECRET)];
        let app = TestApp::with(Setup { jwt, ..Setup::default() }).await;
        Self { app, rsa, p256, p384, ed, foreign, _servers: [first, second] }
    }

    /// Claims that are right for the first issuer.
    fn claims(&self) -> Value {
        json!({
            "iss": "https://first.example", "aud": "chartgate", "sub": "client-1", "exp": now() + 300, "iat": now(),
            "organization": self.app.organization.id, "roles": ["reader"],
        })
    }

    fn with(&self, name: &str, value: Value) -> Value {
        let mut claims = self.claims();
        claims[name] = value;
        claims
    }

    fn without(&self, name: &str) -> Value {
        let mut claims = self.claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    }

    /// Signed rightly by the first issuer.
    fn signed(&self, claims: &Value) -> String {
        self.p256.token(&json!({"alg": "ES256", "kid": "p256", "typ": "JWT"}), claims)
    }

    async fn refusal(&self, token: &str) -> Result<Caller, Refusal> {
        match self.app.app.authenticator.authenticate(token).await {
            Ok(caller) => Ok(caller),
            Err(AuthError::Refused(refusal)) => Err(refusal),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn right_tokens_are_let_in_with_their_organization_and_roles() {
    let scene = Scene::set().await;
    let own = scene.app.organization.id;
    let claims = scene.claims();
    let header = |alg: &str, kid: &str| json!({"alg": alg, "kid": kid, "typ": "JWT"});
    let es = |claims: &Value| scene.signed(claims);
    let second = |claims: Value| scene.foreign.token(&header("ES256", "p256"), &claims);
    let of_second = |roles: Value| json!({"iss": "https://second.example", "aud": "chartgate", "sub": "c", "exp": now() + 60, "realm_access": {"roles": roles}});
    let third = |alg: &str| {
        let claims = {
            let mut claims = scene.claims();
            claims["iss"] = json!("https://third.example");
            claims
        };
        hmac_token(SECRET.as_bytes(), &json!({"alg": alg}), &claims)
    };
    let scoped = |name: &str, value: Value| {
        let mut claims = scene.without("roles");
        claims[name] = value;
        es(&claims)
    };
    for (what, token, roles) in [
        ("RS256", scene.rsa.token(&header("RS256", "rsa"), &claims), &[Reader][..]),
        ("RS384", scene.rsa.token(&header("RS384", "rsa"), &claims), &[Reader]),
        ("ES256", scene.p256.token(&header("ES256", "p256"), &claims), &[Reader]),
        ("ES384", scene.p384.token(&header("ES384", "p384"), &claims), &[Reader]),
        ("EdDSA", scene.ed.token(&header("EdDSA", "ed"), &claims), &[Reader]),
        ("HS256 of an issuer with a secret", third("HS256"), &[Reader]),
        ("HS384 of an issuer with a secret", third("HS384"), &[Reader]),
        ("no kid, one key that fits", scene.ed.token(&json!({"alg": "EdDSA"}), &claims), &[Reader]),
        ("typ at+jwt", scene.p256.token(&json!({"alg": "ES256", "kid": "p256", "typ": "at+JWT"}), &claims), &[Reader]),
        ("jku, x5u and jwk are not looked at", scene.p256.token(&json!({"alg": "ES256", "kid": "p256", "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/", "jwk": Key::p256().jwk("p256")}), &claims), &[Reader]),
        ("several audiences", es(&scene.with("aud", json!(["other", "urn:chartgate"]))), &[Reader]),
        ("exp in fractions", es(&scene.with("exp", json!(f64::from(u32::try_from(now()).unwrap()) + 30.5))), &[Reader]),
        ("exp a minute ago, within the leeway", es(&scene.with("exp", json!(now() - 50))), &[Reader]),
        ("nbf ahead, within the leeway", es(&scene.with("nbf", json!(now() + 50))), &[Reader]),
        ("organization by name", es(&scene.with("organization", json!("Test Hospital"))), &[Reader]),
        ("one role as a text", es(&scene.with("roles", json!("sender"))), &[Sender]),
        ("several roles", es(&scene.with("roles", json!(["admin", "sender", "unknown"]))), &[Sender, Admin]),
        ("a mapped role", es(&scene.with("roles", json!(["ops"]))), &[Admin]),
        ("a mapped scope", scoped("scope", json!("openid system/Patient.rs")), &[Reader]),
        ("scopes of SMART", scoped("scope", json!("system/*.rs system/*.write")), &[Sender, Reader]),
        ("scp as a list", scoped("scp", json!(["system/*.cruds"])), &[Sender, Reader]),
        ("platform does not count here", es(&scene.with("roles", json!(["platform", "reader"]))), &[Reader]),
        ("a path to the roles, the organization of the issuer", second(of_second(json!(["sender"]))), &[Sender]),
        ("platform alone", second(of_second(json!(["sender", "platform"]))), &[Platform]),
    ] {
        let caller = scene.refusal(&token).await.unwrap_or_else(|refusal| panic!("{what}: {refusal:?}"));
        assert_eq!(caller.roles, roles, "{what}");
        assert_eq!(caller.organization, (roles != [Platform]).then_some(own), "{what}");
        assert_eq!(caller.authentication, "jwt");
        assert!(caller.name.starts_with("jwt:"), "{}", caller.name);
    }
    // Through HTTP, with what it leaves behind.
    let token = es(&scene.with("roles", json!(["sender"])));
    let (status, accepted) = scene.app.submit_as(&token, None, crate::http::small(1)).await;
    assert_eq!(status, 202, "{accepted}");
    let job = scene.app.job(accepted["jobId"].as_str().unwrap()).await;
    assert_eq!(job["submittedBy"], "jwt:first:client-1");
    get(&scene.app, &token, "/ingest/clinical/1").await.problem(403, "forbidden");
    let recorded = "select count(*) from audit_records where actor = 'jwt:first:client-1' and authentication = 'jwt'";
    assert_eq!(scene.app.count(recorded).await, 2);
}

#[tokio::test]
async fn wrong_tokens_are_all_refused_alike_and_each_for_its_own_reason() {
    let scene = Scene::set().await;
    let claims = scene.claims();
    let es = |claims: &Value| scene.signed(claims);
    let p256 = |header: Value| scene.p256.token(&header, &claims);
    let good = es(&claims);
    let parts: Vec<&str> = good.split('.').collect();
    let unsigned = |header: Value| format!("{}.{}.", b64(header.to_string()), parts[1]);
    let attacker = Key::p256();
    let with = |name: &str, value: Value| es(&scene.with(name, value));
    let third = |name: &str, value: Value| {
        let mut claims = scene.with("iss", json!("https://third.example"));
        claims[name] = value;
        claims
    };
    let kid = |kid: &str| p256(json!({"alg": "ES256", "kid": kid}));
    let huge = |digits: &str| {
        scene.p256.token_of(
            r#"{"alg":"ES256","kid":"p256"}"#,
            &claims.to_string().replace(&claims["exp"].to_string(), digits),
        )
    };
    let mut cases: Vec<(String, String, Refusal)> = Vec::new();
    let mut add = |what: &str, token: String, refusal: Refusal| cases.push((what.to_owned(), token, refusal));

    // Nothing, and things that are none.
    add("empty parts", "..".to_owned(), Refusal::TokenMalformed);
    add("one dot", "a.b".to_owned(), Refusal::TokenMalformed);
    add("not base64", "!.!.!".to_owned(), Refusal::TokenMalformed);
    add("too long", format!("{good}{}", "A".repeat(8 * 1024)), Refusal::TokenMalformed);
    add("an extra dot behind", format!("{good}."), Refusal::TokenMalformed);
    add("an extra dot before", format!(".{good}"), Refusal::TokenMalformed);
    add("an extra part", format!("{good}.{}", parts[2]), Refusal::TokenMalformed);
    add("five parts, as of JWE", format!("{0}.{0}.{0}.{0}.{0}", parts[0]), Refusal::TokenMalformed);
    add("without its signature", format!("{}.{}", parts[0], parts[1]), Refusal::TokenMalformed);
    add("with an empty signature", format!("{}.{}.", parts[0], parts[1]), Refusal::TokenMalformed);
    add("truncated", good[..good.len() - 4].to_owned(), Refusal::TokenSignature);
    add("padded base64", format!("{}=.{}.{}", parts[0], parts[1], parts[2]), Refusal::TokenMalformed);
    add(
        "base64 of another alphabet",
        format!("{}.{}.{}+/", parts[0], parts[1], &parts[2][..84]),
        Refusal::TokenSignature,
    );
    add(
        "JSON serialization",
        json!({"payload": parts[1], "protected": parts[0], "signature": parts[2]}).to_string() + ".",
        Refusal::TokenMalformed,
    );
    add("a header that is no JSON", scene.p256.token_of("nonsense", &claims.to_string()), Refusal::TokenMalformed);
    add("a header that is a list", scene.p256.token_of(r#"["ES256"]"#, &claims.to_string()), Refusal::TokenMalformed);
    add(
        "claims that are no JSON",
        scene.p256.token_of(r#"{"alg":"ES256","kid":"p256"}"#, "nonsense"),
        Refusal::TokenMalformed,
    );
    add(
        "claims that are a list",
        scene.p256.token_of(r#"{"alg":"ES256","kid":"p256"}"#, "[]"),
        Refusal::TokenMalformed,
    );
    add(
        "a claim that is there twice",
        scene.p256.token_of(r#"{"alg":"ES256","kid":"p256"}"#, &format!(r#"{{"sub":"a",{}"#, &claims.to_string()[1..])),
        Refusal::TokenMalformed,
    );
    add(
        "an alg that is there twice",
        scene.p256.token_of(r#"{"alg":"none","alg":"ES256","kid":"p256"}"#, &claims.to_string()),
        Refusal::TokenMalformed,
    );

    // Algorithms.
    for none in ["none", "None", "NONE", "nOnE"] {
        add(
            &format!("alg {none} without a signature"),
            unsigned(json!({"alg": none, "kid": "p256"})),
            Refusal::TokenMalformed,
        );
        add(&format!("alg {none} with one"), p256(json!({"alg": none, "kid": "p256"})), Refusal::TokenAlgorithm);
    }
    for (index, text) in scene.rsa.public_texts().iter().enumerate() {
        for alg in ["HS256", "HS384", "HS512"] {
            let token = hmac_token(text, &json!({"alg": alg, "kid": "rsa"}), &claims);
            add(&format!("{alg} with the public RSA key, form {index}"), token, Refusal::TokenAlgorithm);
        }
    }
    add(
        "HS256 with an empty secret",
        hmac_token(b"", &json!({"alg": "HS256", "kid": "rsa"}), &claims),
        Refusal::TokenAlgorithm,
    );
    add("no alg", p256(json!({"kid": "p256"})), Refusal::TokenMalformed);
    add("an alg that is no text", p256(json!({"alg": ["ES256"], "kid": "p256"})), Refusal::TokenClaims);
    add("PS256", scene.rsa.token(&json!({"alg": "PS256", "kid": "rsa"}), &claims), Refusal::TokenAlgorithm);
    add("RS512", scene.rsa.token(&json!({"alg": "RS512", "kid": "rsa"}), &claims), Refusal::TokenAlgorithm);
    add("es256 in small letters", p256(json!({"alg": "es256", "kid": "p256"})), Refusal::TokenAlgorithm);
    add("the kid of an RSA key", p256(json!({"alg": "ES256", "kid": "rsa"})), Refusal::TokenAlgorithm);
    add("the kid of another curve", p256(json!({"alg": "ES256", "kid": "p384"})), Refusal::TokenAlgorithm);
    add("ES384 with a P-256 key", p256(json!({"alg": "ES384", "kid": "p256"})), Refusal::TokenAlgorithm);
    add("RS256 claimed for an EC key", p256(json!({"alg": "RS256", "kid": "p256"})), Refusal::TokenAlgorithm);
    add("EdDSA claimed for an EC key", p256(json!({"alg": "EdDSA", "kid": "p256"})), Refusal::TokenAlgorithm);
    add(
        "RS384 said, RS256 done",
        {
            let claimed = scene.rsa.token(&json!({"alg": "RS256", "kid": "rsa"}), &claims);
            let parts: Vec<&str> = claimed.split('.').collect();
            format!("{}.{}.{}", b64(r#"{"alg":"RS384","kid":"rsa"}"#), parts[1], parts[2])
        },
        Refusal::TokenSignature,
    );

    // Signatures.
    add(
        "somebody else's key under a known kid",
        attacker.token(&json!({"alg": "ES256", "kid": "p256"}), &claims),
        Refusal::TokenSignature,
    );
    add(
        "an embedded jwk",
        attacker.token(&json!({"alg": "ES256", "kid": "p256", "jwk": attacker.jwk("p256")}), &claims),
        Refusal::TokenSignature,
    );
    add(
        "a jku",
        attacker.token(&json!({"alg": "ES256", "kid": "p256", "jku": "https://evil.example/keys"}), &claims),
        Refusal::TokenSignature,
    );
    add(
        "an x5u",
        attacker.token(&json!({"alg": "ES256", "kid": "p256", "x5u": "https://evil.example/cert"}), &claims),
        Refusal::TokenSignature,
    );
    add(
        "an x5c",
        attacker.token(&json!({"alg": "ES256", "kid": "p256", "x5c": ["AAAA"]}), &claims),
        Refusal::TokenSignature,
    );
    add(
        "other claims than were signed",
        format!("{}.{}.{}", parts[0], b64(scene.with("roles", json!(["admin"])).to_string()), parts[2]),
        Refusal::TokenSignature,
    );
    add(
        "another header than was signed",
        format!("{}.{}.{}", b64(r#"{"kid":"p256","alg":"ES256"}"#), parts[1], parts[2]),
        Refusal::TokenSignature,
    );
    add("a signature of zeros", format!("{}.{}.{}", parts[0], parts[1], b64([0u8; 64])), Refusal::TokenSignature);
    add(
        "the other issuer's key of the same name",
        scene.foreign.token(&json!({"alg": "ES256", "kid": "p256"}), &claims),
        Refusal::TokenSignature,
    );
    add(
        "our key, the other issuer's name",
        p256(json!({"alg": "ES256", "kid": "p256"}))
            .replace(parts[1], &b64(scene.with("iss", json!("https://second.example")).to_string())),
        Refusal::TokenSignature,
    );
    add(
        "a signature that this issuer does not use",
        {
            let mut claims = scene.with("iss", json!("https://second.example"));
            claims["realm_access"] = json!({"roles": ["reader"]});
            scene.rsa.token(&json!({"alg": "RS256", "kid": "shared"}), &claims)
        },
        Refusal::TokenAlgorithm,
    );

    // Names of keys.
    for name in [
        "../../../../etc/passwd",
        "/dev/null",
        "x' or '1'='1",
        "p256'; drop table api_keys; --",
        "https://evil.example/k",
        "p256%00",
        "P256",
        " p256",
        "p256 ",
        &"k".repeat(128),
    ] {
        add(&format!("kid {name}"), kid(name), Refusal::TokenKey);
    }
    add("a kid that is too long", kid(&"k".repeat(129)), Refusal::TokenMalformed);
    add("an empty kid", kid(""), Refusal::TokenMalformed);
    add("a kid with control characters", kid("p256\u{0}"), Refusal::TokenMalformed);
    add("a kid that is no text", p256(json!({"alg": "ES256", "kid": 7})), Refusal::TokenMalformed);
    add("a kid that is null", p256(json!({"alg": "ES256", "kid": null})), Refusal::TokenMalformed);

    // Other things in the header.
    add("crit", p256(json!({"alg": "ES256", "kid": "p256", "crit": ["exp"]})), Refusal::TokenMalformed);
    add("b64", p256(json!({"alg": "ES256", "kid": "p256", "crit": ["b64"], "b64": false})), Refusal::TokenMalformed);
    add("zip", p256(json!({"alg": "ES256", "kid": "p256", "zip": "DEF"})), Refusal::TokenMalformed);
    add(
        "typ of a logout token",
        p256(json!({"alg": "ES256", "kid": "p256", "typ": "logout+jwt"})),
        Refusal::TokenClaims,
    );
    add("typ of a DPoP proof", p256(json!({"alg": "ES256", "kid": "p256", "typ": "dpop+jwt"})), Refusal::TokenClaims);

    // Who issued it, and for whom.
    add("no iss", es(&scene.without("iss")), Refusal::TokenIssuer);
    for iss in [
        json!("https://nobody.example"),
        json!("https://first.example/"),
        json!("HTTPS://FIRST.EXAMPLE"),
        json!(""),
        json!(["https://first.example"]),
        json!({"iss": "https://first.example"}),
        json!(1),
        json!(null),
    ] {
        add(&format!("iss {iss}"), with("iss", iss), Refusal::TokenIssuer);
    }
    add("no aud", es(&scene.without("aud")), Refusal::TokenClaims);
    for (aud, refusal) in [
        (json!("somebody"), Refusal::TokenAudience),
        (json!("chartgate2"), Refusal::TokenAudience),
        (json!("chart"), Refusal::TokenAudience),
        (json!([]), Refusal::TokenAudience),
        (json!(["a", "b"]), Refusal::TokenAudience),
        (json!(""), Refusal::TokenAudience),
        (json!([1, "chartgate"]), Refusal::TokenClaims),
        (json!([["chartgate"]]), Refusal::TokenClaims),
        (json!({"chartgate": true}), Refusal::TokenClaims),
        (json!(null), Refusal::TokenClaims),
        (json!(true), Refusal::TokenClaims),
    ] {
        add(&format!("aud {aud}"), with("aud", aud), refusal);
    }

    // Times.
    add("no exp", es(&scene.without("exp")), Refusal::TokenClaims);
    add("over", with("exp", json!(now() - 61)), Refusal::TokenExpired);
    add("long over", with("exp", json!(0)), Refusal::TokenExpired);
    add("exp further ahead than allowed", with("exp", json!(now() + 86_400 + 120)), Refusal::TokenExpired);
    for exp in [
        json!((now() + 300).to_string()),
        json!(-1),
        json!(-1.5),
        json!(true),
        json!([now() + 300]),
        json!({"at": now()}),
        json!(null),
    ] {
        add(&format!("exp {exp}"), with("exp", exp), Refusal::TokenClaims);
    }
    for digits in ["1e300", "18446744073709551615", "99999999999999999999999999", "1e15", "9007199254740993"] {
        let refusal = if digits == "1e15" { Refusal::TokenExpired } else { Refusal::TokenClaims };
        add(&format!("exp {digits}"), huge(digits), refusal);
    }
    add("exp 1e400", huge("1e400"), Refusal::TokenMalformed);
    add("not yet", with("nbf", json!(now() + 120)), Refusal::TokenEarly);
    add("issued in the future", with("iat", json!(now() + 120)), Refusal::TokenEarly);
    for nbf in [json!("0"), json!(-5), json!([]), json!(false), json!(null)] {
        add(&format!("nbf {nbf}"), with("nbf", nbf), Refusal::TokenClaims);
    }

    // Who it is, and what it may do.
    add("no sub", es(&scene.without("sub")), Refusal::TokenClaims);
    for sub in [json!(""), json!(1), json!(["a"]), json!(null), json!("a\nb"), json!("x".repeat(256))] {
        add(&format!("sub {sub}"), with("sub", sub), Refusal::TokenClaims);
    }
    add("no organization", es(&scene.without("organization")), Refusal::TokenClaims);
    for (organization, refusal) in [
        (json!("org_01h455vb4pex5vsknk084sn02q"), Refusal::TokenOrganization),
        (json!("Nobody"), Refusal::TokenOrganization),
        (json!("test hospital"), Refusal::TokenOrganization),
        (json!("Test Hospital' or '1'='1"), Refusal::TokenOrganization),
        (json!("org_00000000000000000000000000"), Refusal::TokenOrganization),
        (json!(""), Refusal::TokenClaims),
        (json!([scene.app.organization.id]), Refusal::TokenClaims),
        (json!(null), Refusal::TokenClaims),
    ] {
        add(&format!("organization {organization}"), with("organization", organization), refusal);
    }
    add("no roles", es(&scene.without("roles")), Refusal::TokenRole);
    for (roles, refusal) in [
        (json!([]), Refusal::TokenRole),
        (json!(["owner"]), Refusal::TokenRole),
        (json!("platform"), Refusal::TokenRole),
        (json!("admin sender"), Refusal::TokenRole),
        (json!("Admin"), Refusal::TokenRole),
        (json!({"admin": true}), Refusal::TokenClaims),
        (json!([["admin"]]), Refusal::TokenClaims),
        (json!(1), Refusal::TokenClaims),
    ] {
        add(&format!("roles {roles}"), with("roles", roles), refusal);
    }
    for scope in ["system/Observation.rs", "patient/*.rs", "user/*.cruds", "system/*.rs?x=1"] {
        let mut claims = scene.without("roles");
        claims["scope"] = json!(scope);
        add(&format!("scope {scope}"), es(&claims), Refusal::TokenRole);
    }
    add("an ID token", with("typ", json!("ID")), Refusal::TokenClaims);
    add("a refresh token", with("typ", json!("Refresh")), Refusal::TokenClaims);
    add("an ID token of Cognito", with("token_use", json!("id")), Refusal::TokenClaims);
    add("a token that is bound to a key", with("cnf", json!({"jkt": "x"})), Refusal::TokenClaims);

    // The issuer with a secret.
    add(
        "another secret",
        hmac_token(&[b'x'; 64], &json!({"alg": "HS256"}), &third("sub", json!("c"))),
        Refusal::TokenSignature,
    );
    add(
        "HS512 where it is not used",
        hmac_token(SECRET.as_bytes(), &json!({"alg": "HS512"}), &third("sub", json!("c"))),
        Refusal::TokenAlgorithm,
    );
    add(
        "RS256 where a secret is used",
        scene.rsa.token(&json!({"alg": "RS256", "kid": "rsa"}), &third("sub", json!("c"))),
        Refusal::TokenAlgorithm,
    );
    add(
        "alg none where a secret is used",
        unsigned(json!({"alg": "none"})).replace(parts[1], &b64(third("sub", json!("c")).to_string())),
        Refusal::TokenMalformed,
    );
    add(
        "the secret of the third issuer for the first",
        hmac_token(SECRET.as_bytes(), &json!({"alg": "HS256"}), &claims),
        Refusal::TokenAlgorithm,
    );

    assert!(cases.len() >= 60, "{}", cases.len());
    println!("{} wrong tokens", cases.len());
    // At once: names of keys that nobody has are looked for together.
    let refusals = join_all(cases.iter().map(|(_, token, _)| scene.refusal(token))).await;
    let mut bodies = BTreeSet::new();
    for ((what, token, refusal), found) in cases.iter().zip(refusals) {
        assert_eq!(found.map(|caller| caller.name), Err(*refusal), "{what}: {token}");
        let answer = get(&scene.app, token, "/v1/ingestion/jobs").await;
        let mut problem = answer.problem(401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        problem["requestId"] = json!("");
        bodies.insert(problem.to_string());
    }
    assert_eq!(bodies.len(), 1, "a caller is not told which it was");
    let wanted = good;
    assert!(scene.refusal(&wanted).await.is_ok(), "the right token is still right");
    assert_eq!(scene.app.count("select count(*) from api_keys where revoked_at is null").await, 4);
}

#[tokio::test]
async fn a_key_or_token_counts_in_its_header_only() {
    let scene = Scene::set().await;
    let app = &scene.app;
    let token = scene.signed(&scene.with("roles", json!(["admin"])));
    for secret in [&app.organization.admin, &token] {
        for path in [
            format!("/v1/admin/keys?key={secret}"),
            format!("/v1/admin/keys?api_key={secret}"),
            format!("/v1/admin/keys?access_token={secret}"),
            format!("/v1/admin/keys?authorization=Bearer%20{secret}"),
        ] {
            get(app, "", &path).await.problem(401, "unauthenticated");
        }
        let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{secret}:"));
        for (name, value) in [
            ("authorization", format!("Basic {basic}")),
            ("authorization", secret.clone()),
            ("authorization", format!("Token {secret}")),
            ("authorization", format!("Bearer {secret}, Bearer {secret}")),
            ("authorization", format!("Bearer\t{secret}")),
            ("cookie", format!("token={secret}")),
            ("x-api-key", secret.clone()),
            ("proxy-authorization", format!("Bearer {secret}")),
        ] {
            let answer = call(app, Method::GET, "/v1/admin/keys", "", &[(name, value.as_str())], "").await;
            answer.problem(401, "unauthenticated");
        }
        let twice = [("authorization", format!("Bearer {secret}")), ("authorization", format!("Bearer {secret}"))];
        let mut request = app.client.get(format!("{}/v1/admin/keys", app.url));
        for (name, value) in &twice {
            request = request.header(*name, value);
        }
        assert_eq!(request.send().await.unwrap().status(), 401, "twice");
        assert_eq!(get(app, secret, "/v1/admin/keys").await.status, 200);
    }
}
