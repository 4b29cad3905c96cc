//! The XML of a narrative as a stream of events (XML 1.0, without a document type).

use std::borrow::Cow;

/// What stands next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// `<name attributes>` or `<name attributes/>`
    Open {
        /// As written.
        name: &'a str,
        /// The text between name and end; its syntax was checked.
        attributes: &'a str,
        /// The tag closes itself.
        empty: bool,
    },
    /// `</name>`
    Close {
        /// As written.
        name: &'a str,
    },
    /// Text or CDATA.
    Text {
        /// More than white space.
        has_content: bool,
    },
    /// `<?…?>`
    Instruction,
    /// A comment.
    Other,
}

/// A fault of syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A tag, comment or section that does not follow the grammar or does not end.
    Syntax,
    /// `<!DOCTYPE`
    DocumentType,
    /// A closing tag without its opening tag.
    Mismatch,
    /// An element that is not closed.
    Unclosed,
    /// Text or a second element beside the root.
    Outside,
    /// Two attributes with the same name.
    Duplicate,
    /// An entity that XML does not define.
    Entity,
    /// `&` that begins no entity.
    Ampersand,
    /// A number of no character.
    Character,
}

impl Fault {
    /// What to tell the sender.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Syntax => "The narrative is not well-formed XHTML.",
            Self::DocumentType => "A narrative must not have a document type declaration.",
            Self::Mismatch => "The narrative is not well-formed: a closing tag does not match the open element.",
            Self::Unclosed => "The narrative is not well-formed: an element is not closed.",
            Self::Outside => "The narrative is not well-formed: it must be one div element and nothing beside it.",
            Self::Duplicate => "The narrative is not well-formed: a tag has the same attribute twice.",
            Self::Entity => {
                "The narrative has an entity that XML does not define: only &lt; &gt; &amp; &quot; and \
                 &apos; may be named; write the character itself or its number."
            }
            Self::Ampersand => "The narrative is not well-formed: an ampersand must be written as &amp;.",
            Self::Character => "The narrative has a number of a character that XML does not allow.",
        }
    }
}

/// Reads events from front to back, each byte a bounded number of times.
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next event; none at the end.
    pub fn next_event(&mut self) -> Result<Option<Event<'a>>, Fault> {
        let text = self.text;
        let rest = &text[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        if !rest.starts_with('<') {
            let end = rest.find('<').unwrap_or(rest.len());
            self.at += end;
            let run = &rest[..end];
            check_references(run)?;
            // A reference is content: a number of a blank was meant to be seen.
            let has_content = run.bytes().any(|byte| !is_space(byte));
            return Ok(Some(Event::Text { has_content }));
        }
        match rest.as_bytes().get(1) {
            Some(b'/') => self.close(&rest[2..]).map(Some),
            Some(b'!') => self.declaration(rest).map(Some),
            Some(b'?') => {
                let end = rest.find("?>").ok_or(Fault::Syntax)?;
                self.at += end + 2;
                Ok(Some(Event::Instruction))
            }
            _ => self.open(&rest[1..]).map(Some),
        }
    }

    fn open(&mut self, rest: &'a str) -> Result<Event<'a>, Fault> {
        let length = name_length(rest).ok_or(Fault::Syntax)?;
        let name = &rest[..length];
        let body = &rest[length..];
        if body.starts_with('>') {
            self.at += length + 2;
            return Ok(Event::Open { name, attributes: "", empty: false });
        }
        let mut attributes = Attributes::new(body);
        while attributes.next().is_some() {}
        if attributes.fault {
            return Err(Fault::Syntax);
        }
        let end = attributes.at;
        let (empty, after) = match &body.as_bytes()[end..] {
            [b'>', ..] => (false, 1),
            [b'/', b'>', ..] => (true, 2),
            _ => return Err(Fault::Syntax),
        };
        self.at += 1 + length + end + after;
        Ok(Event::Open { name, attributes: &body[..end], empty })
    }

    fn close(&mut self, rest: &'a str) -> Result<Event<'a>, Fault> {
        let length = name_length(rest).ok_or(Fault::Syntax)?;
        let after = &rest.as_bytes()[length..];
        let blanks = after.iter().take_while(|byte| is_space(**byte)).count();
        if after.get(blanks) != Some(&b'>') {
            return Err(Fault::Syntax);
        }
        self.at += 2 + length + blanks + 1;
        Ok(Event::Close { name: &rest[..length] })
    }

    fn declaration(&mut self, rest: &'a str) -> Result<Event<'a>, Fault> {
        if let Some(comment) = rest.strip_prefix("<!--") {
            // "--" ends a comment; nothing but ">" may follow it.
            let end = comment.find("--").ok_or(Fault::Syntax)?;
            if comment.as_bytes().get(end + 2) != Some(&b'>') {
                return Err(Fault::Syntax);
            }
            self.at += 4 + end + 3;
            return Ok(Event::Other);
        }
        if let Some(section) = rest.strip_prefix("<![CDATA[") {
            let end = section.find("]]>").ok_or(Fault::Syntax)?;
            self.at += 9 + end + 3;
            let has_content = section[..end].bytes().any(|byte| !is_space(byte));
            return Ok(Event::Text { has_content });
        }
        let is_type = rest.as_bytes()[2..].get(..7).is_some_and(|word| word.eq_ignore_ascii_case(b"DOCTYPE"));
        Err(if is_type { Fault::DocumentType } else { Fault::Syntax })
    }
}

/// The attributes of a tag, raw; ends before `>` or `/>`, or at a fault.
pub struct Attributes<'a> {
    text: &'a str,
    at: usize,
    fault: bool,
}

impl<'a> Attributes<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, fault: false }
    }

    fn blanks(&mut self) -> usize {
        let count = self.text.as_bytes()[self.at..].iter().take_while(|byte| is_space(**byte)).count();
        self.at += count;
        count
    }

    fn take(&mut self) -> Option<(&'a str, &'a str)> {
        let rest = &self.text[self.at..];
        let length = name_length(rest)?;
        let name = &rest[..length];
        self.at += length;
        self.blanks();
        if self.text.as_bytes().get(self.at) != Some(&b'=') {
            return None;
        }
        self.at += 1;
        self.blanks();
        let rest = &self.text[self.at..];
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let end = rest[1..].find(quote)?;
        let value = &rest[1..=end];
        self.at += end + 2;
        // The grammar keeps "<" out of values.
        (!value.contains('<')).then_some((name, value))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let blanks = self.blanks();
        match self.text.as_bytes().get(self.at) {
            None | Some(b'>' | b'/') => return None,
            Some(_) if blanks == 0 => {
                self.fault = true;
                return None;
            }
            Some(_) => {}
        }
        let attribute = self.take();
        self.fault = attribute.is_none();
        attribute
    }
}

