//! What a user calls a place in a program: `file.go:42`, `pkg.Func`, `pkg.(*T).Method`, `*0x4a1b2c`.

use std::{fmt, sync::Arc};

use crate::{dwarf::DwarfError, plan::code::CodeError};

/// Files, functions or lines that a message names.
const MAX_NAMED: usize = 8;

/// A location as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocationRequest {
    /// `file.go:42`: each execution of the line.
    Line {
        /// The file's path, or its last parts.
        file: String,
        /// The line, from 1.
        line: u32,
    },
    /// `pkg.Func`: each call.
    Function {
        /// The function's name, maybe without the first parts of its import path.
        name: String,
    },
    /// `*0x4a1b2c`: each execution of the instruction.
    Address {
        /// Its link-time address.
        link_address: u64,
    },
}

impl fmt::Display for LocationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(f, "{file}:{line}"),
            Self::Function { name } => f.write_str(name),
            Self::Address { link_address } => write!(f, "*{link_address:#x}"),
        }
    }
}

/// Why the text of a location can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?}: {problem} at column {column}; write file.go:LINE, pkg.Func, pkg.(*T).Method or *0xADDRESS"
)]
pub struct LocationSyntaxError {
    /// The text.
    pub text: String,
    /// Where, counted from 1.
    pub column: usize,
    /// What.
    pub problem: &'static str,
}

impl std::str::FromStr for LocationRequest {
    type Err = LocationSyntaxError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |byte: usize, problem| LocationSyntaxError {
            text: text.chars().take(256).collect(),
            column: text.get(..byte).map_or(1, |before| before.chars().count() + 1),
            problem,
        };
        if text.is_empty() {
            return Err(fail(0, "a location is missing"));
        }
        if let Some(found) = text.find(|c: char| c.is_control()) {
            return Err(fail(found, "there is a control character"));
        }
        if let Some(digits) = text.strip_prefix("*0x").or_else(|| text.strip_prefix("*0X")) {
            let wrong = digits.find(|c: char| !c.is_ascii_hexdigit());
            return match (u64::from_str_radix(digits, 16), wrong) {
                (Ok(link_address), None) => Ok(Self::Address { link_address }),
                (_, Some(at)) => Err(fail(3 + at, "this is no hexadecimal digit")),
                (Err(_), None) if digits.is_empty() => Err(fail(3, "the address is missing")),
                (Err(_), None) => Err(fail(3, "the address has more than 64 bits")),
            };
        }
        if text.starts_with('*') {
            return Err(fail(1, "an address begins with 0x"));
        }
        if let Some((file, line)) = text.rsplit_once(':') {
            let at = file.len() + 1;
            let file = file.trim_start_matches("./");
            if file.is_empty() {
                return Err(fail(0, "the file's name is missing"));
            }
            if line.is_empty() {
                return Err(fail(at, "the line's number is missing"));
            }
            if let Some(wrong) = line.find(|c: char| !c.is_ascii_digit()) {
                return Err(fail(at + wrong, "a line's number has digits only"));
            }
            return match line.parse() {
                Ok(0) => Err(fail(at, "lines count from 1")),
                Ok(line) => Ok(Self::Line { file: file.to_owned(), line }),
                Err(_) => Err(fail(at, "no file has that many lines")),
            };
        }
        if let Some(at) = text.find(char::is_whitespace) {
            return Err(fail(at, "there is a space"));
        }
        if [".go", ".s", ".c", ".cc", ".cpp", ".h"].iter().any(|end| text.ends_with(end)) {
            return Err(fail(text.len(), "the line is missing"));
        }
        let base = text.rfind('/').map_or(0, |slash| slash + 1);
        if !text[base..].contains('.') {
            return Err(fail(text.len(), "the function's name behind the package is missing"));
        }
        if text.ends_with('.') {
            return Err(fail(text.len(), "the function's name is missing"));
        }
        let (opening, closing) = (text.matches('(').count(), text.matches(')').count());
        if opening != closing {
            let at = text.find(['(', ')']).unwrap_or(0);
            return Err(fail(at, "the parentheses don't match"));
        }
        Ok(Self::Function { name: text.to_owned() })
    }
}

