//! The crates RipTrace is tested with: see tests/.
