//! XHTML of narratives (FHIR R4, narrative.html): well-formed, only the elements and attributes that the specification
//! allows, nothing that runs.
//!
//! One pass over the text without a tree: the stack of open elements holds positions, so depth costs eight bytes an
//! element and no recursion. The first fault of syntax ends the pass, since nothing behind it can be trusted.

mod scan;

use crate::ingest::fhir::issue::Severity;
use scan::{Attributes, Event, Fault, Scanner};
use std::borrow::Cow;
use std::collections::HashSet;

/// Problems that are kept of one narrative.
pub const NARRATIVE_PROBLEMS_MAX: usize = 10;

const XHTML: &str = "http://www.w3.org/1999/xhtml";

/// A problem of a narrative; its place is the `div`'s, which the caller knows.
#[cfg_attr(test, derive(Debug))]
#[derive(Clone, PartialEq, Eq)]
pub struct NarrativeProblem {
    /// How bad.
    pub severity: Severity,
    /// FHIR `IssueType`.
    pub code: &'static str,
    /// A sentence that names elements and attributes of HTML only.
    pub message: String,
}

/// Elements of txt-1.
const ELEMENTS: [&str; 53] = [
    "a",
    "abbr",
    "acronym",
    "address",
    "area",
    "b",
    "bdo",
    "big",
    "blockquote",
    "br",
    "caption",
    "cite",
    "code",
    "col",
    "colgroup",
    "dd",
    "dfn",
    "div",
    "dl",
    "dt",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "i",
    "img",
    "kbd",
    "li",
    "map",
    "ol",
    "p",
    "pre",
    "q",
    "samp",
    "small",
    "span",
    "strong",
    "sub",
    "sup",
    "table",
    "tbody",
    "td",
    "tfoot",
    "th",
    "thead",
    "tr",
    "tt",
    "ul",
    "var",
];

/// Other elements of HTML, so that a message can name them; sorted.
const REFUSED_ELEMENTS: &[&str] = &[
    "applet", "audio", "base", "basefont", "body", "button", "canvas", "center", "del", "details", "dir", "embed",
    "fieldset", "figure", "font", "footer", "form", "frame", "frameset", "head", "header", "html", "iframe", "input",
    "ins", "isindex", "label", "legend", "link", "main", "menu", "meta", "nav", "noframes", "noscript", "object",
    "optgroup", "option", "param", "s", "script", "section", "select", "source", "strike", "style", "summary", "svg",
    "textarea", "title", "track", "u", "video",
];

/// Attributes that every element may have.
const ATTRIBUTES: [&str; 22] = [
    "abbr",
    "accesskey",
    "align",
    "axis",
    "char",
    "charoff",
    "class",
    "colspan",
    "dir",
    "headers",
    "id",
    "lang",
    "rowspan",
    "scope",
    "span",
    "style",
    "tabindex",
    "title",
    "valign",
    "width",
    "xml:lang",
    "xml:space",
];

/// The same as sorted numbers: every tag is looked up.
const ELEMENT_KEYS: [u128; 53] = keys(ELEMENTS);
const ATTRIBUTE_KEYS: [u128; 22] = keys(ATTRIBUTES);

/// A name of up to 15 bytes as a number; all longer ones as one that no name has.
const fn key(name: &str) -> u128 {
    let bytes = name.as_bytes();
    if bytes.len() > 15 {
        return u128::MAX;
    }
    let mut key = bytes.len() as u128;
    let mut at = 0;
    while at < bytes.len() {
        key = key << 8 | bytes[at] as u128;
        at += 1;
    }
    key
}

const fn keys<const COUNT: usize>(names: [&str; COUNT]) -> [u128; COUNT] {
    let mut keys = [0; COUNT];
    let mut at = 0;
    while at < COUNT {
        // Insertion sort; this runs in the compiler.
        let key = key(names[at]);
        let mut to = at;
        while to > 0 && keys[to - 1] > key {
            keys[to] = keys[to - 1];
            to -= 1;
        }
        keys[to] = key;
        at += 1;
    }
    keys
}

/// Attributes of single elements.
const ELEMENT_ATTRIBUTES: &[(&str, &[&str])] = &[
    ("a", &["charset", "coords", "href", "hreflang", "name", "rel", "rev", "shape", "type"]),
    ("area", &["alt", "coords", "href", "nohref", "shape"]),
    ("blockquote", &["cite"]),
    ("img", &["alt", "border", "height", "ismap", "longdesc", "src", "usemap"]),
    ("map", &["name"]),
    ("pre", &["space"]),
    ("q", &["cite"]),
    ("table", &["border", "cellpadding", "cellspacing", "frame", "rules", "summary"]),
    ("td", &["nowrap"]),
    ("th", &["nowrap"]),
];

/// Attributes of the chapters of HTML 4.0 that txt-1 names, though HL7's list leaves them out: doubtful, not forbidden.
const DOUBTFUL_ATTRIBUTES: &[&str] =
    &["bgcolor", "clear", "compact", "datetime", "height", "noshade", "size", "start", "type", "value"];

