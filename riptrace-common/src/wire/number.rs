//! Numbers as JSON carries them without loss.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Largest integer that every JSON reader keeps exactly (2^53): beyond it an integer is written as a decimal string.
pub const MAX_EXACT_INTEGER: u64 = 1 << 53;

/// The payload of a scalar Go value.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// `bool`.
    Bool(bool),
    /// `int`, `int8` … `int64`. A JSON number, or a decimal string outside ±2^53.
    Int(i64),
    /// `uint`, `uint8` … `uint64`, `uintptr`. A JSON number, or a decimal string past 2^53.
    Uint(u64),
    /// `float32` (widened) and `float64`. A JSON number, or `"NaN"`, `"+Inf"`, `"-Inf"`.
    Float(Float),
    /// `complex64` and `complex128`: `[real, imaginary]`.
    Complex(Float, Float),
    /// The bytes of a `string` that are valid UTF-8.
    Text(String),
}

/// A floating-point number with the width that decides its shortest decimal form.
#[derive(Clone, Copy, Debug)]
pub enum Float {
    /// `float32`.
    F32(f32),
    /// `float64`.
    F64(f64),
}

impl Float {
    /// The number as `f64`.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        match self {
            Self::F32(v) => f64::from(v),
            Self::F64(v) => v,
        }
    }
}

/// Bitwise on the value, so that NaN equals itself and -0 differs from 0: what was read is what is compared.
impl PartialEq for Float {
    fn eq(&self, other: &Self) -> bool {
        self.as_f64().to_bits() == other.as_f64().to_bits()
    }
}

impl Serialize for Float {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wide = self.as_f64();
        if wide.is_nan() {
            return serializer.serialize_str("NaN");
        }
        if wide.is_infinite() {
            return serializer.serialize_str(if wide > 0.0 { "+Inf" } else { "-Inf" });
        }
        match *self {
            // Shortest form of the narrow number: 0.1, not 0.10000000149011612.
            Self::F32(v) => serializer.serialize_f32(v),
            Self::F64(v) => serializer.serialize_f64(v),
        }
    }
}

impl Serialize for Scalar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(v) => serializer.serialize_bool(*v),
            Self::Int(v) if v.unsigned_abs() <= MAX_EXACT_INTEGER => serializer.serialize_i64(*v),
            Self::Int(v) => serializer.collect_str(v),
            Self::Uint(v) if *v <= MAX_EXACT_INTEGER => serializer.serialize_u64(*v),
            Self::Uint(v) => serializer.collect_str(v),
            Self::Float(v) => v.serialize(serializer),
            Self::Complex(re, im) => (re, im).serialize(serializer),
            Self::Text(v) => serializer.serialize_str(v),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    /// JSON does not say the Go type, so a decimal string comes back as `Text` and a whole float as an integer; the
    /// `kind` beside the value says what it is.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let float = |v: &serde_json::Value| match v {
            serde_json::Value::String(s) if s == "NaN" => Some(f64::NAN),
            serde_json::Value::String(s) if s == "+Inf" => Some(f64::INFINITY),
            serde_json::Value::String(s) if s == "-Inf" => Some(f64::NEG_INFINITY),
            other => other.as_f64(),
        };
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Bool(v) => Ok(Self::Bool(v)),
            serde_json::Value::String(v) => Ok(Self::Text(v)),
            serde_json::Value::Array(pair) => match pair.as_slice() {
                [re, im] => match (float(re), float(im)) {
                    (Some(re), Some(im)) => Ok(Self::Complex(Float::F64(re), Float::F64(im))),
                    _ => Err(de::Error::custom("a complex value is two numbers")),
                },
                _ => Err(de::Error::custom("a complex value is two numbers")),
            },
            serde_json::Value::Number(n) => {
                if let Some(v) = n.as_i64() {
                    Ok(Self::Int(v))
                } else if let Some(v) = n.as_u64() {
                    Ok(Self::Uint(v))
                } else {
                    Ok(Self::Float(Float::F64(n.as_f64().unwrap_or(f64::NAN))))
                }
            }
            _ => Err(de::Error::custom("a scalar is a boolean, a number, a string or a pair of numbers")),
        }
    }
}

impl JsonSchema for Scalar {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Scalar".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "bool: true or false. Integers: a number, or a decimal string outside ±2^53. Floats: a number, or \"NaN\", \"+Inf\", \"-Inf\". Complex: [real, imaginary]. String: its text.",
            "anyOf": [
                {"type": "boolean"},
                {"type": "number"},
                {"type": "string"},
                {"type": "array", "items": {"type": ["number", "string"]}, "minItems": 2, "maxItems": 2}
            ]
        })
    }
}

/// An address or program counter: `"0x4a1b2c"` in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Address {
    /// Without `core::fmt`: a hit has many of them.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = *b"0x0000000000000000";
        let mut begin = text.len();
        let mut left = self.0;
        while left > 0 || begin == text.len() {
            begin -= 1;
            text[begin] = b"0123456789abcdef"[(left & 15) as usize];
            left >>= 4;
        }
        begin -= 2;
        text[begin..begin + 2].copy_from_slice(b"0x");
        // It is ASCII.
        serializer.serialize_str(std::str::from_utf8(&text[begin..]).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").ok_or_else(|| de::Error::custom("an address begins with 0x"))?;
        u64::from_str_radix(digits, 16).map(Self).map_err(de::Error::custom)
    }
}

impl JsonSchema for Address {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "A hexadecimal address.", "type": "string", "pattern": "^0x[0-9a-f]+$"})
    }
}
