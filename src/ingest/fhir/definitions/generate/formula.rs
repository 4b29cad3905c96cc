//! The part of FHIRPath in which most invariants of the specification are written: logic over what is there, how often,
//! and which code it has. An expression outside of it is not translated.

/// A translated invariant, ready to be written in prefix notation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Formula {
    /// The child is there.
    Exists(String),
    /// The child is a primitive with this text.
    Equals(String, String),
    /// The child is there more than so many times.
    More(String, u32),
    /// Not.
    Not(Box<Formula>),
    /// Both.
    And(Box<Formula>, Box<Formula>),
    /// At least one.
    Or(Box<Formula>, Box<Formula>),
    /// Exactly one.
    Xor(Box<Formula>, Box<Formula>),
}

impl Formula {
    fn not(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    fn or(self, other: Self) -> Self {
        Self::Or(Box::new(self), Box::new(other))
    }

    fn and(self, other: Self) -> Self {
        Self::And(Box::new(self), Box::new(other))
    }

    fn xor(self, other: Self) -> Self {
        Self::Xor(Box::new(self), Box::new(other))
    }

    /// Prefix notation, as the table holds it: `?name`, `=name:text`, `#name>n`, and `! & | ^` before their operands.
    #[must_use]
    pub fn prefix(&self) -> String {
        match self {
            Self::Exists(name) => format!("?{name}"),
            Self::Equals(name, text) => format!("={name}:{text}"),
            Self::More(name, count) => format!("#{name}>{count}"),
            Self::Not(inner) => format!("! {}", inner.prefix()),
            Self::And(one, other) => format!("& {} {}", one.prefix(), other.prefix()),
            Self::Or(one, other) => format!("| {} {}", one.prefix(), other.prefix()),
            Self::Xor(one, other) => format!("^ {} {}", one.prefix(), other.prefix()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    Text(String),
    Number(u32),
    Sign(&'static str),
}

/// Signs, longest first.
const SIGNS: [&str; 12] = ["!=", "<=", ">=", "(", ")", ".", "=", "|", "+", ">", "<", ","];

fn tokens(expression: &str) -> Option<Vec<Token>> {
    let mut found = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '\'' {
            let end = rest[1..].find('\'')? + 1;
            if rest[1..end].contains('\\') {
                return None;
            }
            found.push(Token::Text(rest[1..end].to_owned()));
            rest = &rest[end + 1..];
        } else if first.is_ascii_alphabetic() {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            found.push(Token::Name(rest[..end].to_owned()));
            rest = &rest[end..];
        } else if first.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            found.push(Token::Number(rest[..end].parse().ok()?));
            rest = &rest[end..];
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign))?;
            found.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        }
        rest = rest.trim_start();
    }
    Some(found)
}

/// Translate the invariant of a type.
#[must_use]
pub fn translate(type_name: &str, expression: &str) -> Option<Formula> {
    let tokens = tokens(expression)?;
    let mut parser = Parser { type_name, tokens, position: 0 };
    let formula = parser.implies()?;
    (parser.position == parser.tokens.len()).then_some(formula)
}

struct Parser<'t> {
    type_name: &'t str,
    tokens: Vec<Token>,
    position: usize,
}