/// Blocks that the XHTML grammar keeps out of paragraphs.
const BLOCKS: &[&str] = &["blockquote", "div", "ol", "p", "table", "ul"];

/// The problems of a narrative's `div`, decoded from JSON; the first [`NARRATIVE_PROBLEMS_MAX`].
#[must_use]
pub fn check_div(xhtml: &str) -> Vec<NarrativeProblem> {
    let mut check = Check::default();
    if let Err(fault) = check.run(xhtml) {
        check.put(Severity::Error, "invalid", fault.sentence());
    } else {
        check.finish();
    }
    check.problems
}

/// The ids and anchor names in a narrative, up to its first fault of syntax; one for each element that has it.
#[must_use]
pub fn ids(xhtml: &str) -> Vec<Cow<'_, str>> {
    let mut found = Vec::new();
    let mut scanner = Scanner::new(xhtml);
    while let Ok(Some(event)) = scanner.next_event() {
        let Event::Open { name, attributes, .. } = event else { continue };
        // An anchor may say the same as id and as name.
        let (mut id, mut anchor) = (None, None);
        for (attribute, value) in Attributes::new(attributes) {
            match attribute {
                "id" => id = Some(value),
                "name" if name == "a" => anchor = Some(value),
                _ => {}
            }
        }
        found.extend(id.map(scan::decode));
        found.extend(anchor.filter(|_| anchor != id).map(scan::decode));
    }
    found
}

#[derive(Default)]
struct Check<'a> {
    problems: Vec<NarrativeProblem>,
    /// Names of the open elements.
    open: Vec<&'a str>,
    /// Open elements that are paragraphs.
    paragraphs: usize,
    /// The root was closed.
    closed: bool,
    has_content: bool,
    has_block_in_paragraph: bool,
    ids: HashSet<Cow<'a, str>>,
    links: Vec<Cow<'a, str>>,
}

impl<'a> Check<'a> {
    fn put(&mut self, severity: Severity, code: &'static str, message: impl Into<String>) {
        if self.problems.len() < NARRATIVE_PROBLEMS_MAX {
            let problem = NarrativeProblem { severity, code, message: message.into() };
            // The same fault in every row of a table is told once.
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
        }
    }

    fn run(&mut self, xhtml: &'a str) -> Result<(), Fault> {
        let mut scanner = Scanner::new(xhtml);
        while let Some(event) = scanner.next_event()? {
            match event {
                Event::Open { name, attributes, empty } => self.open(name, attributes, empty)?,
                Event::Close { name } => self.close(name)?,
                Event::Text { has_content } => {
                    if has_content && self.open.is_empty() {
                        return Err(Fault::Outside);
                    }
                    self.has_content |= has_content;
                }
                Event::Instruction => {
                    self.put(Severity::Warning, "invalid", "A narrative should not hold processing instructions.");
                }
                Event::Other => {}
            }
        }
        if self.closed { Ok(()) } else { Err(Fault::Unclosed) }
    }

    fn open(&mut self, name: &'a str, attributes: &'a str, empty: bool) -> Result<(), Fault> {
        if self.closed {
            return Err(Fault::Outside);
        }
        let is_root = self.open.is_empty();
        if is_root && name != "div" {
            self.put(Severity::Error, "invalid", "A narrative must be one div element.");
        } else if ELEMENT_KEYS.binary_search(&key(name)).is_err() {
            self.refused(name);
        }
        if self.paragraphs > 0 && BLOCKS.contains(&name) && !self.has_block_in_paragraph {
            self.has_block_in_paragraph = true;
            self.put(Severity::Warning, "invalid", "A paragraph of a narrative should not hold block elements.");
        }
        self.attributes(name, attributes, is_root)?;
        self.has_content |= name == "img";
        if empty {
            self.closed = is_root;
        } else {
            self.paragraphs += usize::from(name == "p");
            self.open.push(name);
        }
        Ok(())
    }

    fn close(&mut self, name: &str) -> Result<(), Fault> {
        if self.open.pop() != Some(name) {
            return Err(Fault::Mismatch);
        }
        self.paragraphs -= usize::from(name == "p");
        self.closed = self.open.is_empty();
        Ok(())
    }

    fn refused(&mut self, name: &str) {
        let message = match REFUSED_ELEMENTS.binary_search(&name) {
            Ok(index) => format!("Narratives do not allow the element {} (txt-1).", REFUSED_ELEMENTS[index]),
            Err(_) => "The narrative has an element that narratives do not allow (txt-1).".to_owned(),
        };
        self.put(Severity::Error, "invariant", message);
    }

