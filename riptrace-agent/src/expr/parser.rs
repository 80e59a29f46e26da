//! Tokens to a tree, by Go's precedences.

use std::sync::Arc;

use super::{
    ast::{Binary, Expr, ExprKind, Span, Unary},
    error::ExprError,
    lexer::{Token, tokens},
};

/// Longest text.
pub const MAX_TEXT_BYTES: usize = 4096;
/// Levels of expressions within each other.
const MAX_DEPTH: u32 = 64;

/// Reads an expression.
///
/// # Errors
///
/// Says what is not understood, and where.
pub fn parse(text: &str) -> Result<Expr, ExprError> {
    let start = text.len() - text.trim_start().len();
    if text.len() > MAX_TEXT_BYTES {
        let shown: Arc<str> = text.chars().take(80).collect::<String>().into();
        let message =
            format!("an expression has at most {MAX_TEXT_BYTES} bytes, this one has {}", text.len());
        return Err(ExprError::new(&shown, 0..1, message));
    }
    let text: Arc<str> = Arc::from(text);
    let mut parser = Parser { tokens: tokens(&text)?, text, at: 0, nesting: 0 };
    if parser.tokens.is_empty() {
        return Err(ExprError::new(&parser.text, start..start, "an expression is missing"));
    }
    let expr = parser.binary(1)?;
    match parser.peek() {
        None => Ok(expr),
        Some(_) => Err(parser.unexpected("an operator or the end")),
    }
}

struct Parser {
    text: Arc<str>,
    tokens: Vec<(Token, Span)>,
    at: usize,
    /// Of the calls that are running; what is built has a depth of its own.
    nesting: u32,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    /// The place of the next token, or the end.
    fn here(&self) -> Span {
        self.tokens.get(self.at).map_or(self.text.len()..self.text.len(), |(_, span)| span.clone())
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, token: &Token, what: &str) -> Result<Span, ExprError> {
        let span = self.here();
        if self.take(token) { Ok(span) } else { Err(self.unexpected(what)) }
    }

    fn unexpected(&self, wanted: &str) -> ExprError {
        let span = self.here();
        let message = match self.text.get(span.clone()).filter(|text| !text.is_empty()) {
            Some(found) => {
                format!("{wanted} is missing before {}", found.chars().take(20).collect::<String>())
            }
            None => format!("{wanted} is missing at the end"),
        };
        ExprError::new(&self.text, span, message)
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, ExprError>) -> Result<T, ExprError> {
        if self.nesting >= MAX_DEPTH {
            return Err(self.too_deep(self.here()));
        }
        self.nesting += 1;
        let result = read(self);
        self.nesting -= 1;
        result
    }

    fn too_deep(&self, span: Span) -> ExprError {
        ExprError::new(&self.text, span, format!("more than {MAX_DEPTH} expressions within each other"))
    }

    fn make(&self, kind: ExprKind, span: Span) -> Result<Expr, ExprError> {
        let depth = 1 + match &kind {
            ExprKind::Name(_) | ExprKind::Integer(_) | ExprKind::Float(_) | ExprKind::Text(_) => 0,
            ExprKind::Field(inner, ..)
            | ExprKind::Dereference(inner)
            | ExprKind::Assert(inner, ..)
            | ExprKind::Unary(_, inner) => inner.depth,
            ExprKind::Index(left, right) | ExprKind::Binary(_, left, right) => left.depth.max(right.depth),
            ExprKind::Call(function, arguments) => {
                arguments.iter().map(|argument| argument.depth).fold(function.depth, u32::max)
            }
        };
        if depth > MAX_DEPTH {
            return Err(self.too_deep(span));
        }
        Ok(Expr { kind, span, depth })
    }

    fn binary(&mut self, lowest: u8) -> Result<Expr, ExprError> {
        self.deeper(|parser| {
            let mut left = parser.unary()?;
            while let Some(&Token::Operator(operator)) = parser.peek() {
                if operator.precedence() < lowest {
                    break;
                }
                parser.at += 1;
                let right = parser.binary(operator.precedence() + 1)?;
                let span = left.span.start..right.span.end;
                left = parser.make(ExprKind::Binary(operator, Box::new(left), Box::new(right)), span)?;
            }
            Ok(left)
        })
    }

