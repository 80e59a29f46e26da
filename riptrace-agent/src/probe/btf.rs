//! The offset of a member of a kernel struct, from the kernel's own type data (`/sys/kernel/btf/vmlinux`). Pure.
//!
//! The layout is that of Documentation/bpf/btf.rst: a header, then types one behind the other, then strings.

/// Bit offsets are asked for as bytes: the byte offset of `member` (a path like `thread.fsbase`) in `struct name`.
/// `None`: no such struct or member, a bit field, or bytes that are not BTF.
pub(super) fn member_offset(btf: &[u8], name: &str, path: &str) -> Option<u32> {
    let btf = Btf::parse(btf)?;
    let types = btf.types()?;
    let mut at =
        types.iter().copied().find(|&at| btf.kind(at) == Some(KIND_STRUCT) && btf.name(at) == Some(name))?;
    let mut offset_bits = 0u32;
    let mut path = path.split('.').peekable();
    while let Some(member) = path.next() {
        let (bits, type_id) = btf.member(at, member)?;
        offset_bits = offset_bits.checked_add(bits)?;
        if path.peek().is_some() {
            at = *types.get(usize::try_from(type_id).ok()?.checked_sub(1)?)?;
        }
    }
    offset_bits.is_multiple_of(8).then_some(offset_bits / 8)
}

const KIND_STRUCT: u32 = 4;

struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.get(..2)? != [0x9f, 0xeb] {
            return None;
        }
        let header_bytes = word(bytes, 4)? as usize;
        let section = |offset_at, length_at| {
            let start = header_bytes.checked_add(word(bytes, offset_at)? as usize)?;
            bytes.get(start..start.checked_add(word(bytes, length_at)? as usize)?)
        };
        Some(Self { types: section(8, 12)?, strings: section(16, 20)? })
    }

    /// Where each type begins; type id n is entry n − 1.
    fn types(&self) -> Option<Vec<usize>> {
        let mut starts = Vec::with_capacity(self.types.len() / 24);
        let mut at = 0usize;
        while at < self.types.len() {
            starts.push(at);
            let vlen = (word(self.types, at + 4)? & 0xffff) as usize;
            let extra = match self.kind(at)? {
                // int, var, decl_tag
                1 | 14 | 17 => 4,
                // array
                3 => 12,
                // struct, union, datasec, enum64
                4 | 5 | 15 | 19 => 12 * vlen,
                // enum, func_proto
                6 | 13 => 8 * vlen,
                // ptr, fwd, typedef, volatile, const, restrict, func, float, type_tag
                2 | 7..=12 | 16 | 18 => 0,
                _ => return None,
            };
            at = at.checked_add(12 + extra)?;
        }
        Some(starts)
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some((word(self.types, at + 4)? >> 24) & 0x1f)
    }

    fn name(&self, at: usize) -> Option<&'a str> {
        self.string(word(self.types, at)?)
    }

    fn string(&self, offset: u32) -> Option<&'a str> {
        let bytes = self.strings.get(offset as usize..)?;
        let length = bytes.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&bytes[..length]).ok()
    }

    /// Bit offset and type of a struct's member.
    fn member(&self, at: usize, name: &str) -> Option<(u32, u32)> {
        if !matches!(self.kind(at)?, 4 | 5) {
            return None;
        }
        let info = word(self.types, at + 4)?;
        let has_bit_fields = info >> 31 == 1;
        (0..(info & 0xffff) as usize).find_map(|index| {
            let member = at + 12 + 12 * index;
            if self.string(word(self.types, member)?)? != name {
                return None;
            }
            let offset = word(self.types, member + 8)?;
            Some((if has_bit_fields { offset & 0x00ff_ffff } else { offset }, word(self.types, member + 4)?))
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { long pad; struct inner { int a; long fs; } in; }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0pad\0in\0inner\0a\0fs\0long\0";
        let name = |text: &str| {
            let needle = format!("\0{text}\0");
            strings.windows(needle.len()).position(|window| window == needle.as_bytes()).unwrap() as u32 + 1
        };
        let types: Vec<u32> = vec![
            // 1: long
            name("long"),
            1 << 24,
            8,
            64,
            // 2: struct inner
            name("inner"),
            4 << 24 | 2,
            16,
            name("a"),
            1,
            0,
            name("fs"),
            1,
            64,
            // 3: struct outer
            name("outer"),
            4 << 24 | 2,
            24,
            name("pad"),
            1,
            0,
            name("in"),
            2,
            64,
        ];
        let type_bytes = types.len() as u32 * 4;
        let mut btf = vec![0x9f, 0xeb, 1, 0];
        for value in [24, 0, type_bytes, type_bytes, strings.len() as u32] {
            btf.extend(value.to_le_bytes());
        }
        btf.extend(types.iter().flat_map(|value| value.to_le_bytes()));
        btf.extend(strings);
        btf
    }

    #[test]
    fn members_of_nested_structs_are_found() {
        assert_eq!(member_offset(&sample(), "outer", "in.fs"), Some(16));
        assert_eq!(member_offset(&sample(), "outer", "pad"), Some(0));
    }

    #[test]
    fn what_is_not_there_is_none() {
        for (name, path) in [("outer", "in.b"), ("nothing", "a"), ("outer", "pad.x"), ("outer", "")] {
            assert_eq!(member_offset(&sample(), name, path), None, "{name}.{path}");
        }
    }

    #[test]
    fn truncated_and_flipped_bytes_never_panic() {
        let whole = sample();
        for length in 0..whole.len() {
            let _ = member_offset(&whole[..length], "outer", "in.fs");
            let mut flipped = whole.clone();
            flipped[length] ^= 0xff;
            let _ = member_offset(&flipped, "outer", "in.fs");
        }
    }
}
