//! Pages of lists whose rows are told apart by an id and come newest first.

use crate::http::problem::Problem;
use serde::Deserialize;

/// Rows of a page, at most, and without a word of the caller's.
const PAGE_MAX: i64 = 1_000;

/// Query of such a list.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NewestFirst {
    /// `nextCursor` of the page before.
    #[param(pattern = "^[0-9a-f]{16}$")]
    pub cursor: Option<String>,
    /// Rows of a page, 1 to 1,000; 1,000 without it.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<i64>,
}

impl NewestFirst {
    /// Rows of the page, once both parameters are known to be good.
    ///
    /// # Errors
    /// `invalid_parameter`.
    pub fn limit(&self) -> Result<i64, Problem> {
        let is_id = |text: &str| {
            text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
        };
        if !self.cursor.as_deref().is_none_or(is_id) {
            return Err(Problem::parameter("cursor", "the nextCursor of an earlier page"));
        }
        let limit = self.limit.unwrap_or(PAGE_MAX);
        if (1..=PAGE_MAX).contains(&limit) {
            Ok(limit)
        } else {
            Err(Problem::parameter("limit", "a number from 1 to 1000"))
        }
    }
}

/// A page of rows of which one more than its limit was read, and the cursor of the next page.
pub fn cut<T>(mut rows: Vec<T>, limit: i64, id: impl Fn(&T) -> &String) -> (Vec<T>, Option<String>) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let is_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| is_more).map(|row| id(row).clone());
    (rows, next)
}
