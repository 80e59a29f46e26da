//! What was written.

use std::{ops::Range, sync::Arc};

/// Bytes of the text.
pub type Span = Range<usize>;

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it stands.
    pub span: Span,
    /// Levels of expressions within it.
    pub(super) depth: u32,
}

/// Kinds of expressions.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are Go's")]
pub enum ExprKind {
    Name(Arc<str>),
    Integer(i128),
    Float(f64),
    Text(Arc<[u8]>),
    /// `x.name`; the span is the name's.
    Field(Box<Expr>, Arc<str>, Span),
    Index(Box<Expr>, Box<Expr>),
    Dereference(Box<Expr>),
    /// `x.(T)`; the span is the type's.
    Assert(Box<Expr>, Arc<str>, Span),
    Call(Box<Expr>, Vec<Expr>),
    Unary(Unary, Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
}

/// Operators with one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Go's")]
pub enum Unary {
    Not,
    Minus,
    Plus,
    Complement,
}

/// Operators with two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Go's")]
pub enum Binary {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Add,
    Subtract,
    BitOr,
    BitXor,
    Multiply,
    Divide,
    Remainder,
    ShiftLeft,
    ShiftRight,
    BitAnd,
    AndNot,
}

impl Binary {
    /// As in Go's specification: 5 binds strongest.
    pub(super) fn precedence(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And => 2,
            Self::Equal
            | Self::NotEqual
            | Self::Less
            | Self::LessEqual
            | Self::Greater
            | Self::GreaterEqual => 3,
            Self::Add | Self::Subtract | Self::BitOr | Self::BitXor => 4,
            Self::Multiply
            | Self::Divide
            | Self::Remainder
            | Self::ShiftLeft
            | Self::ShiftRight
            | Self::BitAnd
            | Self::AndNot => 5,
        }
    }

    /// As it is written.
    pub(super) fn sign(self) -> &'static str {
        SIGNS.iter().find(|(_, operator)| *operator == self).map_or("?", |(sign, _)| sign)
    }
}

/// Two-character signs first: the lexer takes the first that fits.
pub(super) const SIGNS: [(&str, Binary); 19] = [
    ("||", Binary::Or),
    ("&&", Binary::And),
    ("==", Binary::Equal),
    ("!=", Binary::NotEqual),
    ("<<", Binary::ShiftLeft),
    (">>", Binary::ShiftRight),
    ("<=", Binary::LessEqual),
    (">=", Binary::GreaterEqual),
    ("&^", Binary::AndNot),
    ("<", Binary::Less),
    (">", Binary::Greater),
    ("+", Binary::Add),
    ("-", Binary::Subtract),
    ("|", Binary::BitOr),
    ("^", Binary::BitXor),
    ("*", Binary::Multiply),
    ("/", Binary::Divide),
    ("%", Binary::Remainder),
    ("&", Binary::BitAnd),
];
