//! A typed condition to the kernel side's ops (`abi::condition`): branches go forward only, an operand is read when it is
//! needed, so that what `&&` and `||` leave out is never read.

mod place;

use std::sync::Arc;

use riptrace_common::abi::condition::{
    Block, CONTAINS_BLOCKS, MAX_COMPARED_BLOCKS, MAX_CONTAINED_BYTES, MAX_OPS, OP_ACCEPT, OP_ADD, OP_AND,
    OP_AND_NOT, OP_DIVIDE, OP_EQUAL, OP_FLOAT, OP_FLOAT_KEY, OP_IMMEDIATE, OP_JUMP, OP_LESS, OP_LESS_EQUAL,
    OP_MOVE, OP_MULTIPLY, OP_NEGATE, OP_OR, OP_REMAINDER, OP_SHIFT_LEFT, OP_SHIFT_RIGHT, OP_SIGNED, OP_STORE,
    OP_STRING_CONTAINS, OP_STRING_EQUAL, OP_STRING_LESS, OP_STRING_LESS_EQUAL, OP_STRING_PREFIX, OP_SUBTRACT,
    OP_XOR, Op, TARGET_ACCEPT, TARGET_FAIL, TARGET_REJECT, WORD_FIRST, WORDS,
};
use riptrace_common::condition::float_key;

use super::{
    ast::Span,
    classes::Class,
    constant::Constant,
    error::ExprError,
    typed::{Arithmetic, Comparison, TextTest, Typed, TypedKind},
};
use crate::{dwarf::VisibleVariable, golang::types::TypeSource, plan::condition::Condition};

/// Where the operands are.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// The binary's types.
    pub types: &'a dyn TypeSource,
    /// The scope's variables, where they are at the armed address.
    pub variables: &'a [VisibleVariable],
    /// CFA minus SP there.
    pub cfa_from_sp: Option<i32>,
}

/// Why a condition can't be decided in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct CompileError {
    /// The reason and the place.
    pub error: ExprError,
    /// The variable that is not readable here, though it may be elsewhere.
    pub unreadable: Option<Arc<str>>,
}

/// Compiles a condition.
///
/// # Errors
///
/// An operand is not readable at the site, or the condition needs more than the kernel side has.
pub fn compile(text: &str, condition: &Typed, places: Places<'_>) -> Result<Condition, CompileError> {
    let mut compiler = Compiler {
        text: text.into(),
        places,
        ops: Vec::new(),
        blocks: Vec::new(),
        operands: Vec::new(),
        next: WORD_FIRST,
        labels: vec![None; 3],
    };
    compiler.branch(condition, false, REJECT)?;
    let end = compiler.ops.len();
    compiler.labels[ACCEPT] = Some(TARGET_ACCEPT);
    compiler.labels[REJECT] = Some(TARGET_REJECT);
    compiler.labels[FAIL] = Some(TARGET_FAIL);
    match compiler.ops.last_mut() {
        Some((last, _)) if last.code >= OP_EQUAL && last.flags & OP_STORE == 0 => last.flags |= OP_ACCEPT,
        _ => compiler.jump(ACCEPT),
    }
    if compiler.ops.len() > MAX_OPS as usize {
        let message =
            format!("the condition takes {} steps; the kernel side takes {MAX_OPS}", compiler.ops.len());
        return Err(compiler.fail(&(0..text.len()), message));
    }
    let Compiler { ops, labels, blocks, mut operands, .. } = compiler;
    let target = |label: Option<usize>| {
        let found = label.and_then(|label| labels.get(label).copied().flatten()).unwrap_or(0);
        // What would come behind the last comparison is the acceptance.
        if usize::from(found) == end { TARGET_ACCEPT } else { found }
    };
    let ops = ops.into_iter().map(|(op, label)| Op { target: target(label), ..op }).collect();
    operands.dedup();
    Ok(Condition { ops, blocks, operands })
}

const ACCEPT: usize = 0;
const REJECT: usize = 1;
const FAIL: usize = 2;

type Compiled<T> = Result<T, CompileError>;

/// A value in a word.
#[derive(Clone, Copy, Debug)]
enum Operand {
    /// In this word, extended to 64 bits. `shift`: only after it was shifted so far (a register's upper bits are anything).
    Word {
        word: u8,
        shift: u8,
        signed: bool,
    },
    Immediate(u64),
}

struct Compiler<'a> {
    text: Arc<str>,
    places: Places<'a>,
    /// Each with the label that it branches to.
    ops: Vec<(Op, Option<usize>)>,
    blocks: Vec<Block>,
    operands: Vec<String>,
    /// The next free word.
    next: u8,
    labels: Vec<Option<u16>>,
}

