//! `retention.*`: how long data are kept. docs/erasure.md.

use super::Reader;

/// Days after which data go; none: they are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetentionConfig {
    /// Jobs, with steps, attempts and issues.
    pub jobs_days: Option<u32>,
    /// Bytes as they were received.
    pub payloads_days: Option<u32>,
    /// What was taken from them: events, findings, evidence, links.
    pub findings_days: Option<u32>,
}

impl RetentionConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let mut days = |key: &str| {
            let days = reader.parse(key, 0, "a number of days from 0 (keep) to 36500", |text| {
                text.parse::<u32>().ok().filter(|days| *days <= 36_500)
            });
            (days > 0).then_some(days)
        };
        let config = Self {
            jobs_days: days("retention.jobs_days"),
            payloads_days: days("retention.payloads_days"),
            findings_days: days("retention.findings_days"),
        };
        // A job says where data came from: it is not gone while they are there.
        let goes_before = |days: Option<u32>, jobs: u32| days.is_some_and(|days| days <= jobs);
        if let Some(jobs) = config.jobs_days
            && !(goes_before(config.payloads_days, jobs) && goes_before(config.findings_days, jobs))
        {
            reader.faults.push(
                "retention.jobs_days: needs retention.payloads_days and retention.findings_days, neither 0 nor larger: a job is kept while anything that it brought is"
                    .to_owned(),
            );
        }
        config
    }

    /// The shortest of them; none: everything is kept.
    #[must_use]
    pub fn shortest(&self) -> Option<u32> {
        [self.jobs_days, self.payloads_days, self.findings_days].into_iter().flatten().min()
    }
}
