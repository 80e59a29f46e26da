//! Random expressions, and what Go makes of them: written from Go's specification, not from the compiler.

use std::cmp::Ordering;

/// A type of integers: name, bits, signed.
pub(super) type Integers = (&'static str, u32, bool);

pub(super) const INTEGERS: [Integers; 10] = [
    ("int", 64, true),
    ("int8", 8, true),
    ("int16", 16, true),
    ("int32", 32, true),
    ("int64", 64, true),
    ("uint", 64, false),
    ("uint8", 8, false),
    ("uint16", 16, false),
    ("uint32", 32, false),
    ("uint64", 64, false),
];
const INT: usize = 0;
const INT16: usize = 2;
const INT32: usize = 3;
const INT64: usize = 4;
const UINT8: usize = 6;

/// Levels of a random expression.
const DEPTH: u32 = 4;
/// Constants of strings.
const TEXTS: [&str; 5] = ["", "a", "ab", "b\\x00", "grüße"];
/// Constants of floats: `f32` has each, or rounds it.
const FLOATS: [&str; 6] = ["0", "1.5", "-1.5", "0.1", "1e30", "-7"];
const ARITHMETIC: [&str; 11] = ["+", "-", "*", "/", "%", "&", "|", "^", "&^", "<<", ">>"];
const COMPARISONS: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];

/// What a pointer is.
#[derive(Clone, Debug)]
pub(super) enum Pointer {
    Nil,
    /// At memory that is not there.
    Wild,
    To {
        number: i16,
        text: Vec<u8>,
        float: f32,
    },
}

/// The variables' values.
#[derive(Clone, Debug)]
pub(super) struct World {
    /// Two of each type of integers; only the type's bits count.
    pub(super) integers: [[u64; 2]; INTEGERS.len()],
    pub(super) float64: [f64; 2],
    pub(super) float32: [f32; 2],
    pub(super) bools: [bool; 2],
    pub(super) texts: [Vec<u8>; 2],
    pub(super) list: Option<Vec<i32>>,
    pub(super) pointer: Pointer,
    pub(super) grid: [i64; 3],
    /// Bits of a register that the variable in it does not have.
    pub(super) garbage: u64,
}

impl World {
    pub(super) fn integer(&self, ty: usize, which: usize) -> i128 {
        wrap(ty, self.integers[ty][which].into())
    }
}

