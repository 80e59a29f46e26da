//! Which tracepoint an entry of the map `COUNTERS` counts for: the map `NAMES`. The kernel side does not read it; it is pinned
//! beside the counters, so that those of a run that was killed can be told apart.

/// Bytes of a name that are kept.
pub const MAX_NAME_BYTES: usize = 120;

/// The id of a tracepoint. Map `NAMES`, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Name {
    /// How many of `bytes`; 0: the entry is not in use.
    pub length: u64,
    /// UTF-8.
    pub bytes: [u8; MAX_NAME_BYTES],
}

impl Name {
    /// No name.
    pub const NONE: Self = Self { length: 0, bytes: [0; MAX_NAME_BYTES] };

    /// The name, or as much of it as there is room for.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut this = Self::NONE;
        let length = name.floor_char_boundary(MAX_NAME_BYTES);
        this.bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        this.length = length as u64;
        this
    }

    /// The name; `None`: there is none.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let length = usize::try_from(self.length).ok().filter(|length| *length > 0)?;
        core::str::from_utf8(self.bytes.get(..length)?).ok()
    }
}

super::pod! { Name = 128 }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(Name::new("t_1").text(), Some("t_1"));
        assert_eq!(Name::new("").text(), None);
        let long = "é".repeat(100) + "x";
        assert_eq!(Name::new(&long).text(), Some(&*"é".repeat(60)));
        let odd = "x".to_owned() + &"é".repeat(100);
        assert_eq!(Name::new(&odd).text().unwrap().len(), 119);
        assert_eq!(Name { length: 500, ..Name::NONE }.text(), None);
    }
}
