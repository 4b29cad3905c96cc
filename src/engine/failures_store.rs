//! SQL on failed jobs by fingerprint: workflow, step and code.
//!
//! Counting is bounded: of a group in an organization the newest [`COUNTED_MAX`] jobs are looked at, from an index alone; fewer where
//! there are many groups, so that all of them together stay some ten thousands.

use crate::db::DbError;
use crate::ids::{JobId, OrganizationId};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// Jobs that are counted of a group in one organization.
pub const COUNTED_MAX: i64 = 10_000;
/// Hours of a group's recent course.
pub const HOURS: usize = 24;
/// Groups over all organizations that are read, at most.
const GROUPS_MAX: i64 = 2_000;

/// What a group of failures has in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint {
    /// Workflow name.
    pub workflow: String,
    /// Index of the step at which they failed.
    pub step: i16,
    /// Code.
    pub code: String,
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.workflow, self.step, self.code)
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('/');
        let (Some(workflow), Some(step), Some(code), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(());
        };
        Ok(Self { workflow: workflow.to_owned(), step: step.parse().map_err(|_| ())?, code: code.to_owned() })
    }
}

/// Failed jobs of one fingerprint.
#[derive(Debug, Clone)]
pub struct Group {
    /// What they have in common.
    pub fingerprint: Fingerprint,
    /// Who must act: transient, sender or ours.
    pub class: String,
    /// How many, at least.
    pub count: i64,
    /// There may be more than `count`.
    pub is_capped: bool,
    /// In so many organizations.
    pub organizations: usize,
    /// When the first of them failed.
    pub first_seen: OffsetDateTime,
    /// When the last of them failed.
    pub last_seen: OffsetDateTime,
    /// How many failed in each of the last [`HOURS`] hours, oldest first.
    pub hours: [i64; HOURS],
    /// The last of them.
    pub sample: JobId,
    /// Whose that is.
    pub sample_organization: OrganizationId,
}

#[derive(sqlx::FromRow)]
struct Row {
    organization_id: OrganizationId,
    workflow: String,
    error_code: String,
    error_step: i16,
    error_class: String,
    id: JobId,
    first_seen: OffsetDateTime,
    last_seen: OffsetDateTime,
    ages: Vec<i32>,
    counts: Vec<i64>,
    counted_max: i64,
}

/// Failed jobs by fingerprint, the group with the newest failure first; one organization's, or all (scope `Platform`).
///
/// # Errors
/// [`DbError`].
pub async fn groups(
    connection: &mut PgConnection,
    organization: Option<OrganizationId>,
) -> Result<Vec<Group>, DbError> {
    let rows: Vec<Row> = sqlx::query_as(
        // From one group to the next by the index: an organization may have very many failed jobs of one.
        "with recursive prints as (
           select f.*
           from organizations o
           cross join lateral (
             select j.organization_id, j.workflow, j.error_code, j.error_step
             from jobs j
             where j.status = 'failed' and j.organization_id = o.id and j.error_step is not null
             order by j.workflow, j.error_code, j.error_step
             limit 1) f
           where $1::uuid is null or o.id = $1
           union all
           select n.*
           from prints p
           cross join lateral (
             select j.organization_id, j.workflow, j.error_code, j.error_step
             from jobs j
             where j.status = 'failed' and j.organization_id = p.organization_id
               and (j.workflow, j.error_code, j.error_step) > (p.workflow, p.error_code, p.error_step)
             order by j.workflow, j.error_code, j.error_step
             limit 1) n),
         some_prints as (select * from prints limit $2),
         bound as materialized (
           select case when count(*) <= 5 then $3 when count(*) <= 50 then $3 / 10 else $3 / 100 end counted_max from some_prints)
         select p.organization_id, p.workflow, p.error_code, p.error_step, l.error_class, l.id, e.finished_at first_seen,
                l.finished_at last_seen, c.ages, c.counts, (select counted_max from bound) counted_max
         from some_prints p
         cross join lateral (
           select j.id, j.error_class, j.finished_at
           from jobs j
           where j.status = 'failed' and j.organization_id = p.organization_id and j.workflow = p.workflow
             and j.error_code = p.error_code and j.error_step = p.error_step
           order by j.finished_at desc
           limit 1) l
         cross join lateral (
           select j.finished_at
           from jobs j
           where j.status = 'failed' and j.organization_id = p.organization_id and j.workflow = p.workflow
             and j.error_code = p.error_code and j.error_step = p.error_step
           order by j.finished_at
           limit 1) e
         cross join lateral (
           select array_agg(b.age) ages, array_agg(b.n) counts
           from (
             -- Not extract(), which answers a numeric: ten times the price.
             select least($4, floor(date_part('epoch', now - r.finished_at) / 3600))::integer age, count(*) n
             from (select chartgate_now() now) t
             cross join lateral (
               select j.finished_at
               from jobs j
               where j.status = 'failed' and j.organization_id = p.organization_id and j.workflow = p.workflow
                 and j.error_code = p.error_code and j.error_step = p.error_step
               order by j.finished_at desc
               limit (select counted_max from bound)) r
             group by 1) b) c",
    )
    .bind(organization)
    .bind(GROUPS_MAX)
    .bind(COUNTED_MAX)
    .bind(i32::try_from(HOURS).unwrap_or(i32::MAX))
    .fetch_all(connection)
    .await?;
    let mut groups: BTreeMap<Fingerprint, Group> = BTreeMap::new();
    for row in rows {
        add(&mut groups, row);
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by(|a, b| b.last_seen.cmp(&a.last_seen).then_with(|| a.fingerprint.cmp(&b.fingerprint)));
    Ok(groups)
}

