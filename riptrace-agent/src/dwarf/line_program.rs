//! Runs a line program. gimli's runner makes a row object for each step; asking for the rows of one file of a large
//! program runs through megabytes, most of which belong to other files.

use gimli::LineProgramHeader;

use super::unit::Slice;

/// A row, with the file by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) address: u64,
    /// The next row's address.
    pub(crate) end: u64,
    pub(crate) line: u32,
    pub(crate) file: u32,
    pub(crate) is_stmt: bool,
    pub(crate) prologue_end: bool,
}

/// The bytes that are left of the program.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.bytes = self.bytes.get(count..)?;
        Some(())
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            if shift < 64 {
                value |= u64::from(byte & 0x7f) << shift;
            }
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let mut value = 0_i64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            if shift < 64 {
                value |= i64::from(byte & 0x7f) << shift;
            }
            if byte & 0x80 == 0 {
                if byte & 0x40 != 0 && shift + 7 < 64 {
                    value |= -1 << (shift + 7);
                }
                return Some(value);
            }
        }
        None
    }
}

/// Hands every row that covers at least one byte to `each`, in the program's order, when its file is `wanted`. A
/// program that breaks off gives the rows until there. Of several rows at one address the last one counts.
pub(crate) fn run(
    header: &LineProgramHeader<Slice<'_>>,
    wanted: impl Fn(u32) -> bool,
    mut each: impl FnMut(Row),
) {
    let buffer = header.raw_program_buf();
    let mut machine = Machine {
        program: Reader { bytes: buffer.slice() },
        opcode_base: header.opcode_base(),
        line_base: i64::from(header.line_base()),
        line_range: header.line_range().max(1),
        instruction_bytes: u64::from(header.minimum_instruction_length()),
        default_is_stmt: header.default_is_stmt(),
        operands: header.standard_opcode_lengths().slice(),
        state: State::new(header.default_is_stmt()),
        open: None,
    };
    while !machine.program.bytes.is_empty() {
        if machine.step(&wanted, &mut each).is_none() {
            break;
        }
    }
}

/// The registers of DWARF 5, 6.2.2, as far as a row shows them.
#[derive(Clone, Copy)]
struct State {
    address: u64,
    file: u32,
    line: u64,
    is_stmt: bool,
    prologue_end: bool,
}

impl State {
    fn new(is_stmt: bool) -> Self {
        Self { address: 0, file: 1, line: 1, is_stmt, prologue_end: false }
    }
}

struct Machine<'a> {
    program: Reader<'a>,
    opcode_base: u8,
    line_base: i64,
    line_range: u8,
    instruction_bytes: u64,
    default_is_stmt: bool,
    /// Operands of the standard opcodes, from 1.
    operands: &'a [u8],
    state: State,
    /// The row whose end is not known yet.
    open: Option<Row>,
}

impl Machine<'_> {
    fn step(&mut self, wanted: &impl Fn(u32) -> bool, each: &mut impl FnMut(Row)) -> Option<()> {
        let opcode = self.program.byte()?;
        if opcode >= self.opcode_base {
            let adjusted = opcode - self.opcode_base;
            self.advance(u64::from(adjusted / self.line_range));
            self.advance_line(self.line_base + i64::from(adjusted % self.line_range));
            self.row(wanted, each);
            return Some(());
        }
        match gimli::DwLns(opcode) {
            gimli::DwLns(0) => return self.extended(each),
            gimli::DW_LNS_copy => self.row(wanted, each),
            gimli::DW_LNS_advance_pc => {
                let by = self.program.unsigned()?;
                self.advance(by);
            }
            gimli::DW_LNS_advance_line => {
                let by = self.program.signed()?;
                self.advance_line(by);
            }
            gimli::DW_LNS_set_file => {
                self.state.file = u32::try_from(self.program.unsigned()?).unwrap_or(u32::MAX);
            }
            gimli::DW_LNS_negate_stmt => self.state.is_stmt = !self.state.is_stmt,
            gimli::DW_LNS_set_basic_block | gimli::DW_LNS_set_epilogue_begin => {}
            gimli::DW_LNS_const_add_pc => self.advance(u64::from((255 - self.opcode_base) / self.line_range)),
            gimli::DW_LNS_fixed_advance_pc => {
                let bytes = [self.program.byte()?, self.program.byte()?];
                self.state.address = self.state.address.wrapping_add(u64::from(u16::from_le_bytes(bytes)));
            }
            gimli::DW_LNS_set_prologue_end => self.state.prologue_end = true,
            // The column, the instruction set, and what a later standard may add.
            _ => {
                for _ in 0..*self.operands.get(usize::from(opcode).checked_sub(1)?)? {
                    self.program.unsigned()?;
                }
            }
        }
        Some(())
    }

    fn extended(&mut self, each: &mut impl FnMut(Row)) -> Option<()> {
        let length = usize::try_from(self.program.unsigned()?).ok()?;
        let mut operation = Reader { bytes: self.program.bytes.get(..length)? };
        self.program.skip(length)?;
        match operation.byte().map(gimli::DwLne) {
            Some(gimli::DW_LNE_end_sequence) => {
                if let Some(last) = self.open.take() {
                    close(last, self.state.address, each);
                }
                self.state = State::new(self.default_is_stmt);
            }
            Some(gimli::DW_LNE_set_address) => {
                self.state.address = match *operation.bytes {
                    [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
                    [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
                    _ => return None,
                };
            }
            _ => {}
        }
        Some(())
    }

    fn advance(&mut self, operations: u64) {
        self.state.address = self.state.address.wrapping_add(operations.wrapping_mul(self.instruction_bytes));
    }

    fn advance_line(&mut self, by: i64) {
        self.state.line = self.state.line.wrapping_add_signed(by);
    }

    fn row(&mut self, wanted: &impl Fn(u32) -> bool, each: &mut impl FnMut(Row)) {
        let State { address, file, line, is_stmt, prologue_end } = self.state;
        if let Some(before) = self.open.take() {
            close(before, address, each);
        }
        if wanted(file) {
            let line = u32::try_from(line).unwrap_or(0);
            self.open = Some(Row { address, end: address, line, file, is_stmt, prologue_end });
        }
        self.state.prologue_end = false;
    }
}

/// A linker places code that it drops at 0.
fn close(mut row: Row, end: u64, each: &mut impl FnMut(Row)) {
    row.end = end;
    if row.end > row.address && row.address != 0 {
        each(row);
    }
}