/// An expression that is an integer.
#[derive(Clone, Debug)]
pub(super) enum Integer {
    Variable(usize, usize),
    Constant(i128),
    Arithmetic(usize, &'static str, Box<(Integer, Integer)>),
    Minus(usize, Box<Integer>),
    Complement(usize, Box<Integer>),
    Convert(usize, Box<Integer>),
    TextLength(Text),
    ListLength,
    ListCapacity,
    Element(Box<Integer>),
    Cell(Box<Integer>),
    Byte(Text, Box<Integer>),
    Field,
}

#[derive(Clone, Debug)]
pub(super) enum Text {
    Variable(usize),
    Constant(&'static str),
    Field,
}

#[derive(Clone, Debug)]
pub(super) enum Float {
    Variable64(usize),
    Variable32(usize),
    Field,
    Constant(&'static str, bool),
}

/// An expression that is true or false.
#[derive(Clone, Debug)]
pub(super) enum Bool {
    Variable(usize),
    Constant(bool),
    Integers(&'static str, Box<(Integer, Integer)>),
    Floats(&'static str, Float, Float),
    Texts(&'static str, Text, Text),
    Bools(&'static str, Box<(Bool, Bool)>),
    HasPrefix(Text, Text),
    Contains(Text, &'static str),
    IsNil(&'static str, &'static str),
    Not(Box<Bool>),
    And(Box<(Bool, Bool)>),
    Or(Box<(Bool, Bool)>),
}

/// Where Go panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Panic;
type Result<T> = std::result::Result<T, Panic>;

/// Choices; nought when there are none left, which is the simplest.
pub(super) struct Choices<'a>(pub(super) std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, count: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % count
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    pub(super) fn condition(&mut self) -> Bool {
        self.bool(DEPTH)
    }

    fn bool(&mut self, depth: u32) -> Bool {
        if depth == 0 {
            return Bool::Variable(self.below(2));
        }
        let less = depth - 1;
        let pair = |choices: &mut Self| Box::new((choices.bool(less), choices.bool(less)));
        match self.below(14) {
            0 => Bool::Variable(self.below(2)),
            1 => Bool::Constant(self.below(2) == 0),
            2..=5 => {
                let ty = self.below(INTEGERS.len());
                let comparison = self.of(&COMPARISONS);
                Bool::Integers(comparison, Box::new(self.operands(ty, less)))
            }
            6 => {
                let (comparison, single) = (self.of(&COMPARISONS), self.below(2) == 1);
                let (left, right) = (self.float(single, false), self.float(single, true));
                // Also the constant first.
                if self.below(2) == 0 {
                    Bool::Floats(comparison, left, right)
                } else {
                    Bool::Floats(comparison, right, left)
                }
            }
            7 => {
                let (left, right) = (self.text(false), self.text(true));
                let comparison = self.of(&COMPARISONS);
                if self.below(2) == 0 {
                    Bool::Texts(comparison, left, right)
                } else {
                    Bool::Texts(comparison, right, left)
                }
            }
            8 => Bool::HasPrefix(self.text(false), self.text(true)),
            9 => Bool::Contains(self.text(false), self.of(&TEXTS)),
            10 => Bool::IsNil(self.of(&["==", "!="]), self.of(&["p", "list"])),
            11 => Bool::Not(Box::new(self.bool(less))),
            12 if self.below(2) == 0 => Bool::Bools(self.of(&["==", "!="]), pair(self)),
            12 => Bool::And(pair(self)),
            _ => Bool::Or(pair(self)),
        }
    }

    /// Two of one type, at most one of them a constant.
    fn operands(&mut self, ty: usize, depth: u32) -> (Integer, Integer) {
        let value = self.integer(ty, depth);
        let other = if self.below(3) == 0 { self.constant(ty) } else { self.integer(ty, depth) };
        if self.below(2) == 0 { (value, other) } else { (other, value) }
    }

    fn constant(&mut self, ty: usize) -> Integer {
        let (_, bits, signed) = INTEGERS[ty];
        let small = i128::try_from(self.below(12)).unwrap_or(0);
        let value = match self.below(6) {
            0 if signed => -small - 1,
            1 => 1 << (bits - 1),
            2 => (1 << bits) - 1,
            3 => (1 << (bits - 1)) - 1,
            _ => small + 1,
        };
        Integer::Constant(wrap(ty, value))
    }

    fn integer(&mut self, ty: usize, depth: u32) -> Integer {
        if depth == 0 {
            return Integer::Variable(ty, self.below(2));
        }
        let less = depth - 1;
        match self.below(11) {
            0..=2 => Integer::Variable(ty, self.below(2)),
            3..=5 => {
                let sign = self.of(&ARITHMETIC);
                let operands = match sign {
                    "<<" | ">>" => {
                        let by = self.below(INTEGERS.len());
                        let count = match self.below(2) {
                            0 => Integer::Constant(i128::try_from(self.below(70)).unwrap_or(0)),
                            _ => self.integer(by, less),
                        };
                        (self.integer(ty, less), count)
                    }
                    _ => self.operands(ty, less),
                };
                // Refused, as in Go.
                if matches!((sign, &operands.1), ("/" | "%", Integer::Constant(0))) {
                    return operands.0;
                }
                Integer::Arithmetic(ty, sign, Box::new(operands))
            }
            6 => Integer::Minus(ty, Box::new(self.integer(ty, less))),
            7 => Integer::Complement(ty, Box::new(self.integer(ty, less))),
            8 | 9 => {
                let from = self.below(INTEGERS.len());
                Integer::Convert(ty, Box::new(self.integer(from, less)))
            }
            _ => match ty {
                INT if self.below(3) == 0 => Integer::ListLength,
                INT if self.below(2) == 0 => Integer::ListCapacity,
                INT => Integer::TextLength(self.text(false)),
                INT16 => Integer::Field,
                INT32 => Integer::Element(self.index(6, less)),
                INT64 => Integer::Cell(self.index(3, less)),
                UINT8 => Integer::Byte(self.text(false), self.index(6, less)),
                _ => Integer::Variable(ty, self.below(2)),
            },
        }
    }

    fn index(&mut self, below: usize, depth: u32) -> Box<Integer> {
        Box::new(if self.below(2) == 0 {
            Integer::Constant(i128::try_from(self.below(below)).unwrap_or(0))
        } else {
            let ty = self.below(INTEGERS.len());
            self.integer(ty, depth)
        })
    }

    fn text(&mut self, constant: bool) -> Text {
        match self.below(if constant { 4 } else { 3 }) {
            0 => Text::Variable(0),
            1 => Text::Variable(1),
            2 => Text::Field,
            _ => Text::Constant(self.of(&TEXTS)),
        }
    }

    fn float(&mut self, single: bool, constant: bool) -> Float {
        match (self.below(if constant { 4 } else { 3 }), single) {
            (3, _) => Float::Constant(self.of(&FLOATS), single),
            (2, true) => Float::Field,
            (which, true) => Float::Variable32(which % 2),
            (which, false) => Float::Variable64(which % 2),
        }
    }
}

/// The value that a type has after wrapping around.
fn wrap(ty: usize, value: i128) -> i128 {
    let (_, bits, signed) = INTEGERS[ty];
    let modulus = 1i128 << bits;
    let low = value.rem_euclid(modulus);
    if signed && low >= modulus / 2 { low - modulus } else { low }
}

impl Integer {
    pub(super) fn value(&self, world: &World) -> Result<i128> {
        Ok(match self {
            Self::Variable(ty, which) => world.integer(*ty, *which),
            Self::Constant(value) => *value,
            Self::Arithmetic(ty, sign, operands) => {
                let (left, right) = (operands.0.value(world)?, operands.1.value(world)?);
                let shift = || match u32::try_from(right) {
                    Ok(by) if by < 64 => Ok(Some(by)),
                    _ if right < 0 => Err(Panic),
                    _ => Ok(None),
                };
                wrap(
                    *ty,
                    match *sign {
                        "+" => left + right,
                        "-" => left - right,
                        // Modulo 2^128 is right modulo 2^64 too.
                        "*" => left.wrapping_mul(right),
                        "/" => left.checked_div(right).ok_or(Panic)?,
                        "%" => left.checked_rem(right).ok_or(Panic)?,
                        "&" => left & right,
                        "|" => left | right,
                        "^" => left ^ right,
                        "&^" => left & !right,
                        "<<" => shift()?.map_or(0, |by| left << by),
                        ">>" => shift()?.map_or(if left < 0 { -1 } else { 0 }, |by| left >> by),
                        sign => unreachable!("{sign}"),
                    },
                )
            }
            Self::Minus(ty, inner) => wrap(*ty, -inner.value(world)?),
            Self::Complement(ty, inner) => wrap(*ty, !inner.value(world)?),
            Self::Convert(ty, inner) => wrap(*ty, inner.value(world)?),
            Self::TextLength(text) => text.value(world)?.len() as i128,
            Self::ListLength | Self::ListCapacity => world.list.as_ref().map_or(0, Vec::len) as i128,
            Self::Element(index) => (*at(world.list.as_deref().unwrap_or_default(), index, world)?).into(),
            Self::Cell(index) => (*at(&world.grid, index, world)?).into(),
            Self::Byte(text, index) => (*at(&text.value(world)?, index, world)?).into(),
            Self::Field => match &world.pointer {
                Pointer::To { number, .. } => (*number).into(),
                _ => return Err(Panic),
            },
        })
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Variable(ty, which) => format!("{}{}", ["a", "b"][*which], INTEGERS[*ty].0),
            Self::Constant(value) => value.to_string(),
            Self::Arithmetic(_, sign, operands) => {
                format!("({} {sign} {})", operands.0.text(), operands.1.text())
            }
            Self::Minus(_, inner) => format!("-({})", inner.text()),
            Self::Complement(_, inner) => format!("^({})", inner.text()),
            Self::Convert(ty, inner) => format!("{}({})", INTEGERS[*ty].0, inner.text()),
            Self::TextLength(text) => format!("len({})", text.text()),
            Self::ListLength => "len(list)".into(),
            Self::ListCapacity => "cap(list)".into(),
            Self::Element(index) => format!("list[{}]", index.text()),
            Self::Cell(index) => format!("grid[{}]", index.text()),
            Self::Byte(text, index) => format!("{}[{}]", text.text(), index.text()),
            Self::Field => "p.Number".into(),
        }
    }
}

fn at<'a, T>(all: &'a [T], index: &Integer, world: &World) -> Result<&'a T> {
    usize::try_from(index.value(world)?).ok().and_then(|index| all.get(index)).ok_or(Panic)
}

impl Text {
    fn value(&self, world: &World) -> Result<Vec<u8>> {
        match (self, &world.pointer) {
            (Self::Variable(which), _) => Ok(world.texts[*which].clone()),
            (Self::Constant(text), _) => Ok(text.replace("\\x00", "\0").into_bytes()),
            (Self::Field, Pointer::To { text, .. }) => Ok(text.clone()),
            (Self::Field, _) => Err(Panic),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Variable(which) => ["s", "t"][*which].into(),
            Self::Constant(text) => format!("\"{text}\""),
            Self::Field => "p.Text".into(),
        }
    }
}

impl Float {
    fn value(&self, world: &World) -> Result<f64> {
        match (self, &world.pointer) {
            (Self::Variable64(which), _) => Ok(world.float64[*which]),
            (Self::Variable32(which), _) => Ok(world.float32[*which].into()),
            (Self::Constant(text, true), _) => text.parse::<f32>().map(f64::from).map_err(|_| Panic),
            (Self::Constant(text, false), _) => text.parse().map_err(|_| Panic),
            (Self::Field, Pointer::To { float, .. }) => Ok((*float).into()),
            (Self::Field, _) => Err(Panic),
        }
    }