    fn unary(&mut self) -> Result<Expr, ExprError> {
        let start = self.here().start;
        let operator = match self.peek() {
            Some(Token::Not) => Some(Unary::Not),
            Some(Token::Operator(Binary::Subtract)) => Some(Unary::Minus),
            Some(Token::Operator(Binary::Add)) => Some(Unary::Plus),
            Some(Token::Operator(Binary::BitXor)) => Some(Unary::Complement),
            Some(Token::Operator(Binary::Multiply)) => None,
            Some(Token::Operator(Binary::BitAnd)) => {
                return Err(ExprError::new(&self.text, self.here(), "addresses are not taken"));
            }
            _ => return self.postfix(),
        };
        self.at += 1;
        let inner = Box::new(self.deeper(Self::unary)?);
        let span = start..inner.span.end;
        let kind = match operator {
            Some(operator) => ExprKind::Unary(operator, inner),
            None => ExprKind::Dereference(inner),
        };
        self.make(kind, span)
    }

    fn postfix(&mut self) -> Result<Expr, ExprError> {
        let start = self.here().start;
        let mut expr = self.primary()?;
        loop {
            if self.take(&Token::Dot) {
                if self.take(&Token::Open) {
                    let (name, span) = self.type_name()?;
                    let end = self.expect(&Token::Close, "a closing parenthesis")?.end;
                    expr = self.make(ExprKind::Assert(Box::new(expr), name, span), start..end)?;
                    continue;
                }
                let span = self.here();
                let Some(Token::Name(name)) = self.peek().cloned() else {
                    return Err(self.unexpected("the name of a field"));
                };
                self.at += 1;
                expr = self.make(ExprKind::Field(Box::new(expr), name, span.clone()), start..span.end)?;
            } else if self.take(&Token::OpenBracket) {
                let index = self.binary(1)?;
                let end = self.expect(&Token::CloseBracket, "a closing bracket")?.end;
                expr = self.make(ExprKind::Index(Box::new(expr), Box::new(index)), start..end)?;
            } else if self.take(&Token::Open) {
                let mut arguments = Vec::new();
                while self.peek() != Some(&Token::Close) {
                    arguments.push(self.binary(1)?);
                    if !self.take(&Token::Comma) {
                        break;
                    }
                }
                let end = self.expect(&Token::Close, "a closing parenthesis")?.end;
                expr = self.make(ExprKind::Call(Box::new(expr), arguments), start..end)?;
            } else {
                return Ok(expr);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, ExprError> {
        let span = self.here();
        let kind = match self.peek() {
            Some(Token::Name(name)) => ExprKind::Name(Arc::clone(name)),
            Some(Token::Integer(value)) => ExprKind::Integer(*value),
            Some(Token::Float(value)) => ExprKind::Float(*value),
            Some(Token::Text(bytes)) => ExprKind::Text(Arc::clone(bytes)),
            Some(Token::Open) => {
                self.at += 1;
                let mut inner = self.binary(1)?;
                inner.span = span.start..self.expect(&Token::Close, "a closing parenthesis")?.end;
                return Ok(inner);
            }
            _ => return Err(self.unexpected("a variable or a value")),
        };
        self.at += 1;
        self.make(kind, span)
    }

    /// The text up to the parenthesis that closes the type: `*pkg.T`, `[]string`, `example.org/shop.Order`.
    fn type_name(&mut self) -> Result<(Arc<str>, Span), ExprError> {
        let start = self.here().start;
        let mut open = 0usize;
        let mut end = start;
        while let Some((token, span)) = self.tokens.get(self.at) {
            match token {
                Token::Open => open += 1,
                Token::Close if open == 0 => break,
                Token::Close => open -= 1,
                _ => {}
            }
            end = span.end;
            self.at += 1;
        }
        match self.text.get(start..end).filter(|text| !text.is_empty()) {
            Some(name) => Ok((Arc::from(name), start..end)),
            None => Err(self.unexpected("a type")),
        }
    }
}
