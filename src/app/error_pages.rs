//! The pages of `docs/errors/`, inside the binary: every code that an answer or a job can carry, explained where the
//! answer's `type` points to.

macro_rules! pages {
    ($($code:literal),+ $(,)?) => {
        /// Code and page, by code.
        pub const PAGES: &[(&str, &str)] = &[$(($code, include_str!(concat!("../../docs/errors/", $code, ".md")))),+];
    };
}

pages!(
    "callback_busy",
    "callback_disabled",
    "callback_gone",
    "callback_not_found",
    "callback_redirected",
    "callback_refused",
    "callback_rejected",
    "callback_secret_unreadable",
    "callback_timeout",
    "callback_unreachable",
    "callback_untrusted",
    "callback_url_refused",
    "database_conflict",
    "database_refused",
    "database_timeout",
    "database_unavailable",
    "declared_hash_differs",
    "declared_size_differs",
    "duplicate_key",
    "empty_body",
    "empty_bundle",
    "entry_without_resource",
    "entry_without_resource_type",
    "event_not_found",
    "file_binary",
    "file_empty",
    "file_not_a_bundle",
    "file_not_json",
    "file_not_utf8",
    "file_too_large",
    "finding_not_found",
    "forbidden",
    "gzip_damaged",
    "gzip_truncated",
    "handler_panicked",
    "handler_unknown",
    "hold_not_found",
    "idempotency_key_reused",
    "incomplete_body",
    "internal_error",
    "invalid_event",
    "invalid_gzip",
    "invalid_idempotency_key",
    "invalid_json",
    "invalid_parameter",
    "invalid_params",
    "invalid_request",
    "invalid_string",
    "invalid_utf8",
    "issuer_unavailable",
    "job_is_terminal",
    "job_not_finished",
    "job_not_found",
    "key_not_found",
    "lease_lost",
    "legal_hold",
    "method_not_allowed",
    "not_a_bundle",
    "not_found",
    "object_changed",
    "object_gone",
    "object_not_there",
    "object_store_denied",
    "object_store_unavailable",
    "operation_not_found",
    "operation_not_possible",
    "organization_exists",
    "organization_not_found",
    "organization_queue_full",
    "outcomes_not_found",
    "overloaded",
    "patient_merged",
    "patient_not_found",
    "payload_corrupt",
    "payload_expired",
    "payload_missing",
    "payload_not_a_bundle",
    "payload_not_an_event",
    "payload_not_found",
    "payload_purged",
    "payload_shared",
    "payload_too_large",
    "queue_full",
    "rate_limited",
    "request_timeout",
    "review_decided",
    "review_not_found",
    "step_panicked",
    "step_timeout",
    "step_unknown",
    "too_deep",
    "too_many_callbacks",
    "too_many_entries",
    "too_many_uploads",
    "unauthenticated",
    "unsupported_bundle_type",
    "unsupported_content_encoding",
    "unsupported_media_type",
    "validation_failed",
    "webhook_secret_not_found",
    "worker_killed",
    "workflow_unknown",
);

/// The page of a code.
#[must_use]
pub fn page(code: &str) -> Option<&'static str> {
    PAGES.binary_search_by_key(&code, |(known, _)| known).ok().and_then(|index| PAGES.get(index)).map(|(_, page)| *page)
}

/// What a page says of its code, as plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// A few words.
    pub title: String,
    /// What it means: paragraphs.
    pub meaning: Vec<String>,
    /// What to do: paragraphs.
    pub remedy: Vec<String>,
}

/// What a code means and what to do about it.
#[must_use]
pub fn explained(code: &str) -> Option<Explained> {
    let page = page(code)?;
    let title = page.lines().find_map(|line| line.strip_prefix("**")?.strip_suffix("**")).unwrap_or(code);
    Some(Explained {
        title: title.to_owned(),
        meaning: paragraphs(page, "## What it means"),
        remedy: paragraphs(page, "## What to do"),
    })
}

/// The paragraphs below a heading, without the marks of links and code.
fn paragraphs(page: &str, heading: &str) -> Vec<String> {
    let body = page.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with('#'));
    let body: Vec<&str> = body.collect();
    let texts = body.split(|line| line.trim().is_empty()).filter(|lines| !lines.is_empty());
    texts.map(|lines| plain(&lines.join(" "))).collect()
}

fn plain(text: &str) -> String {
    let mut parts = text.split("](");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once(')').map_or(part, |(_, rest)| rest));
    }
    plain.replace(['[', '`'], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_says_what_its_code_means_and_what_to_do() {
        for (code, _) in PAGES {
            let explained = explained(code).unwrap();
            assert!(!explained.title.is_empty() && !explained.title.contains('*'), "{code}");
            assert!(!explained.meaning.is_empty() && !explained.remedy.is_empty(), "{code}");
            let text = [explained.meaning, explained.remedy].concat().concat();
            assert!(!text.contains("](") && !text.contains('`'), "{code}: {text}");
        }
        assert_eq!(explained("no_such_code"), None);
    }

    #[test]
    fn links_and_code_become_their_words() {
        assert_eq!(plain("See [the page](../a.md#b), or `code`."), "See the page, or code.");
    }
}