    fn text(&self) -> &'static str {
        match self {
            Self::Variable64(which) => ["f", "g"][*which],
            Self::Variable32(which) => ["h", "k"][*which],
            Self::Constant(text, _) => text,
            Self::Field => "p.Float",
        }
    }
}

fn holds(comparison: &str, order: Option<Ordering>) -> bool {
    match comparison {
        "==" => order == Some(Ordering::Equal),
        "!=" => order != Some(Ordering::Equal),
        "<" => order == Some(Ordering::Less),
        ">" => order == Some(Ordering::Greater),
        "<=" => order.is_some_and(Ordering::is_le),
        _ => order.is_some_and(Ordering::is_ge),
    }
}

impl Bool {
    pub(super) fn value(&self, world: &World) -> Result<bool> {
        Ok(match self {
            Self::Variable(which) => world.bools[*which],
            Self::Constant(value) => *value,
            Self::Integers(comparison, operands) => {
                holds(comparison, operands.0.value(world)?.partial_cmp(&operands.1.value(world)?))
            }
            Self::Floats(comparison, left, right) => {
                holds(comparison, left.value(world)?.partial_cmp(&right.value(world)?))
            }
            Self::Texts(comparison, left, right) => {
                holds(comparison, left.value(world)?.partial_cmp(&right.value(world)?))
            }
            Self::Bools(comparison, operands) => {
                holds(comparison, operands.0.value(world)?.partial_cmp(&operands.1.value(world)?))
            }
            Self::HasPrefix(text, part) => text.value(world)?.starts_with(&part.value(world)?),
            Self::Contains(text, part) => {
                let (text, part) = (text.value(world)?, Text::Constant(part).value(world)?);
                part.is_empty() || text.windows(part.len()).any(|window| window == part)
            }
            Self::IsNil(sign, name) => {
                let nil = match *name {
                    "p" => matches!(world.pointer, Pointer::Nil),
                    _ => world.list.is_none(),
                };
                nil == (*sign == "==")
            }
            Self::Not(inner) => !inner.value(world)?,
            Self::And(operands) => operands.0.value(world)? && operands.1.value(world)?,
            Self::Or(operands) => operands.0.value(world)? || operands.1.value(world)?,
        })
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Variable(which) => ["yes", "no"][*which].into(),
            Self::Constant(value) => value.to_string(),
            Self::Integers(comparison, operands) => {
                format!("({} {comparison} {})", operands.0.text(), operands.1.text())
            }
            Self::Floats(comparison, left, right) => {
                format!("({} {comparison} {})", left.text(), right.text())
            }
            Self::Texts(comparison, left, right) => {
                format!("({} {comparison} {})", left.text(), right.text())
            }
            Self::Bools(comparison, operands) => {
                format!("({} {comparison} {})", operands.0.text(), operands.1.text())
            }
            Self::HasPrefix(text, part) => format!("strings.HasPrefix({}, {})", text.text(), part.text()),
            Self::Contains(text, part) => format!("strings.Contains({}, \"{part}\")", text.text()),
            Self::IsNil(sign, name) => format!("({name} {sign} nil)"),
            Self::Not(inner) => format!("!({})", inner.text()),
            Self::And(operands) => format!("({} && {})", operands.0.text(), operands.1.text()),
            Self::Or(operands) => format!("({} || {})", operands.0.text(), operands.1.text()),
        }
    }
}