/// The bytes of the name that the text begins with.
fn name_length(text: &str) -> Option<usize> {
    // Nearly all names are ASCII, and end at an ASCII character.
    let bytes = text.as_bytes();
    let ascii = bytes.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
    if ascii > 0 && bytes[0].is_ascii_alphabetic() && matches!(bytes.get(ascii), Some(b'>' | b'=' | b'/' | b' ')) {
        return Some(ascii);
    }
    let starts = |c: char| c.is_alphabetic() || matches!(c, '_' | ':');
    let goes_on = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '-' | '.' | '\u{b7}');
    if !text.starts_with(starts) {
        return None;
    }
    Some(text.find(|c: char| !goes_on(c)).unwrap_or(text.len()))
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// What a run of text holds: a character, or a reference that begins with `&`.
enum Piece {
    Character(char),
    Bad(Fault),
}

/// The characters of raw text, references resolved.
struct Pieces<'a> {
    text: &'a str,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let first = self.text.chars().next()?;
        if first != '&' {
            self.text = &self.text[first.len_utf8()..];
            return Some(Piece::Character(first));
        }
        let body = &self.text[1..];
        // The longest reference is a number; a name that is longer is none that XML knows.
        let end = body.bytes().take(64).position(|byte| byte == b';');
        self.text = match end {
            Some(end) => &body[end + 1..],
            None => body,
        };
        Some(match end {
            Some(end) => reference(&body[..end]),
            None => Piece::Bad(Fault::Ampersand),
        })
    }
}

fn reference(name: &str) -> Piece {
    let named = match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    };
    if let Some(character) = named {
        return Piece::Character(character);
    }
    let Some(number) = name.strip_prefix('#') else {
        return Piece::Bad(match name_length(name) {
            Some(length) if length == name.len() => Fault::Entity,
            _ => Fault::Ampersand,
        });
    };
    let (digits, radix) = number.strip_prefix('x').map_or((number, 10), |hex| (hex, 16));
    if digits.is_empty() || !digits.bytes().all(|byte| char::from(byte).is_digit(radix)) {
        return Piece::Bad(Fault::Ampersand);
    }
    let character = u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
    let allowed = |c: &char| matches!(*c, '\t' | '\n' | '\r' | '\u{20}'..='\u{fffd}' | '\u{10000}'..);
    character.filter(allowed).map_or(Piece::Bad(Fault::Character), Piece::Character)
}

/// Every `&` of raw text begins a reference of XML.
pub fn check_references(text: &str) -> Result<(), Fault> {
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        let mut pieces = Pieces { text: &rest[start..] };
        if let Some(Piece::Bad(fault)) = pieces.next() {
            return Err(fault);
        }
        rest = pieces.text;
    }
    Ok(())
}

/// The characters of raw text; a bad reference reads as its ampersand.
pub fn characters(text: &str) -> impl Iterator<Item = char> {
    Pieces { text }.map(|piece| match piece {
        Piece::Character(character) => character,
        Piece::Bad(_) => '&',
    })
}

/// Raw text with its references resolved.
pub fn decode(text: &str) -> Cow<'_, str> {
    if text.contains('&') { characters(text).collect::<String>().into() } else { text.into() }
}