/// What stands between logical operators: a formula, or a path whose value is compared.
enum Operand {
    Formula(Formula),
    Path(String),
    Counts(Vec<String>),
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.position)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.position).cloned();
        self.position += 1;
        token
    }

    fn sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Sign(one)) if *one == sign);
        self.position += usize::from(found);
        found
    }

    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Name(one)) if one == word);
        self.position += usize::from(found);
        found
    }

    fn implies(&mut self) -> Option<Formula> {
        let mut formula = self.or()?;
        while self.word("implies") {
            formula = formula.not().or(self.or()?);
        }
        Some(formula)
    }

    fn or(&mut self) -> Option<Formula> {
        let mut formula = self.and()?;
        loop {
            if self.word("or") {
                formula = formula.or(self.and()?);
            } else if self.word("xor") {
                formula = formula.xor(self.and()?);
            } else {
                return Some(formula);
            }
        }
    }

    fn and(&mut self) -> Option<Formula> {
        let mut formula = self.comparison()?;
        while self.word("and") {
            formula = formula.and(self.comparison()?);
        }
        Some(formula)
    }

    fn comparison(&mut self) -> Option<Formula> {
        let left = self.operand()?;
        let Some(token) = self.peek().cloned() else { return left.into_formula() };
        match (left, token) {
            (Operand::Formula(one), Token::Sign(sign @ ("=" | "!="))) => {
                self.position += 1;
                let other = self.operand()?.into_formula()?;
                let differ = one.xor(other);
                Some(if sign == "=" { differ.not() } else { differ })
            }
            (Operand::Path(name), Token::Sign(sign @ ("=" | "!="))) => {
                self.position += 1;
                let text = match self.next()? {
                    Token::Text(text) => text,
                    Token::Name(word) if word == "true" || word == "false" => word,
                    Token::Number(number) => number.to_string(),
                    _ => return None,
                };
                // A text with a blank would break the table's notation.
                let equals = (!text.contains(' ')).then_some(Formula::Equals(name, text))?;
                Some(if sign == "=" { equals } else { equals.not() })
            }
            (Operand::Path(name), Token::Name(word)) if word == "in" => {
                self.position += 1;
                self.sign("(").then_some(())?;
                let mut formula: Option<Formula> = None;
                loop {
                    let Token::Text(text) = self.next()? else { return None };
                    let equals = Formula::Equals(name.clone(), text);
                    formula = Some(formula.map_or(equals.clone(), |formula| formula.or(equals)));
                    if self.sign(")") {
                        return formula;
                    }
                    self.sign("|").then_some(())?;
                }
            }
            (Operand::Counts(names), Token::Sign(sign @ (">" | "<="))) => {
                self.position += 1;
                let Token::Number(number) = self.next()? else { return None };
                let more = match names.as_slice() {
                    [name] => Formula::More(name.clone(), number),
                    // A sum is more than nothing where any of its terms is.
                    [first, rest @ ..] if number == 0 => {
                        rest.iter().fold(Formula::Exists(first.clone()), |formula, name| {
                            formula.or(Formula::Exists(name.clone()))
                        })
                    }
                    _ => return None,
                };
                Some(if sign == ">" { more } else { more.not() })
            }
            (left, _) => left.into_formula(),
        }
    }

    fn operand(&mut self) -> Option<Operand> {
        if self.sign("(") {
            let inner = self.parenthesis()?;
            return match inner {
                Operand::Formula(formula) => Some(Operand::Formula(self.negations(formula)?)),
                other => Some(other),
            };
        }
        let Token::Name(mut name) = self.next()? else { return None };
        if name == self.type_name {
            self.sign(".").then_some(())?;
            let Token::Name(next) = self.next()? else { return None };
            name = next;
        }
        let mut counted = None;
        while self.sign(".") {
            let Token::Name(function) = self.next()? else { return None };
            self.sign("(").then_some(())?;
            if function == "trace" {
                let Token::Text(_) = self.next()? else { return None };
                self.sign(")").then_some(())?;
                continue;
            }
            self.sign(")").then_some(())?;
            match function.as_str() {
                "exists" => {
                    let formula = self.negations(Formula::Exists(name))?;
                    return Some(Operand::Formula(formula));
                }
                "empty" => {
                    let formula = self.negations(Formula::Exists(name).not())?;
                    return Some(Operand::Formula(formula));
                }
                "count" => counted = Some(()),
                _ => return None,
            }
        }
        if counted.is_none() {
            return Some(Operand::Path(name));
        }
        let mut names = vec![name];
        while self.sign("+") {
            match self.operand()? {
                Operand::Counts(more) => names.extend(more),
                _ => return None,
            }
        }
        Some(Operand::Counts(names))
    }

    /// Behind an opening parenthesis: a sum of counts, or a formula.
    fn parenthesis(&mut self) -> Option<Operand> {
        let start = self.position;
        if let Some(Operand::Counts(names)) = self.operand()
            && self.sign(")")
        {
            return Some(Operand::Counts(names));
        }
        self.position = start;
        let formula = self.implies()?;
        self.sign(")").then_some(())?;
        Some(Operand::Formula(formula))
    }

    fn negations(&mut self, mut formula: Formula) -> Option<Formula> {
        while self.sign(".") {
            self.word("not").then_some(())?;
            (self.sign("(") && self.sign(")")).then_some(())?;
            formula = formula.not();
        }
        Some(formula)
    }
}

impl Operand {
    fn into_formula(self) -> Option<Formula> {
        match self {
            Self::Formula(formula) => Some(formula),
            // A bare path as a condition is a boolean child.
            Self::Path(name) => Some(Formula::Equals(name, "true".to_owned())),
            Self::Counts(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(expression: &str) -> Option<String> {
        translate("Thing", expression).map(|formula| formula.prefix())
    }

    #[test]
    fn presence_logic_is_translated() {
        for (expression, expected) in [
            ("dataAbsentReason.empty() or value.empty()", "| ! ?dataAbsentReason ! ?value"),
            ("extension.exists() != value.exists()", "^ ?extension ?value"),
            ("start.exists() = end.exists()", "! ^ ?start ?end"),
            ("(answer.exists() and item.exists()).not()", "! & ?answer ?item"),
            ("type != 'display' or code.empty()", "| ! =type:display ! ?code"),
            ("(kind='a' or kind = 'b')", "| =kind:a =kind:b"),
            ("(identifier.count() + name.count()) > 0", "| ?identifier ?name"),
            ("enableWhen.count() > 2 implies enableBehavior.exists()", "| ! #enableWhen>2 ?enableBehavior"),
            ("initial.count() <= 1", "! #initial>1"),
            ("status in ('a' | 'b')", "| =status:a =status:b"),
            ("Thing.reason.exists() implies (Thing.status='x')", "| ! ?reason =status:x"),
            ("(isModifier.exists() and isModifier) implies r.exists()", "| ! & ?isModifier =isModifier:true ?r"),
            (
                "(type='group' implies item.empty().not()) and (type.trace('t')='display' implies item.trace('i').empty())",
                "& | ! =type:group ?item | ! =type:display ! ?item",
            ),
        ] {
            assert_eq!(prefix(expression).as_deref(), Some(expected), "{expression}");
        }
    }

    #[test]
    fn everything_else_is_left_to_code_of_its_own() {
        for expression in [
            "name.matches('[A-Z]([A-Za-z0-9_]){0,254}')",
            "contained.contained.empty()",
            "start.hasValue().not() or end.hasValue().not() or (start <= end)",
            "value.empty() or component.code.where(x).empty()",
            "a.exists(",
            "a or",
            "probability is decimal implies (probability as decimal) <= 100",
        ] {
            assert_eq!(prefix(expression), None, "{expression}");
        }
    }
}