    fn attributes(&mut self, element: &str, attributes: &'a str, is_root: bool) -> Result<(), Fault> {
        let mut seen = Names::default();
        let mut namespace = None;
        for (name, value) in Attributes::new(attributes) {
            if !seen.insert(name) {
                return Err(Fault::Duplicate);
            }
            scan::check_references(value)?;
            match name {
                "xmlns" => namespace = Some(value),
                "id" => {
                    self.ids.insert(scan::decode(value));
                }
                "name" if element == "a" => {
                    self.ids.insert(scan::decode(value));
                }
                _ => {}
            }
            self.attribute(element, name, value);
        }
        let fits = match namespace {
            Some(namespace) => scan::decode(namespace) == XHTML,
            None => !is_root,
        };
        if !fits {
            let message = "The elements of a narrative must be in the namespace http://www.w3.org/1999/xhtml.";
            self.put(Severity::Error, "invalid", message);
        }
        Ok(())
    }

    fn attribute(&mut self, element: &str, name: &'a str, value: &'a str) {
        let of_element = || ELEMENT_ATTRIBUTES.iter().any(|(owner, names)| *owner == element && names.contains(&name));
        let allowed = ATTRIBUTE_KEYS.binary_search(&key(name)).is_ok() || name.starts_with("xmlns") || of_element();
        if !allowed {
            if let Some(doubtful) = DOUBTFUL_ATTRIBUTES.iter().find(|known| **known == name) {
                let message = format!("The attribute {doubtful} is not in HL7's list for narratives.");
                self.put(Severity::Warning, "invalid", message);
            } else if is_event(name) {
                self.put(Severity::Error, "invariant", "Narratives do not allow event attributes (txt-1).");
            } else {
                let message = "The narrative has an attribute that narratives do not allow (txt-1).";
                self.put(Severity::Error, "invariant", message);
            }
        }
        match name {
            "href" => {
                if runs(value) {
                    self.put(Severity::Error, "invariant", "A link of a narrative must not run a script (txt-1).");
                } else if let Some(target) = value.strip_prefix('#')
                    && !target.is_empty()
                {
                    self.links.push(scan::decode(target));
                }
            }
            "src" | "cite" | "longdesc" | "usemap" if runs(value) => {
                self.put(Severity::Error, "invariant", "A link of a narrative must not run a script (txt-1).");
            }
            "style" if contains_script(value) => {
                self.put(Severity::Error, "invariant", "A style of a narrative must not run a script (txt-1).");
            }
            _ => {}
        }
    }

    fn finish(&mut self) {
        if !self.has_content {
            self.put(Severity::Error, "invariant", "A narrative must have text or an image (txt-2).");
        }
        if self.links.iter().any(|link| !self.ids.contains(link)) {
            let message = "A link inside the narrative leads to no id or name in it.";
            self.put(Severity::Warning, "not-found", message);
        }
    }
}

/// `onclick`, `onload`, …
fn is_event(name: &str) -> bool {
    name.len() > 2 && name.as_bytes()[..2].eq_ignore_ascii_case(b"on")
}

/// The names of a tag's attributes. A handful is compared one by one; a hostile thousand goes through a set.
#[derive(Default)]
struct Names<'a> {
    few: [&'a str; 8],
    count: usize,
    many: Option<HashSet<&'a str>>,
}

impl<'a> Names<'a> {
    fn insert(&mut self, name: &'a str) -> bool {
        if self.few[..self.count].contains(&name) {
            return false;
        }
        if self.count < self.few.len() {
            self.few[self.count] = name;
            self.count += 1;
            return true;
        }
        self.many.get_or_insert_default().insert(name)
    }
}

/// A URL's scheme runs code where it is followed. Browsers pass over blanks and control characters within the scheme.
fn runs(url: &str) -> bool {
    let mut scheme = String::new();
    for character in scan::characters(url) {
        match character {
            c if c.is_whitespace() || c.is_control() => {}
            ':' => {
                return matches!(scheme.as_str(), "javascript" | "vbscript" | "livescript") || {
                    // A data URL is harmless as an image only.
                    scheme == "data" && !is_image(url)
                };
            }
            c if c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.') => {
                if scheme.len() > 16 {
                    return false;
                }
                scheme.push(c.to_ascii_lowercase());
            }
            _ => return false,
        }
    }
    false
}

/// A data URL of a raster image, or of plain text.
fn is_image(url: &str) -> bool {
    let start: String = scan::characters(url)
        .filter(|c| !c.is_whitespace() && !c.is_control())
        .take(32)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let Some(media) = start.strip_prefix("data:") else { return false };
    (media.starts_with("image/") && !media.starts_with("image/svg"))
        || media.starts_with("text/plain")
        || media.starts_with("application/pdf")
}

fn contains_script(style: &str) -> bool {
    let bytes = style.as_bytes();
    let begins =
        |at: usize, word: &[u8]| bytes.get(at..at + word.len()).is_some_and(|there| there.eq_ignore_ascii_case(word));
    bytes.iter().enumerate().any(|(at, byte)| match byte {
        b'j' | b'J' => begins(at, b"javascript:"),
        b'e' | b'E' => begins(at, b"expression("),
        b'-' => begins(at, b"-moz-binding"),
        _ => false,
    })
}

#[cfg(test)]
mod tests;
