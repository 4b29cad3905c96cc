//! One page of `ListObjectsV2` over a sorted index. Pure.

use super::store::Summary;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::BTreeMap;
use std::ops::Bound;

/// S3's own limit, and what a request gets that asks for more.
pub const PAGE_MAX: usize = 1000;

/// What to list.
#[derive(Default)]
pub struct Query<'a> {
    pub prefix: &'a str,
    pub delimiter: Option<&'a str>,
    pub after: Option<Position>,
    pub limit: usize,
}

/// The last entry of the page before.
#[derive(Clone, PartialEq, Eq)]
pub enum Position {
    Key(String),
    /// A common prefix: everything below it has been told.
    Prefix(String),
}

/// Keys and common prefixes in one order, as S3 counts them.
#[derive(PartialEq, Eq)]
pub enum Entry {
    Object(String, Summary),
    Prefix(String),
}

/// A page, and where the next one begins if there is one.
pub struct Page {
    pub entries: Vec<Entry>,
    pub next: Option<Position>,
}

impl Position {
    pub fn to_token(&self) -> String {
        let (kind, text) = match self {
            Self::Key(text) => ('k', text),
            Self::Prefix(text) => ('p', text),
        };
        URL_SAFE_NO_PAD.encode(format!("{kind}{text}"))
    }

    pub fn from_token(token: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        match text.split_at_checked(1)? {
            ("k", key) => Some(Self::Key(key.to_owned())),
            ("p", prefix) => Some(Self::Prefix(prefix.to_owned())),
            _ => None,
        }
    }
}

pub fn page(index: &BTreeMap<String, Summary>, query: &Query<'_>) -> Page {
    let limit = query.limit.min(PAGE_MAX);
    let mut entries: Vec<Entry> = Vec::new();
    let mut start = match &query.after {
        Some(Position::Key(key)) if key.as_str() >= query.prefix => Bound::Excluded(key.clone()),
        Some(Position::Prefix(prefix)) => match behind(prefix) {
            Some(key) if key.as_str() >= query.prefix => Bound::Included(key),
            Some(_) => Bound::Included(query.prefix.to_owned()),
            None => return Page { entries, next: None },
        },
        _ => Bound::Included(query.prefix.to_owned()),
    };
    // Each turn of the loop jumps over one common prefix, so a page costs what it holds and not what lies below.
    while let Some((key, summary)) = index.range((start, Bound::Unbounded)).next() {
        let Some(rest) = key.strip_prefix(query.prefix) else { break };
        if entries.len() == limit {
            let next = entries.last().map(|entry| match entry {
                Entry::Object(key, _) => Position::Key(key.clone()),
                Entry::Prefix(prefix) => Position::Prefix(prefix.clone()),
            });
            return Page { entries, next };
        }
        let delimiter = query.delimiter.filter(|delimiter| !delimiter.is_empty());
        if let Some((at, delimiter)) = delimiter.and_then(|delimiter| Some((rest.find(delimiter)?, delimiter))) {
            let common = format!("{}{}", query.prefix, &rest[..at + delimiter.len()]);
            let next = behind(&common);
            entries.push(Entry::Prefix(common));
            let Some(next) = next else { break };
            start = Bound::Included(next);
        } else {
            entries.push(Entry::Object(key.clone(), summary.clone()));
            start = Bound::Excluded(key.clone());
        }
    }
    Page { entries, next: None }
}

/// The first text that sorts behind everything that begins with `prefix` (UTF-8 sorts by code point).
fn behind(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // The range steps over the surrogates; `char::MAX` has no successor, so the character before it moves.
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(keys: &[&str]) -> BTreeMap<String, Summary> {
        keys.iter().map(|key| ((*key).to_owned(), Summary::default())).collect()
    }

    fn names(entries: &[Entry]) -> Vec<String> {
        entries
            .iter()
            .map(|entry| match entry {
                Entry::Object(key, _) => key.clone(),
                Entry::Prefix(prefix) => format!("<{prefix}>"),
            })
            .collect()
    }

    fn all_pages(
        index: &BTreeMap<String, Summary>,
        prefix: &str,
        delimiter: Option<&str>,
        limit: usize,
    ) -> Vec<String> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page = page(index, &Query { prefix, delimiter, after, limit });
            all.extend(names(&page.entries));
            let Some(next) = page.next else { return all };
            after = Some(Position::from_token(&next.to_token()).unwrap());
        }
    }

    #[test]
    fn keys_below_a_common_prefix_are_told_once() {
        let index = index(&["a", "a/1", "a/2", "a0", "b/1", "b/x/1", "c"]);
        assert_eq!(all_pages(&index, "", Some("/"), 1000), ["a", "<a/>", "a0", "<b/>", "c"]);
        assert_eq!(all_pages(&index, "b/", Some("/"), 1), ["b/1", "<b/x/>"]);
    }

    #[test]
    fn start_after_a_key_that_does_not_exist_works() {
        let index = index(&["l/1", "l/3"]);
        let query = Query { prefix: "l/", after: Some(Position::Key("l/2".into())), limit: 10, ..Query::default() };
        assert_eq!(names(&page(&index, &query).entries), ["l/3"]);
        let query = Query { prefix: "l/", after: Some(Position::Key("a".into())), limit: 10, ..Query::default() };
        assert_eq!(names(&page(&index, &query).entries), ["l/1", "l/3"]);
    }

    proptest! {
        #[test]
        fn pages_of_any_size_hold_the_same_entries(keys in proptest::collection::btree_set("[ab/\u{d7ff}\u{10ffff}]{1,6}", 0..30), limit in 1usize..5, prefix in "[ab]?") {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let index = index(&keys);
            for delimiter in [None, Some("/"), Some("\u{10ffff}")] {
                prop_assert_eq!(all_pages(&index, &prefix, delimiter, limit), all_pages(&index, &prefix, delimiter, 1000));
            }
            let flat = all_pages(&index, &prefix, None, limit);
            let expected: Vec<&str> = keys.iter().copied().filter(|key| key.starts_with(&prefix)).collect();
            prop_assert_eq!(flat, expected);
        }
    }
}