impl Compiler<'_> {
    fn fail(&self, span: &Span, message: impl Into<String>) -> CompileError {
        CompileError { error: ExprError::new(&self.text, span.clone(), message), unreadable: None }
    }

    fn label(&mut self) -> usize {
        self.labels.push(None);
        self.labels.len() - 1
    }

    fn bind(&mut self, label: usize) {
        let here = u16::try_from(self.ops.len()).unwrap_or(TARGET_FAIL);
        if let Some(place) = self.labels.get_mut(label) {
            *place = Some(here);
        }
    }

    fn jump(&mut self, label: usize) {
        self.ops.push((Op { code: OP_JUMP, ..Op::default() }, Some(label)));
    }

    fn emit(&mut self, op: Op) {
        self.ops.push((op, None));
    }

    /// Takes `count` free words.
    fn take(&mut self, count: u8, span: &Span) -> Compiled<u8> {
        let first = self.next;
        if usize::from(first) + usize::from(count) > WORDS {
            return Err(self.fail(
                span,
                "this has more intermediate values than the kernel side has words; make it simpler",
            ));
        }
        self.next += count;
        Ok(first)
    }

    /// Code that goes to `label` when the condition is `wanted`, and on when not.
    fn branch(&mut self, e: &Typed, wanted: bool, label: usize) -> Compiled<()> {
        let free = self.next;
        match &e.kind {
            TypedKind::Constant(Constant::Bool(value)) => {
                if *value == wanted {
                    self.jump(label);
                }
            }
            TypedKind::Not(inner) => self.branch(inner, !wanted, label)?,
            TypedKind::And(left, right) | TypedKind::Or(left, right) => {
                // The value of the left side that decides alone.
                let decides = matches!(e.kind, TypedKind::Or(..));
                if decides == wanted {
                    self.branch(left, wanted, label)?;
                    self.branch(right, wanted, label)?;
                } else {
                    let end = self.label();
                    self.branch(left, decides, end)?;
                    self.branch(right, wanted, label)?;
                    self.bind(end);
                }
            }
            TypedKind::Compare(comparison, left, right) => {
                self.comparison(*comparison, left, right, wanted, label)?;
            }
            TypedKind::Text(test, text, part) => self.text_test(*test, text, part, wanted, label)?,
            TypedKind::IsType(value, dynamic) => {
                self.type_test(value, *dynamic, wanted, label)?;
            }
            _ => {
                let value = self.value(e)?;
                self.compare_words(OP_EQUAL, 0, value, Operand::Immediate(0), !wanted, label);
            }
        }
        self.next = free;
        Ok(())
    }

    /// Goes to `label` when the comparison holds (`wanted`), or when it does not.
    fn compare_words(
        &mut self,
        code: u8,
        flags: u8,
        left: Operand,
        right: Operand,
        wanted: bool,
        label: usize,
    ) {
        let (word, shift, signed) = match left {
            Operand::Word { word, shift, signed } => (word, shift, signed),
            Operand::Immediate(value) => {
                // Both known from the text: decided by the checker, but for addresses. A free word takes it.
                let word = self.next.min(WORDS as u8 - 1);
                self.emit(Op {
                    code: OP_MOVE,
                    destination: word,
                    flags: OP_IMMEDIATE,
                    immediate: value,
                    ..Op::default()
                });
                (word, 0, false)
            }
        };
        let mut op = Op { code, left: word, shift, flags, ..Op::default() };
        if signed {
            op.flags |= OP_SIGNED;
        }
        // A comparison branches when it does not hold.
        if wanted {
            op.flags ^= OP_NEGATE;
        }
        match right {
            Operand::Word { word, .. } => op.right = word,
            Operand::Immediate(value) => {
                op.flags |= OP_IMMEDIATE;
                op.immediate = value;
            }
        }
        self.ops.push((op, Some(label)));
    }

    fn comparison(
        &mut self,
        comparison: Comparison,
        left: &Typed,
        right: &Typed,
        wanted: bool,
        label: usize,
    ) -> Compiled<()> {
        if right.constant() == Some(&Constant::Nil) {
            let word = self.nil_word(left)?;
            let wanted = wanted == (comparison == Comparison::Equal);
            self.compare_words(OP_EQUAL, 0, word, Operand::Immediate(0), wanted, label);
            return Ok(());
        }
        use Comparison as C;
        // a > b is b < a; negating a comparison would be wrong for NaN.
        let (comparison, left, right) = match comparison {
            C::Greater => (C::Less, right, left),
            C::GreaterEqual => (C::LessEqual, right, left),
            C::Equal | C::NotEqual if left.constant().is_some() => (comparison, right, left),
            _ => (comparison, left, right),
        };
        let negate = comparison == C::NotEqual;
        if left.ty.class == Class::String {
            let code = match comparison {
                C::Less => OP_STRING_LESS,
                C::LessEqual => OP_STRING_LESS_EQUAL,
                _ => OP_STRING_EQUAL,
            };
            return self.compare_strings(code, left, right, wanted != negate, label);
        }
        let code = match comparison {
            C::Less => OP_LESS,
            C::LessEqual => OP_LESS_EQUAL,
            _ => OP_EQUAL,
        };
        let is_float = matches!(left.ty.class, Class::Float { .. });
        let flags = if is_float { OP_FLOAT | OP_SIGNED } else { 0 };
        let (left_value, right_value) = (self.value(left)?, self.value(right)?);
        if let (Operand::Immediate(_), false) = (left_value, is_float) {
            // Of integers c < x is !(x <= c): no word is needed for the constant.
            let code = if code == OP_LESS { OP_LESS_EQUAL } else { OP_LESS };
            let right_value = self.signed(right_value, &right.ty.class);
            self.compare_words(code, flags, right_value, left_value, !wanted, label);
            return Ok(());
        }
        let right_value = match right_value {
            Operand::Word { shift: 1.., .. } => self.extended(right_value, &right.span)?,
            whole => whole,
        };
        let left_value = if is_float { left_value } else { self.signed(left_value, &left.ty.class) };
        self.compare_words(code, flags, left_value, right_value, wanted != negate, label);
        Ok(())
    }

    /// The operand with the sign that its comparison goes by.
    fn signed(&self, operand: Operand, class: &Class) -> Operand {
        match operand {
            Operand::Word { word, shift, .. } => {
                Operand::Word { word, shift, signed: matches!(class, Class::Integer { signed: true, .. }) }
            }
            immediate => immediate,
        }
    }

    /// The operand in a word, extended to 64 bits.
    fn extended(&mut self, operand: Operand, span: &Span) -> Compiled<Operand> {
        let op = match operand {
            Operand::Word { shift: 0, .. } => return Ok(operand),
            Operand::Word { word, shift, signed } => Op {
                code: OP_MOVE,
                left: word,
                shift,
                flags: if signed { OP_SIGNED } else { 0 },
                ..Op::default()
            },
            Operand::Immediate(immediate) => {
                Op { code: OP_MOVE, flags: OP_IMMEDIATE, immediate, ..Op::default() }
            }
        };
        let destination = self.take(1, span)?;
        self.emit(Op { destination, ..op });
        Ok(Operand::Word { word: destination, shift: 0, signed: op.flags & OP_SIGNED != 0 })
    }

    /// The value of an integer, a bool, a pointer; of a float, its key.
    fn value(&mut self, e: &Typed) -> Compiled<Operand> {
        match &e.kind {
            TypedKind::Constant(constant) => self.constant(constant, e),
            TypedKind::Length(inner) => self.length(inner, false),
            TypedKind::Capacity(inner) => self.length(inner, true),
            TypedKind::Convert(inner) => {
                let free = self.next;
                let value = self.value(inner)?;
                let value = self.extended(value, &e.span)?;
                let (Operand::Word { word, .. }, Class::Integer { bits, signed }) = (value, &e.ty.class)
                else {
                    return Ok(value);
                };
                self.next = free;
                let destination = self.take(1, &e.span)?;
                let flags = if *signed { OP_SIGNED } else { 0 };
                let shift = 64 - bits;
                self.emit(Op { code: OP_MOVE, destination, left: word, shift, flags, ..Op::default() });
                Ok(Operand::Word { word: destination, shift: 0, signed: *signed })
            }
            TypedKind::Arithmetic(operator, left, right) => self.arithmetic(*operator, left, right, e),
            TypedKind::Compare(..)
            | TypedKind::Text(..)
            | TypedKind::IsType(..)
            | TypedKind::Not(_)
            | TypedKind::And(..)
            | TypedKind::Or(..) => {
                let destination = self.take(1, &e.span)?;
                let set = |value| Op {
                    code: OP_MOVE,
                    destination,
                    flags: OP_IMMEDIATE,
                    immediate: value,
                    ..Op::default()
                };
                let end = self.label();
                self.emit(set(0));
                self.branch(e, false, end)?;
                self.emit(set(1));
                self.bind(end);
                Ok(Operand::Word { word: destination, shift: 0, signed: false })
            }
            _ => {
                let Some((bytes, signed)) = e.ty.word() else {
                    return Err(
                        self.fail(&e.span, format!("a {} can't be decided on in the kernel", e.ty.shown()))
                    );
                };
                let free = self.next;
                let holder = self.place(e)?;
                // What led here is not needed any more once the value is in its word.
                let loaded = self.load(&holder, 0, bytes, signed, free, &e.span)?;
                match e.ty.class {
                    Class::Float { bits } => {
                        let word = match loaded {
                            Operand::Word { word, .. } => word,
                            Operand::Immediate(value) => {
                                return Ok(Operand::Immediate(float_key(value, 64 - bits)));
                            }
                        };
                        self.next = free;
                        let destination = self.take(1, &e.span)?;
                        let shift = 64 - bits;
                        self.emit(Op { code: OP_FLOAT_KEY, destination, left: word, shift, ..Op::default() });
                        Ok(Operand::Word { word: destination, shift: 0, signed: true })
                    }
                    _ => Ok(loaded),
                }
            }
        }
    }

    fn constant(&self, constant: &Constant, e: &Typed) -> Compiled<Operand> {
        Ok(Operand::Immediate(match constant {
            Constant::Bool(value) => (*value).into(),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "its 64 bits are what counts"
            )]
            Constant::Integer(value) => *value as u64,
            Constant::Float(value) => float_constant(*value, &e.ty.class),
            Constant::Nil => 0,
            Constant::Text(_) => return Err(self.fail(&e.span, "a string is no word")),
        }))
    }

    fn arithmetic(
        &mut self,
        operator: Arithmetic,
        left: &Typed,
        right: &Typed,
        e: &Typed,
    ) -> Compiled<Operand> {
        let Class::Integer { bits, signed } = e.ty.class else {
            return Err(self.fail(&e.span, "only integers are calculated with"));
        };
        let free = self.next;
        let left_value = self.value(left)?;
        let left_value = match left_value {
            Operand::Immediate(_) => self.extended(left_value, &left.span)?,
            word => word,
        };
        let right_value = self.value(right)?;
        let right_value = match right_value {
            Operand::Word { .. } => self.extended(right_value, &right.span)?,
            immediate => immediate,
        };
        let is_shift = matches!(operator, Arithmetic::ShiftLeft | Arithmetic::ShiftRight);
        if is_shift
            && matches!(right.ty.class, Class::Integer { signed: true, .. })
            && let Operand::Word { word, .. } = right_value
        {
            // Go panics at a negative shift.
            let sign = Operand::Word { word, shift: 0, signed: true };
            self.compare_words(OP_LESS, 0, sign, Operand::Immediate(0), true, FAIL);
        }
        let Operand::Word { word, .. } = left_value else {
            return Err(self.fail(&left.span, "this is no word"));
        };
        let code = match operator {
            Arithmetic::Add => OP_ADD,
            Arithmetic::Subtract => OP_SUBTRACT,
            Arithmetic::Multiply => OP_MULTIPLY,
            Arithmetic::Divide => OP_DIVIDE,
            Arithmetic::Remainder => OP_REMAINDER,
            Arithmetic::And => OP_AND,
            Arithmetic::Or => OP_OR,
            Arithmetic::Xor => OP_XOR,
            Arithmetic::AndNot => OP_AND_NOT,
            Arithmetic::ShiftLeft => OP_SHIFT_LEFT,
            Arithmetic::ShiftRight => OP_SHIFT_RIGHT,
        };
        self.next = free;
        let destination = self.take(1, &e.span)?;
        let flags = if signed { OP_SIGNED } else { 0 };
        let mut op = Op { code, destination, left: word, shift: 64 - bits, flags, ..Op::default() };
        match right_value {
            Operand::Word { word, .. } => op.right = word,
            Operand::Immediate(value) => {
                op.flags |= OP_IMMEDIATE;
                op.immediate = value;
            }
        }
        self.emit(op);
        Ok(Operand::Word { word: destination, shift: 0, signed })
    }

    fn text_test(
        &mut self,
        test: TextTest,
        text: &Typed,
        part: &Typed,
        wanted: bool,
        label: usize,
    ) -> Compiled<()> {
        if test == TextTest::HasPrefix {
            return self.compare_strings(OP_STRING_PREFIX, text, part, wanted, label);
        }
        let Some(Constant::Text(bytes)) = part.constant() else {
            return Err(self.fail(&part.span, "strings.Contains looks for a string that is written here"));
        };
        if bytes.is_empty() {
            // Every string contains it; but reading the string may fail.
            let bytes = Operand::Immediate(0);
            let first = self.string(text)?;
            let _ = first;
            self.compare_words(OP_EQUAL, 0, bytes, Operand::Immediate(0), wanted, label);
            return Ok(());
        }
        if bytes.len() > MAX_CONTAINED_BYTES {
            let message = format!(
                "strings.Contains looks for at most {MAX_CONTAINED_BYTES} bytes, these are {}",
                bytes.len()
            );
            return Err(self.fail(&part.span, message));
        }
        let mut table = [0u64; 256];
        for (at, byte) in bytes.iter().enumerate() {
            table[usize::from(*byte)] |= 1 << at;
        }
        let first_block = self.blocks.len() as u64;
        self.blocks.extend(table.as_chunks::<8>().0.iter().map(|words| Block { words: *words }));
        debug_assert_eq!(table.len() / 8, CONTAINS_BLOCKS);
        let left = self.string(text)?;
        let immediate = first_block << 32 | bytes.len() as u64;
        let flags = if wanted { OP_NEGATE } else { 0 };
        self.ops
            .push((Op { code: OP_STRING_CONTAINS, left, flags, immediate, ..Op::default() }, Some(label)));
        Ok(())
    }

    fn compare_strings(
        &mut self,
        code: u8,
        left: &Typed,
        right: &Typed,
        wanted: bool,
        label: usize,
    ) -> Compiled<()> {
        let flags = if wanted { OP_NEGATE } else { 0 };
        let mut op = Op { code, flags, ..Op::default() };
        // The constant stands right: c < x is !(x <= c).
        let (left, right) = match (left.constant(), code) {
            (Some(_), OP_STRING_LESS | OP_STRING_LESS_EQUAL) => {
                op.code = if code == OP_STRING_LESS { OP_STRING_LESS_EQUAL } else { OP_STRING_LESS };
                op.flags ^= OP_NEGATE;
                (right, left)
            }
            _ => (left, right),
        };
        op.left = self.string(left)?;
        if let Some(Constant::Text(bytes)) = right.constant() {
            let most = MAX_COMPARED_BLOCKS as usize * size_of::<Block>();
            if bytes.len() > most {
                let message =
                    format!("strings are compared with at most {most} bytes, these are {}", bytes.len());
                return Err(self.fail(&right.span, message));
            }
            op.flags |= OP_IMMEDIATE;
            op.immediate = (self.blocks.len() as u64) << 32 | bytes.len() as u64;
            self.blocks.extend(bytes.chunks(size_of::<Block>()).map(block));
            if bytes.is_empty() {
                self.blocks.push(Block::default());
            }
        } else {
            op.right = self.string(right)?;
        }
        self.ops.push((op, Some(label)));
        Ok(())
    }

    /// The first of two words: a string's pointer and length.
    fn string(&mut self, e: &Typed) -> Compiled<u8> {
        if e.constant().is_some() {
            return Err(self.fail(&e.span, "a constant alone decides nothing; compare it with a variable"));
        }
        let first = self.take(2, &e.span)?;
        let free = self.next;
        let holder = self.place(e)?;
        for (word, offset) in [(first, 0), (first + 1, 8)] {
            let loaded = self.load(&holder, offset, 8, false, word, &e.span)?;
            self.move_to(word, loaded);
        }
        self.next = free;
        Ok(first)
    }

    fn move_to(&mut self, destination: u8, operand: Operand) {
        match operand {
            Operand::Word { word, shift: 0, .. } if word == destination => {}
            Operand::Word { word, shift, signed } => {
                let flags = if signed { OP_SIGNED } else { 0 };
                self.emit(Op { code: OP_MOVE, destination, left: word, shift, flags, ..Op::default() });
            }
            Operand::Immediate(immediate) => {
                self.emit(Op { code: OP_MOVE, destination, flags: OP_IMMEDIATE, immediate, ..Op::default() });
            }
        }
    }

    fn nil_word(&mut self, e: &Typed) -> Compiled<Operand> {
        let free = self.next;
        let holder = self.place(e)?;
        self.load(&holder, 0, 8, false, free, &e.span)
    }
}

fn block(bytes: &[u8]) -> Block {
    let mut block = Block::default();
    for (word, bytes) in block.words.iter_mut().zip(bytes.chunks(8)) {
        let mut whole = [0; 8];
        for (to, from) in whole.iter_mut().zip(bytes) {
            *to = *from;
        }
        *word = u64::from_le_bytes(whole);
    }
    block
}

fn float_constant(value: f64, class: &Class) -> u64 {
    match class {
        #[expect(clippy::cast_possible_truncation, reason = "the checker rounded it to 32 bits")]
        Class::Float { bits: 32 } => float_key((value as f32).to_bits().into(), 32),
        _ => float_key(value.to_bits(), 0),
    }
}