fn add(groups: &mut BTreeMap<Fingerprint, Group>, row: Row) {
    let fingerprint = Fingerprint { workflow: row.workflow, step: row.error_step, code: row.error_code };
    let count: i64 = row.counts.iter().sum();
    let mut hours = [0; HOURS];
    for (age, count) in row.ages.iter().zip(&row.counts) {
        // The database's clock may have gone on since: what is newer than now is of this hour. What is older is not shown.
        let index = usize::try_from((*age).max(0)).ok().and_then(|age| HOURS.checked_sub(age + 1));
        if let Some(hour) = index.and_then(|index| hours.get_mut(index)) {
            *hour += count;
        }
    }
    let more = Group {
        fingerprint: fingerprint.clone(),
        class: row.error_class,
        count,
        is_capped: count >= row.counted_max,
        organizations: 1,
        first_seen: row.first_seen,
        last_seen: row.last_seen,
        hours,
        sample: row.id,
        sample_organization: row.organization_id,
    };
    let Some(group) = groups.get_mut(&fingerprint) else {
        groups.insert(fingerprint, more);
        return;
    };
    group.count += more.count;
    group.is_capped |= more.is_capped;
    group.organizations += 1;
    group.first_seen = group.first_seen.min(more.first_seen);
    for (sum, hour) in group.hours.iter_mut().zip(more.hours) {
        *sum += hour;
    }
    if more.last_seen > group.last_seen {
        group.last_seen = more.last_seen;
        group.class = more.class;
        group.sample = more.sample;
        group.sample_organization = more.sample_organization;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(minutes: i64, ages: Vec<i32>, counts: Vec<i64>) -> Row {
        let at = OffsetDateTime::UNIX_EPOCH + time::Duration::minutes(minutes);
        Row {
            organization_id: OrganizationId::new(),
            workflow: "fhir-bundle".to_owned(),
            error_code: "validation_failed".to_owned(),
            error_step: 0,
            error_class: "sender".to_owned(),
            id: JobId::new(),
            first_seen: at,
            last_seen: at,
            ages,
            counts,
            counted_max: COUNTED_MAX,
        }
    }

    #[test]
    fn groups_of_several_organizations_become_one() {
        let mut groups = BTreeMap::new();
        let newest = row(9, vec![0, 24], vec![3, 4]);
        let sample = newest.id;
        for row in [row(5, vec![23, 0], vec![2, 1]), newest, row(7, vec![24], vec![COUNTED_MAX])] {
            add(&mut groups, row);
        }
        let (fingerprint, group) = groups.pop_first().unwrap();
        assert!(groups.is_empty());
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert_eq!((group.count, group.organizations, group.is_capped), (10 + COUNTED_MAX, 3, true));
        assert_eq!((group.hours[0], group.hours[HOURS - 1], group.hours.iter().sum()), (2, 4, 6));
        assert_eq!(group.sample, sample);
        assert_eq!(group.last_seen - group.first_seen, time::Duration::minutes(4));
    }
}
