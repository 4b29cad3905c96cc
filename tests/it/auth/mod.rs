//! Who calls: keys, tokens, signed webhooks, and what becomes of those who are not let in.

mod floods;
mod issuer;
mod jwks;
mod keys;
mod tokens;
mod vectors;
mod webhooks;
