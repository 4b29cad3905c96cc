//! The filter of jobs as the address holds it: parsed, in links, in hidden fields, in words.

use crate::console::answer::Refused;
use crate::console::session::Visitor;
use crate::engine::jobs::{JobFilter, is_sha256};
use crate::engine::state::JobStatus;
use maud::{Markup, html};
use std::collections::BTreeMap;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// What may be asked for, as it is written in the address; a `?note=` and the like are left out.
const NAMES: [&str; 13] = [
    "organization",
    "status",
    "live",
    "workflow",
    "step",
    "code",
    "fingerprint",
    "source",
    "payload",
    "after",
    "before",
    "endedAfter",
    "endedBefore",
];

/// A filter of jobs as people gave it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::console) struct JobQuery(BTreeMap<&'static str, String>);

impl JobQuery {
    /// Out of the address's query. Of a name that comes twice the first counts; what is empty was not given.
    pub(in crate::console) fn parse(query: Option<&str>) -> Self {
        Self::of(url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()))
    }

    /// Out of names and values.
    pub(in crate::console) fn of<N: AsRef<str>, V: AsRef<str>>(pairs: impl Iterator<Item = (N, V)>) -> Self {
        let mut given = BTreeMap::new();
        for (name, value) in pairs {
            let value = value.as_ref().trim();
            if let Some(known) = NAMES.into_iter().find(|known| *known == name.as_ref())
                && !value.is_empty()
            {
                given.entry(known).or_insert_with(|| value.to_owned());
            }
        }
        Self(given)
    }

    /// A value that was given.
    pub(in crate::console) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The same with another value.
    pub(in crate::console) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.insert(name, value.into());
        self
    }

    /// For links.
    pub(in crate::console) fn pairs(&self) -> Vec<(&str, Option<&str>)> {
        NAMES.iter().map(|name| (*name, self.get(name))).collect()
    }

    /// For forms that go on with it.
    pub(in crate::console) fn hidden(&self) -> Markup {
        html! { @for (name, value) in &self.0 { input type="hidden" name=(name) value=(value); } }
    }

    /// Is anything asked for but the organization?
    pub(in crate::console) fn is_narrow(&self) -> bool {
        self.0.keys().any(|name| *name != "organization")
    }

    /// What is asked for, as names and values for people.
    pub(in crate::console) fn words(&self) -> Vec<(&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// The filter itself. Organizations that the visitor may not see are left out by the scope of reading.
    ///
    /// # Errors
    /// [`Refused::Invalid`] names what cannot be read.
    pub(in crate::console) fn filter(&self, visitor: &Visitor) -> Result<JobFilter, Refused> {
        let invalid = |name: &str, expected: &str| Refused::Invalid(format!("The filter {name} must be {expected}."));
        let status = self.get("status").map(|text| {
            JobStatus::parse(text).ok_or_else(|| invalid("status", "one of the statuses that the page offers"))
        });
        if self.get("payload").is_some_and(|text| !is_sha256(text)) {
            return Err(invalid("payload", "a SHA-256 of 64 hexadecimal digits"));
        }
        let instant = |name: &str| {
            let read = |text: &str| parse_instant(text).ok_or_else(|| invalid(name, "a time such as 2026-01-31T12:00"));
            self.get(name).map(read).transpose()
        };
        let mut filter = JobFilter {
            organization: visitor.organization,
            status: status.transpose()?,
            is_live: self.get("live").is_some(),
            workflow: self.get("workflow").map(str::to_owned),
            step: self.get("step").map(str::to_owned),
            source: self.get("source").map(str::to_owned),
            error_code: self.get("code").map(str::to_owned),
            payload_sha256: self.get("payload").map(str::to_lowercase),
            created_after: instant("after")?,
            created_before: instant("before")?,
            ended_after: instant("endedAfter")?,
            ended_before: instant("endedBefore")?,
        };
        if let Some(fingerprint) = self.get("fingerprint") {
            if !filter.narrow_to_fingerprint(fingerprint) {
                return Err(invalid("fingerprint", "written workflow/step/code"));
            }
            // A fingerprint is one of failed jobs; the index on them needs to know.
            filter.status = filter.status.or(Some(JobStatus::Failed));
        }
        Ok(filter)
    }
}

/// An RFC 3339 instant, or what a browser's field for local time gives, taken as UTC.
fn parse_instant(text: &str) -> Option<OffsetDateTime> {
    let minutes = format_description!("[year]-[month]-[day]T[hour]:[minute]");
    let seconds = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .or_else(|| PrimitiveDateTime::parse(text, minutes).ok().map(PrimitiveDateTime::assume_utc))
        .or_else(|| PrimitiveDateTime::parse(text, seconds).ok().map(PrimitiveDateTime::assume_utc))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::parts::link;

    #[test]
    fn a_filter_goes_into_a_link_and_comes_back_the_same() {
        let query = JobQuery::parse(Some("status=failed&workflow=a%26b&note=retried&cursor=job_1&status=queued&code="));
        assert_eq!(
            (query.get("status"), query.get("workflow"), query.get("code")),
            (Some("failed"), Some("a&b"), None)
        );
        let link = link("/admin/jobs", &query.pairs(), None);
        assert_eq!(link, "/admin/jobs?status=failed&workflow=a%26b");
        assert_eq!(JobQuery::parse(link.split_once('?').map(|(_, query)| query)), query);
        assert!(query.is_narrow() && !JobQuery::parse(Some("organization=org_1")).is_narrow());
    }

    #[test]
    fn times_are_read_as_browsers_and_programs_write_them() {
        let noon = parse_instant("2026-01-31T12:00:00Z").unwrap();
        for text in ["2026-01-31T12:00", "2026-01-31T12:00:00", "2026-01-31T13:00:00+01:00"] {
            assert_eq!(parse_instant(text), Some(noon), "{text}");
        }
        for text in ["", "yesterday", "2026-13-01T00:00", "2026-01-31"] {
            assert_eq!(parse_instant(text), None, "{text}");
        }
    }
}
