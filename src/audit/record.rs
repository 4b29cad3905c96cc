//! A record as it is stored, shown and sealed: one canonical line of JSON (docs/audit.md).

use super::merkle::{Hash, leaf_hash};
use crate::ids::{JobId, OrganizationId, PatientId};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use sqlx::FromRow;
use time::OffsetDateTime;

/// Where a record stands in the order of sealing: the number of its transaction, then its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Of the transaction that wrote the record.
    pub xid: i64,
    /// The record's.
    pub id: i64,
}

impl Position {
    /// Before every record.
    pub const START: Self = Self { xid: 0, id: 0 };
    /// Behind every record.
    pub const END: Self = Self { xid: i64::MAX, id: i64::MAX };
}

/// An audit record. Its JSON is canonical: these members in this order, those that are not set left out, no white space
/// between them.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = AuditRecord)]
#[serde(rename_all = "camelCase")]
pub struct StoredRecord {
    /// Number of the record.
    pub id: i64,
    /// Number of the transaction that wrote it.
    pub xid: i64,
    /// When it was written; microseconds.
    #[serde(serialize_with = "micros")]
    pub at: OffsetDateTime,
    /// Whose data; that of the platform for acts on the installation itself.
    #[schema(value_type = String, example = "org_01h455vb4pex5vsknk084sn02q")]
    pub organization_id: OrganizationId,
    /// `noun.verb`
    #[schema(example = "job.accepted")]
    pub event: String,
    /// C, R, U, D or E (FHIR AuditEvent.action).
    #[schema(example = "C")]
    pub action: String,
    /// success, denied or failure.
    #[schema(example = "success")]
    pub outcome: String,
    /// Who.
    #[schema(example = "key:0123456789abcdef")]
    pub actor: String,
    /// How the actor was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<String>,
    /// The peer's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The reason that a person gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// The patient concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub patient_id: Option<PatientId>,
    /// The job concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub job_id: Option<JobId>,
    /// The step concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Another resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The request that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// SHA-256 of the bytes concerned, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_sha256: Option<String>,
    /// Version of the program that wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program_version: Option<String>,
    /// Codes and counts, as PostgreSQL prints the jsonb.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub detail: Option<Box<RawValue>>,
}

/// RFC 3339 in UTC with all six digits of a microsecond.
fn micros<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&instant(*at))
}

/// RFC 3339 in UTC with all six digits of a microsecond.
#[must_use]
pub fn instant(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.microsecond()
    )
}

impl FromRow<'_, sqlx::postgres::PgRow> for StoredRecord {
    fn from_row(row: &sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
        use sqlx::Row as _;
        let detail: Option<String> = row.try_get(18)?;
        let detail = detail.map(RawValue::from_string).transpose();
        let body: Option<Vec<u8>> = row.try_get(16)?;
        Ok(Self {
            id: row.try_get(0)?,
            xid: row.try_get(1)?,
            at: row.try_get(2)?,
            organization_id: row.try_get(3)?,
            event: row.try_get(4)?,
            action: row.try_get(5)?,
            outcome: row.try_get(6)?,
            actor: row.try_get(7)?,
            authentication: row.try_get(8)?,
            address: row.try_get(9)?,
            purpose: row.try_get(10)?,
            patient_id: row.try_get(11)?,
            job_id: row.try_get(12)?,
            step: row.try_get(13)?,
            resource: row.try_get(14)?,
            request_id: row.try_get(15)?,
            body_sha256: body.map(hex::encode),
            program_version: row.try_get(17)?,
            detail: detail.map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        })
    }
}

/// A record's line with what is needed to compare it with a leaf.
#[derive(Debug, Clone)]
pub struct Line {
    /// Number of the record.
    pub id: i64,
    /// Place in the order of sealing.
    pub position: Position,
    /// Canonical JSON, without a line feed.
    pub text: Vec<u8>,
    /// Of the text.
    pub hash: Hash,
}

impl StoredRecord {
    /// Its position.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { xid: self.xid, id: self.id }
    }

    /// Its canonical line, hashed.
    #[must_use]
    pub fn line(&self) -> Line {
        // Plain members: this cannot fail.
        let text = serde_json::to_vec(self).unwrap_or_default();
        Line { id: self.id, position: self.position(), hash: leaf_hash(&text), text }
    }
}

impl Line {
    /// When the record was written, as its line says.
    #[must_use]
    pub fn at(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Written {
            at: String,
        }
        serde_json::from_slice::<Written>(&self.text).ok().map(|written| written.at)
    }

    /// A line of an export; none if it is not a record.
    #[must_use]
    pub fn parse(text: Vec<u8>) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Place {
            id: i64,
            xid: i64,
        }
        let Place { id, xid } = serde_json::from_slice(&text).ok()?;
        Some(Self { id, position: Position { xid, id }, hash: leaf_hash(&text), text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn the_canonical_line_is_the_one_of_the_docs() {
        let record = StoredRecord {
            id: 17,
            xid: 4711,
            at: datetime!(2026-11-22 10:05:00.000120 +1),
            organization_id: "org_01h455vb4pex5vsknk084sn02q".parse().unwrap(),
            event: "organization.settings_changed".to_owned(),
            action: "U".to_owned(),
            outcome: "success".to_owned(),
            actor: "key:0123456789abcdef".to_owned(),
            authentication: Some("api_key".to_owned()),
            address: None,
            purpose: Some("a \"reason\"\nin two lines, ü".to_owned()),
            patient_id: None,
            job_id: None,
            step: None,
            resource: None,
            request_id: Some("req-1".to_owned()),
            body_sha256: None,
            program_version: Some("0.1.0".to_owned()),
            detail: Some(RawValue::from_string(r#"{"n": 1.10}"#.to_owned()).unwrap()),
        };
        let line = record.line();
        let expected = r#"{"id":17,"xid":4711,"at":"2026-11-22T09:05:00.000120Z","organizationId":"org_01h455vb4pex5vsknk084sn02q","event":"organization.settings_changed","action":"U","outcome":"success","actor":"key:0123456789abcdef","authentication":"api_key","purpose":"a \"reason\"\nin two lines, ü","requestId":"req-1","programVersion":"0.1.0","detail":{"n": 1.10}}"#;
        assert_eq!(String::from_utf8(line.text.clone()).unwrap(), expected);
        let page = include_str!("../../docs/audit.md");
        assert!(page.contains(expected), "docs/audit.md shows another line");
        assert!(page.contains(&hex::encode(line.hash)), "docs/audit.md shows another hash: {}", hex::encode(line.hash));
        assert_eq!(Line::parse(line.text).unwrap().position, Position { xid: 4711, id: 17 });
    }
}