/// Why a location has no site.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LocationError {
    /// No line table names the file.
    #[error("no file {file} in this program{}", clause("; there is ", .nearest))]
    NoFile {
        /// As it was asked for.
        file: String,
        /// Files of a similar name.
        nearest: Vec<Arc<str>>,
    },
    /// Several files match.
    #[error("{file} matches {count} files: {}; give a longer suffix", list(.files))]
    SeveralFiles {
        /// As it was asked for.
        file: String,
        /// How many.
        count: usize,
        /// The files.
        files: Vec<Arc<str>>,
    },
    /// The line has no code.
    #[error("no code at {file}:{line}{}{}", reason_clause(.reason), nearest_lines(.nearest))]
    NoCode {
        /// As it was asked for.
        file: String,
        /// The line.
        line: u32,
        /// Why, if that is known.
        reason: Option<&'static str>,
        /// Lines around it that have code.
        nearest: Vec<u32>,
    },
    /// No function has the name.
    #[error("no function {name} in this program{}", clause("; there is ", .nearest))]
    NoFunction {
        /// As it was asked for.
        name: String,
        /// Functions of a similar name.
        nearest: Vec<Arc<str>>,
    },
    /// Several functions have the name.
    #[error("{name} matches {count} functions: {}; give more of the import path", list(.functions))]
    SeveralFunctions {
        /// As it was asked for.
        name: String,
        /// How many.
        count: usize,
        /// Their names.
        functions: Vec<Arc<str>>,
    },
    /// The compiler or linker left nothing of it.
    #[error("{name} has no code of its own and was inlined nowhere: nothing in this program calls it")]
    NoBody {
        /// The function.
        name: Arc<str>,
    },
    /// No function is there.
    #[error(
        "{address:#x} lies in no function of this program; addresses are link-time addresses, as in `objdump -d`"
    )]
    NoSuchAddress {
        /// The address.
        address: u64,
    },
    /// The address is inside an instruction.
    #[error(
        "{address:#x} is not the start of an instruction; the nearest are {before:#x} and {after:#x}, in {function}"
    )]
    InsideInstruction {
        /// The address.
        address: u64,
        /// Start of the instruction that covers it.
        before: u64,
        /// Start of the next one.
        after: u64,
        /// The function.
        function: Arc<str>,
    },
    /// Every place of it is in code that RipTrace could not read.
    #[error("{requested}: {source}")]
    Code {
        /// As it was asked for.
        requested: String,
        /// What is wrong with the code.
        source: CodeError,
    },
    /// The debug data is broken.
    #[error(transparent)]
    DebugData(#[from] DwarfError),
}

fn clause(before: &str, names: &[Arc<str>]) -> String {
    if names.is_empty() { String::new() } else { format!("{before}{}", list(names)) }
}

fn list(names: &[Arc<str>]) -> String {
    let mut text = names.iter().take(MAX_NAMED).map(|name| &**name).collect::<Vec<_>>().join(", ");
    if names.len() > MAX_NAMED {
        text.push_str(", …");
    }
    text
}

fn reason_clause(reason: &Option<&'static str>) -> String {
    reason.map_or_else(String::new, |reason| format!(" ({reason})"))
}

fn nearest_lines(lines: &[u32]) -> String {
    match lines {
        [] => "; the file has no lines with code in this program".to_owned(),
        [one] => format!("; nearest line with code: {one}"),
        several => {
            let several: Vec<String> = several.iter().map(u32::to_string).collect();
            format!("; nearest lines with code: {}", several.join(", "))
        }
    }
}

#[cfg(test)]
mod tests;
