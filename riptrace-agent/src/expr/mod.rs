//! Expressions in Go's syntax over the variables of a site: conditions, captures, messages.
//!
//! Text goes through [`parse`] (a tree with the places of its parts in the text) and [`check`] (types, constants) to a
//! [`Typed`] tree. `compile` turns a condition into the kernel side's ops; `plan` captures what other expressions need,
//! and `evaluate` computes them from decoded values. Pure: bounded by the text's length, no panic on any text.

mod ast;
mod check;
mod classes;
mod compile;
mod constant;
mod error;
mod evaluate;
mod lexer;
mod operands;
mod parser;
mod template;
#[cfg(test)]
mod tests;
mod typed;

pub use self::{
    ast::{Expr, ExprKind, Span},
    check::{Names, NoNames, Scope, check, check_condition},
    classes::{Class, Ty},
    compile::{CompileError, Places, compile},
    constant::Constant,
    error::ExprError,
    evaluate::{Computed, Given, Operand, OutputPiece, Outputs},
    operands::{constants, names_in, operands},
    parser::{MAX_TEXT_BYTES, parse},
    template::{Template, TemplatePiece, parse_template},
    typed::{Arithmetic, Comparison, TextTest, Typed, TypedKind},
};
