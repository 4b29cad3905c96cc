//! What a token's claims say about roles.
//!
//! Three sources are put together: words of the roles claim (`sender`, `reader`, `admin`, and `platform` where the issuer
//! may give it), further words and scopes that the configuration maps, and scopes of SMART Backend Services. A scope for one
//! type of resource gives no role by itself, because a role is not limited to a type: who wants that says so in the mapping.

use crate::auth::{Refusal, Role};
use crate::config::jwt::IssuerConfig;
use serde_json::Value;

use super::token::Claims;

/// Of a token, at most.
const WORDS_MAX: usize = 500;

/// A claim that is a text of words, or a list of texts. Another kind is refused: it is not what the issuer was set up for.
fn words(claim: Option<&Value>, splits: bool) -> Result<Vec<&str>, Refusal> {
    let words: Vec<&str> = match claim {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) if splits => text.split(' ').filter(|word| !word.is_empty()).collect(),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) => {
            items.iter().map(Value::as_str).collect::<Option<_>>().ok_or(Refusal::TokenClaims)?
        }
        Some(_) => return Err(Refusal::TokenClaims),
    };
    if words.len() > WORDS_MAX { Err(Refusal::TokenClaims) } else { Ok(words) }
}

/// The roles that claims give, in the order of [`Role::ALL`]; platform alone, because it belongs to no organization.
///
/// # Errors
/// [`Refusal::TokenRole`] for none, [`Refusal::TokenClaims`] for claims of the wrong kind.
pub fn of(claims: &Claims, issuer: &IssuerConfig) -> Result<Vec<Role>, Refusal> {
    let mut roles: Vec<Role> = Vec::new();
    let mapped = |word: &str| issuer.roles.get(word).and_then(|role| Role::parse(role));
    for word in words(claims.at(&issuer.roles_claim), false)? {
        roles.extend(mapped(word).or_else(|| Role::parse(word)));
    }
    // `scope` by RFC 8693 (section 4.2) and SMART; `scp` by Azure and Okta.
    for claim in ["scope", "scp"] {
        for word in words(claims.get(claim), true)? {
            roles.extend(mapped(word));
            roles.extend(smart(word));
        }
    }
    if issuer.platform && roles.contains(&Role::Platform) {
        return Ok(vec![Role::Platform]);
    }
    let roles: Vec<Role> =
        Role::ALL.into_iter().filter(|role| *role != Role::Platform && roles.contains(role)).collect();
    if roles.is_empty() { Err(Refusal::TokenRole) } else { Ok(roles) }
}

/// The roles of a scope `system/<type>.<access>` (SMART App Launch 2.2, "Scopes for Backend Services"; version 1 says
/// `read`, `write` and `*`, version 2 the letters of `cruds` in that order).
///
/// Reading needs all types, and read and search; writing all types or Bundles, and create.
fn smart(scope: &str) -> Vec<Role> {
    let Some((kind, access)) = scope.strip_prefix("system/").and_then(|rest| rest.split_once('.')) else {
        return Vec::new();
    };
    let (reads, writes) = match access {
        "read" => (true, false),
        "write" => (false, true),
        "*" => (true, true),
        letters => {
            let mut order = "cruds".chars();
            // In that order, each once; a query behind it narrows the scope, and we could not keep to that.
            if letters.is_empty() || !letters.chars().all(|letter| order.any(|known| known == letter)) {
                return Vec::new();
            }
            (letters.contains('r') && letters.contains('s'), letters.contains('c'))
        }
    };
    let mut roles = Vec::new();
    if writes && (kind == "*" || kind == "Bundle") {
        roles.push(Role::Sender);
    }
    if reads && kind == "*" {
        roles.push(Role::Reader);
    }
    roles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_smart_backend_services_give_roles_only_when_they_cover_them() {
        use Role::{Reader, Sender};
        for (scope, roles) in [
            ("system/*.*", &[Sender, Reader][..]),
            ("system/*.cruds", &[Sender, Reader]),
            ("system/*.write", &[Sender]),
            ("system/*.c", &[Sender]),
            ("system/*.cud", &[Sender]),
            ("system/*.read", &[Reader]),
            ("system/*.rs", &[Reader]),
            ("system/Bundle.write", &[Sender]),
            ("system/Bundle.c", &[Sender]),
            ("system/Bundle.rs", &[]),
            ("system/Patient.rs", &[]),
            ("system/Patient.read", &[]),
            ("system/Observation.cruds", &[]),
            ("system/*.r", &[]),
            ("system/*.s", &[]),
            ("system/*.u", &[]),
            ("system/*.sr", &[]),
            ("system/*.rrs", &[]),
            ("system/*.", &[]),
            ("system/*", &[]),
            ("system/*.rs?_security=x", &[]),
            ("patient/*.rs", &[]),
            ("user/*.cruds", &[]),
            ("SYSTEM/*.rs", &[]),
            ("openid", &[]),
            ("", &[]),
        ] {
            assert_eq!(smart(scope), roles, "{scope}");
        }
    }
}
