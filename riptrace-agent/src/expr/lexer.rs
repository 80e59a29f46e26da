//! Text to tokens (Go specification, "Lexical elements").

use std::sync::Arc;

use super::{
    ast::{Binary, SIGNS, Span},
    error::ExprError,
};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Name(Arc<str>),
    Integer(i128),
    Float(f64),
    Text(Arc<[u8]>),
    Operator(Binary),
    Not,
    Dot,
    Comma,
    Open,
    Close,
    OpenBracket,
    CloseBracket,
}

/// The tokens of a text with their places.
pub(super) fn tokens(text: &Arc<str>) -> Result<Vec<(Token, Span)>, ExprError> {
    let mut lexer = Lexer { text, at: 0 };
    let mut out = Vec::new();
    while let Some(found) = lexer.next()? {
        out.push(found);
    }
    Ok(out)
}

struct Lexer<'a> {
    text: &'a Arc<str>,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn fail(&self, span: Span, message: &str) -> ExprError {
        ExprError::new(self.text, span, message)
    }

    fn next(&mut self) -> Result<Option<(Token, Span)>, ExprError> {
        self.at = self.text.len() - self.rest().trim_start().len();
        let start = self.at;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(None) };
        let after_dot =
            rest.strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        // `~r0`: what the compiler calls a result without a name.
        let named = rest.strip_prefix('~').unwrap_or(rest);
        let token = if named.starts_with(is_letter) {
            let sign = rest.len() - named.len();
            let end = named.find(|c: char| !is_letter(c) && !c.is_numeric()).unwrap_or(named.len()) + sign;
            let name = Arc::from(&rest[..end]);
            self.at += end;
            Token::Name(name)
        } else if first.is_ascii_digit() || after_dot {
            self.number()?
        } else if first == '"' || first == '\'' {
            self.quoted(first)?
        } else if first == '`' {
            let end = rest[1..]
                .find('`')
                .ok_or_else(|| self.fail(start..self.text.len(), "the string is not closed"))?;
            let bytes: Arc<[u8]> =
                rest.as_bytes()[1..=end].iter().copied().filter(|byte| *byte != b'\r').collect();
            self.at += end + 2;
            Token::Text(bytes)
        } else if let Some((sign, operator)) = SIGNS.iter().find(|(sign, _)| rest.starts_with(sign)) {
            self.at += sign.len();
            Token::Operator(*operator)
        } else {
            self.at += first.len_utf8();
            match first {
                '!' => Token::Not,
                '.' => Token::Dot,
                ',' => Token::Comma,
                '(' => Token::Open,
                ')' => Token::Close,
                '[' => Token::OpenBracket,
                ']' => Token::CloseBracket,
                '=' => return Err(self.fail(start..self.at, "a comparison is written ==")),
                _ => return Err(self.fail(start..self.at, "this character is not understood")),
            }
        };
        Ok(Some((token, start..self.at)))
    }

    fn number(&mut self) -> Result<Token, ExprError> {
        let start = self.at;
        let rest = self.rest();
        let lower = rest.get(..2).unwrap_or_default().to_ascii_lowercase();
        let radix = match lower.as_str() {
            "0x" => 16,
            "0b" => 2,
            "0o" => 8,
            _ => 10,
        };
        let mut end = if radix == 10 { 0 } else { 2 };
        let bytes = rest.as_bytes();
        let mut float = false;
        while let Some(&byte) = bytes.get(end) {
            let exponent_sign = radix == 10
                && matches!(byte, b'+' | b'-')
                && end > 0
                && matches!(bytes.get(end - 1), Some(b'e' | b'E'));
            let point = radix == 10 && byte == b'.';
            float |= point || (radix == 10 && matches!(byte, b'e' | b'E'));
            if !(byte.is_ascii_alphanumeric() || byte == b'_' || point || exponent_sign) {
                break;
            }
            end += 1;
        }
        let digits: String = rest[..end].chars().filter(|c| *c != '_').collect();
        self.at += end;
        let span = start..self.at;
        if float {
            let value: f64 =
                digits.parse().map_err(|_| self.fail(span.clone(), "this number is not understood"))?;
            if !value.is_finite() {
                return Err(self.fail(span, "this number is too large"));
            }
            return Ok(Token::Float(value));
        }
        let (radix, digits) = match radix {
            // Go's old octal form.
            10 if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
            10 => (10, digits.as_str()),
            radix => (radix, &digits[2..]),
        };
        if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
            return Err(self.fail(span, "this number is not understood"));
        }
        let value = i128::from_str_radix(digits, radix)
            .ok()
            .filter(|value| *value <= i128::from(u64::MAX))
            .ok_or_else(|| self.fail(span, "this number does not fit into 64 bits"))?;
        Ok(Token::Integer(value))
    }

    /// A string or a rune, after its opening quote.
    fn quoted(&mut self, quote: char) -> Result<Token, ExprError> {
        let start = self.at;
        self.at += 1;
        let mut bytes = Vec::new();
        let mut runes = Vec::new();
        loop {
            let open = |lexer: &Self| lexer.fail(start..lexer.text.len(), "the quote is not closed");
            let c = self.rest().chars().next().ok_or_else(|| open(self))?;
            let from = self.at;
            self.at += c.len_utf8();
            match c {
                '\\' => match self.escape(from, quote)? {
                    Escape::Byte(byte) => {
                        bytes.push(byte);
                        runes.push(u32::from(byte));
                    }
                    Escape::Rune(rune) => {
                        bytes.extend_from_slice(rune.encode_utf8(&mut [0; 4]).as_bytes());
                        runes.push(rune.into());
                    }
                },
                '\n' => return Err(open(self)),
                c if c == quote => break,
                c => {
                    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    runes.push(c.into());
                }
            }
        }
        if quote == '"' {
            return Ok(Token::Text(bytes.into()));
        }
        match runes.as_slice() {
            [rune] => Ok(Token::Integer((*rune).into())),
            _ => Err(self.fail(
                start..self.at,
                "single quotes hold one character; a string is written in double quotes",
            )),
        }
    }

    fn escape(&mut self, from: usize, quote: char) -> Result<Escape, ExprError> {
        let c = self.rest().chars().next().unwrap_or_default();
        self.at += c.len_utf8();
        let unknown = |lexer: &Self| lexer.fail(from..lexer.at, "this escape is not one of Go's");
        let simple = match c {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' => b'\\',
            '\'' | '"' if c == quote => c as u8,
            'x' | 'u' | 'U' | '0'..='7' => {
                let (digits, radix) = match c {
                    'x' => (2, 16),
                    'u' => (4, 16),
                    'U' => (8, 16),
                    _ => {
                        self.at -= 1;
                        (3, 8)
                    }
                };
                let number = self.rest().get(..digits).filter(|text| text.chars().all(|c| c.is_digit(radix)));
                let value = number.and_then(|text| u32::from_str_radix(text, radix).ok());
                let value = value.ok_or_else(|| unknown(self))?;
                self.at += digits;
                return match c {
                    'u' | 'U' => char::from_u32(value).map(Escape::Rune),
                    _ => u8::try_from(value).ok().map(Escape::Byte),
                }
                .ok_or_else(|| unknown(self));
            }
            _ => return Err(unknown(self)),
        };
        Ok(Escape::Byte(simple))
    }
}

enum Escape {
    Byte(u8),
    Rune(char),
}

fn is_letter(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}
