//! The grammar of SNOMED CT's expression constraint language, brief and long syntax (ECL 2.2), as a yes or no.
//!
//! One pass without backtracking: a parenthesis may hold an expression or a refinement, and what it holds is known only
//! behind it, so the parser reads both and looks at what it got. What stands in filters (`{{ … }}`) is only balanced:
//! their grammar grows with each version of the language.

/// Nesting of parentheses that is followed; what is deeper is taken for legal.
const DEPTH_MAX: u32 = 64;

/// The text is an expression constraint.
#[must_use]
pub fn is_expression_constraint(text: &str) -> bool {
    let mut parser = Parser { text: text.as_bytes(), at: 0 };
    match parser.group(0) {
        Ok(Kind::Expression) => {
            parser.blanks();
            parser.at == parser.text.len()
        }
        Ok(Kind::Refinement) | Err(Stop::Illegal) => false,
        Err(Stop::TooDeep) => true,
    }
}

enum Stop {
    Illegal,
    TooDeep,
}

type Parsed<T> = Result<T, Stop>;

/// What a parenthesis turned out to hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Expression,
    Refinement,
}

/// What joins two parts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Joint {
    And,
    Or,
    Minus,
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

/// Operators of the long syntax, in lower case.
const OPERATORS: &[&str] = &[
    "ancestorof",
    "ancestororselfof",
    "bottomof",
    "childof",
    "childorselfof",
    "descendantof",
    "descendantorselfof",
    "parentof",
    "parentorselfof",
    "topof",
];

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.text[self.at..].starts_with(token.as_bytes());
        if found {
            self.at += token.len();
        }
        found
    }

    fn require(&mut self, token: &str) -> Parsed<()> {
        if self.eat(token) { Ok(()) } else { Err(Stop::Illegal) }
    }

    /// White space and comments; how many bytes.
    fn blanks(&mut self) -> usize {
        let start = self.at;
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                Some(b'/') if self.text[self.at..].starts_with(b"/*") => {
                    let body = &self.text[self.at + 2..];
                    let Some(end) = body.windows(2).position(|pair| pair == b"*/") else { break };
                    self.at += 2 + end + 2;
                }
                _ => break,
            }
        }
        self.at - start
    }

    /// The word that stands here, without moving: its length and itself in lower case.
    fn word(&self) -> (usize, String) {
        let rest = &self.text[self.at..];
        let length = rest.iter().take(32).take_while(|byte| byte.is_ascii_alphabetic()).count();
        (length, String::from_utf8_lossy(&rest[..length]).to_ascii_lowercase())
    }

    fn eat_word(&mut self, expected: &str) -> bool {
        let (length, word) = self.word();
        let found = word == expected;
        if found {
            self.at += length;
        }
        found
    }

    /// An expression or a refinement, up to what cannot belong to it.
    fn group(&mut self, depth: u32) -> Parsed<Kind> {
        if depth > DEPTH_MAX {
            return Err(Stop::TooDeep);
        }
        self.blanks();
        let first = self.part(depth)?;
        self.blanks();
        if first == Kind::Expression && self.eat(":") {
            self.refinement(depth)?;
            return Ok(Kind::Expression);
        }
        if first == Kind::Expression && self.peek() == Some(b'.') {
            while self.eat(".") {
                self.blanks();
                self.operand(depth)?;
                self.blanks();
            }
            return Ok(Kind::Expression);
        }
        let mut joint = None;
        while let Some(next) = self.joint() {
            // Expressions are not joined by two kinds of joint without parentheses, and excluded once only.
            let repeats = joint.is_none_or(|joint| joint == next && next != Joint::Minus);
            if first == Kind::Expression && !repeats || first == Kind::Refinement && next == Joint::Minus {
                return Err(Stop::Illegal);
            }
            joint = Some(next);
            self.blanks();
            if self.part(depth)? != first {
                return Err(Stop::Illegal);
            }
            self.blanks();
        }
        Ok(first)
    }

    /// What follows a colon: attributes and groups of them.
    fn refinement(&mut self, depth: u32) -> Parsed<()> {
        match self.group(depth + 1)? {
            Kind::Refinement => Ok(()),
            Kind::Expression => Err(Stop::Illegal),
        }
    }

    fn joint(&mut self) -> Option<Joint> {
        if self.eat(",") {
            return Some(Joint::And);
        }
        let start = self.at;
        let (length, word) = self.word();
        let joint = match word.as_str() {
            "and" => Joint::And,
            "or" => Joint::Or,
            "minus" => Joint::Minus,
            _ => return None,
        };
        self.at += length;
        if self.blanks() == 0 {
            self.at = start;
            return None;
        }
        Some(joint)
    }

    /// An operand, an attribute with its value, or a group of attributes.
    fn part(&mut self, depth: u32) -> Parsed<Kind> {
        let has_cardinality = self.eat("[");
        if has_cardinality {
            self.cardinality()?;
            self.require("]")?;
            self.blanks();
        }
        if self.peek() == Some(b'{') {
            self.at += 1;
            self.refinement(depth)?;
            self.blanks();
            self.require("}")?;
            return Ok(Kind::Refinement);
        }
        let is_reverse = self.reverse_flag();
        let kind = self.operand_or_group(depth)?;
        if kind == Kind::Refinement {
            return if has_cardinality || is_reverse { Err(Stop::Illegal) } else { Ok(Kind::Refinement) };
        }
        self.blanks();
        match self.comparison()? {
            Some(is_equality) => {
                self.blanks();
                self.value(is_equality, depth)?;
                Ok(Kind::Refinement)
            }
            None if has_cardinality || is_reverse => Err(Stop::Illegal),
            None => Ok(Kind::Expression),
        }
    }

    fn reverse_flag(&mut self) -> bool {
        let start = self.at;
        if self.eat_word("reverseof") || self.eat_word("r") {
            // "R#1" would be an identifier of a scheme named R.
            if self.peek() != Some(b'#') {
                self.blanks();
                return true;
            }
            self.at = start;
        }
        false
    }

    fn cardinality(&mut self) -> Parsed<()> {
        self.blanks();
        self.count()?;
        let blanks = self.blanks();
        let is_range = self.eat("..") || (blanks > 0 && self.eat_word("to"));
        if !is_range {
            return Err(Stop::Illegal);
        }
        self.blanks();
        if !self.eat("*") && !self.eat_word("many") {
            self.count()?;
        }
        self.blanks();
        Ok(())
    }

    fn count(&mut self) -> Parsed<()> {
        let digits = self.digits();
        if digits == 0 { Err(Stop::Illegal) } else { Ok(()) }
    }

    fn digits(&mut self) -> usize {
        let count = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn operand(&mut self, depth: u32) -> Parsed<()> {
        match self.operand_or_group(depth)? {
            Kind::Expression => Ok(()),
            Kind::Refinement => Err(Stop::Illegal),
        }
    }

    /// `[operator] [^] (concept | * | ( … )) {{ … }}*`; a parenthesis without operator may hold a refinement.
    fn operand_or_group(&mut self, depth: u32) -> Parsed<Kind> {
        let has_operator = self.operator()?;
        let kind = match self.peek() {
            Some(b'(') => {
                self.at += 1;
                let kind = self.group(depth + 1)?;
                self.blanks();
                self.require(")")?;
                if kind == Kind::Refinement && has_operator {
                    return Err(Stop::Illegal);
                }
                kind
            }
            Some(b'*') => {
                self.at += 1;
                Kind::Expression
            }
            _ if self.eat_word("any") => Kind::Expression,
            _ => {
                self.concept()?;
                Kind::Expression
            }
        };
        if kind == Kind::Refinement {
            return Ok(kind);
        }
        loop {
            let before = self.at;
            self.blanks();
            if !self.text[self.at..].starts_with(b"{{") {
                self.at = before;
                return Ok(kind);
            }
            self.filter()?;
        }
    }

    fn operator(&mut self) -> Parsed<bool> {
        let start = self.at;
        let symbols = ["<<!", ">>!", "!!>", "!!<", "<<", ">>", "<!", ">!", "<", ">"];
        if symbols.iter().any(|symbol| self.eat(symbol)) {
            self.blanks();
        } else if OPERATORS.contains(&self.word().1.as_str()) {
            self.at += self.word().0;
            self.blanks();
        }
        if self.eat("^") || self.eat_word("memberof") {
            self.blanks();
            if self.eat("[") {
                // Names of fields, or "*".
                let end = self.text[self.at..].iter().position(|byte| *byte == b']').ok_or(Stop::Illegal)?;
                self.at += end + 1;
                self.blanks();
            }
        }
        Ok(self.at > start)
    }

    /// An identifier of SNOMED CT or of an alternate scheme, with its term.
    fn concept(&mut self) -> Parsed<()> {
        match self.peek() {
            Some(b'1'..=b'9') => {
                let digits = self.digits();
                if !(6..=18).contains(&digits) {
                    return Err(Stop::Illegal);
                }
            }
            Some(b'"') => self.string()?,
            Some(byte) if byte.is_ascii_alphabetic() => {
                let goes_on = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(**byte, b'-' | b'_' | b'.');
                let alias = self.text[self.at..].iter().take_while(goes_on).count();
                self.at += alias;
                self.require("#")?;
                let code = self.text[self.at..].iter().take_while(goes_on).count();
                self.at += code;
                if code == 0 {
                    return Err(Stop::Illegal);
                }
            }
            _ => return Err(Stop::Illegal),
        }
        let before = self.at;
        self.blanks();
        if self.eat("|") {
            let end = self.text[self.at..].iter().position(|byte| *byte == b'|').ok_or(Stop::Illegal)?;
            if self.text[self.at..self.at + end].iter().all(u8::is_ascii_whitespace) {
                return Err(Stop::Illegal);
            }
            self.at += end + 1;
        } else {
            self.at = before;
        }
        Ok(())
    }

    /// A string in quotation marks with its escapes.
    fn string(&mut self) -> Parsed<()> {
        self.require("\"")?;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.at = (self.at + 2).min(self.text.len()),
                Some(_) => self.at += 1,
                None => return Err(Stop::Illegal),
            }
        }
    }

    /// `{{ … }}`, strings and terms passed over.
    fn filter(&mut self) -> Parsed<()> {
        self.require("{{")?;
        let mut in_term = false;
        loop {
            match self.peek() {
                None => return Err(Stop::Illegal),
                Some(b'|') => {
                    in_term = !in_term;
                    self.at += 1;
                }
                Some(_) if in_term => self.at += 1,
                Some(b'"') => self.string()?,
                Some(b'}') if self.eat("}}") => return Ok(()),
                Some(_) => self.at += 1,
            }
        }
    }

    /// A comparison operator; true if it is one of equality.
    fn comparison(&mut self) -> Parsed<Option<bool>> {
        if self.eat("=") || self.eat("!=") || self.eat("<>") {
            return Ok(Some(true));
        }
        if self.eat_word("not") {
            self.blanks();
            self.require("=")?;
            return Ok(Some(true));
        }
        let is_order = self.eat("<=") || self.eat(">=") || self.eat("<") || self.eat(">");
        Ok(is_order.then_some(false))
    }

    fn value(&mut self, is_equality: bool, depth: u32) -> Parsed<()> {
        match self.peek() {
            Some(b'#') => self.number(),
            _ if !is_equality => Err(Stop::Illegal),
            Some(b'(') if self.is_set() => self.set(),
            Some(b'"') => self.string(),
            _ if self.is_typed_term() => self.typed_term(),
            _ if self.eat_word("true") || self.eat_word("false") => Ok(()),
            _ => self.operand(depth + 1),
        }
    }

    fn number(&mut self) -> Parsed<()> {
        self.require("#")?;
        let _ = self.eat("-") || self.eat("+");
        self.count()?;
        if self.peek() == Some(b'.') && self.text.get(self.at + 1).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
            self.digits();
        }
        Ok(())
    }

    /// A parenthesis with values rather than an expression.
    fn is_set(&self) -> bool {
        let mut ahead = Parser { text: self.text, at: self.at + 1 };
        ahead.blanks();
        matches!(ahead.peek(), Some(b'"' | b'#')) || ahead.is_typed_term()
    }

    fn is_typed_term(&self) -> bool {
        let (length, word) = self.word();
        let mut ahead = Parser { text: self.text, at: self.at + length };
        ahead.blanks();
        matches!(word.as_str(), "match" | "wild" | "exact") && ahead.peek() == Some(b':')
    }

    fn typed_term(&mut self) -> Parsed<()> {
        if self.is_typed_term() {
            self.at += self.word().0;
            self.blanks();
            self.require(":")?;
            self.blanks();
        }
        self.string()
    }

    fn set(&mut self) -> Parsed<()> {
        self.require("(")?;
        loop {
            self.blanks();
            if self.eat(")") {
                return Ok(());
            }
            if self.peek() == Some(b'#') { self.number()? } else { self.typed_term()? }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_language_allows_is_allowed() {
        for text in [
            "404684003",
            " << 404684003 |Clinical finding| ",
            "<! 404684003",
            "<<! 404684003",
            ">> 40541001 |Acute pulmonary edema|",
            ">! 40541001",
            "!!> ( > 45133009 AND < 404684003 )",
            "^ 700043003 |Example problem list concepts reference set|",
            "< ^ 700043003",
            "^ [ referencedComponentId, mapTarget ] 447562003",
            "*",
            "< 19829001 |Disorder of lung|: 116676008 |Associated morphology| = 79654002 |Edema|",
            "< 404684003: 363698007 = << 39057004, 116676008 = << 415582006",
            "< 404684003: { 363698007 = << 39057004, 116676008 = << 415582006 }",
            "< 404684003: [1..*] { [0..1] 363698007 = *, 116676008 != << 415582006 } OR 246075003 = 72705000",
            "< 373873005: [1..3] 127489000 = < 105590001, [0..0] 127489000 = 79654002",
            "< 27658006: 411116001 = << 385055001, { 127489000 = << 372687004, 1142135004 >= #250 }",
            "< 27658006: 1142138002 != #-2.5, 111115 = \"PANADOL\", 859999 = true",
            "< 27658006: 3264475007 = (match:\"a b\" wild:\"c*\")",
            "< 27658006: 3264475007 = (\"a\" \"b\"), 1142135004 = (#1 #2)",
            "< 91723000: R 363698007 = < 125605004",
            "< 91723000: [3..3] R 127489000 = *",
            "<< 125605004 . 363698007 . 272741003",
            "(< 19829001 OR < 301867009) MINUS < 79654002",
            "< 19829001 AND < 301867009 AND ^ 447562003",
            "< 404684003: (363698007 OR 363704007) = << 39057004",
            "< 404684003: (363698007 = << 39057004 OR 363704007 = << 39057005), 116676008 = *",
            "< 404684003: ({ 363698007 = * } OR { 363704007 = * })",
            "< (< 404684003: 363698007 = *)",
            "< 64572001 {{ term = \"heart\", language = en }} {{ D typeId = 900000000000013009 |a }} b| }}",
            "< 64572001 {{ +HISTORY-MIN }}",
            "LOINC#54486-6 |Phenylalanine|",
            "descendantOf 404684003: reverseOf 363698007 NOT = ANY AND [1 to many] 116676008 <> *",
            "< 404684003 /* all of them */ : /* where */ 363698007 = *",
            "memberOf 700043003 and 404684003",
        ] {
            assert!(is_expression_constraint(text), "{text}");
        }
    }

    #[test]
    fn what_the_language_forbids_is_forbidden() {
        for text in [
            "",
            "234234 << 234234",
            "12345",
            "0123456",
            "1234567890123456789",
            "404684003 |Clinical finding",
            "404684003 ||",
            "<<< 404684003",
            "404684003 404684003",
            "< 404684003:",
            "< 404684003: 363698007",
            "< 404684003: 363698007 =",
            "< 404684003: 363698007 <= 39057004",
            "< 404684003: { 363698007 = *",
            "363698007 = *",
            "(404684003",
            "404684003)",
            "< 19829001 AND < 301867009 OR < 79654002",
            "< 19829001 MINUS < 301867009 MINUS < 79654002",
            "< 404684003 AND",
            "< 404684003 ANDX 301867009",
            "< (363698007 = *)",
            "< 404684003: [x..1] 363698007 = *",
            "< 404684003 {{ term = \"heart\"",
            "fracture of femur",
        ] {
            assert!(!is_expression_constraint(text), "{text}");
        }
    }

    #[test]
    fn a_hostile_depth_is_not_followed() {
        for text in ["(".repeat(1_000_000), "<(".repeat(500_000), "404684003:{".repeat(100_000), "{".repeat(100_000)] {
            let _ = is_expression_constraint(&text);
        }
        assert!(is_expression_constraint(&format!("{}404684003{}", "(".repeat(60), ")".repeat(60))));
    }

    #[test]
    fn unclosed_comments_and_terms_are_read_once() {
        for text in ["/*".repeat(200_000), "404684003 /*".repeat(100_000), "|".repeat(300_000), "\"".repeat(300_000)] {
            assert!(!is_expression_constraint(&text));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String, near in "[<>!^*(){}\\[\\]|:=.,#\"/ RrAanNdDoO0-9]{0,60}") {
            let _ = is_expression_constraint(&text);
            let _ = is_expression_constraint(&near);
        }

        #[test]
        fn a_legal_text_in_parentheses_is_legal(depth in 1usize..60) {
            let text = format!("{}<< 404684003: 363698007 = *{}", "(".repeat(depth), ")".repeat(depth));
            prop_assert!(is_expression_constraint(&text));
        }
    }
}
