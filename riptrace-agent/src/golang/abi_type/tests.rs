use super::*;

const BASE: u64 = 0x1000;

/// Bytes from `BASE` on; pointers lie there as they are.
#[derive(Debug, Default)]
struct Image(Vec<u8>);

impl Image {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        let start = (at - BASE) as usize;
        self.0.resize(self.0.len().max(start + bytes.len()), 0);
        self.0[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&mut self, at: u64, word: u64) {
        self.put(at, &word.to_le_bytes());
    }

    fn name(&mut self, at: u64, flags: u8, text: &str) -> u64 {
        let mut bytes = vec![flags, text.len() as u8];
        bytes.extend(text.as_bytes());
        self.put(at, &bytes);
        at
    }

    fn header(&mut self, at: u64, bytes: u64, kind: u8, flags: u8, name: u64) {
        self.word(at, bytes);
        self.put(at + TFLAG, &[flags, 8, 8, kind]);
        self.put(at + NAME, &((name - BASE) as i32).to_le_bytes());
        self.put(at + TYPE_BYTES, &[]);
    }

    fn read(&self, at: u64) -> Option<GoType> {
        AbiTypes::new(self, BASE).read(at, |known| (known == 0x1100).then_some(TypeId(7)))
    }
}

impl TypeMemory for Image {
    fn bytes(&self, link_address: u64, bytes: usize) -> Option<&[u8]> {
        let start = usize::try_from(link_address.checked_sub(BASE)?).ok()?;
        self.0.get(start..start.checked_add(bytes)?)
    }

    fn pointer(&self, link_address: u64) -> Option<u64> {
        Some(u64::from_le_bytes(*self.bytes(link_address, 8)?.first_chunk()?))
    }
}

/// `int` at 0x1100, `a/b.Key` (a struct of two) at 0x1200, a pointer to it at 0x1300, an array of two at 0x1400.
fn program() -> Image {
    let mut image = Image::default();
    let int = image.name(0x1010, 0, "*int");
    let key = image.name(0x1020, 1, "*b.Key");
    let package = image.name(0x1030, 0, "a/b");
    let (first, second) = (image.name(0x1040, 0, "n"), image.name(0x1048, NAME_EMBEDDED, "Next"));
    image.header(0x1100, 8, 2, FLAG_EXTRA_STAR | FLAG_NAMED, int);
    image.header(0x1200, 16, 25, FLAG_EXTRA_STAR | FLAG_NAMED | FLAG_UNCOMMON, key);
    image.word(0x1200 + 56, 0x1500);
    image.word(0x1200 + 64, 2);
    image.put(0x1200 + 80, &((package - BASE) as i32).to_le_bytes());
    for (at, name, ty, offset) in [(0x1500, first, 0x1100, 0), (0x1518, second, 0x1300, 8)] {
        image.word(at, name);
        image.word(at + 8, ty);
        image.word(at + 16, offset);
    }
    // The flag of values that lie in interfaces themselves is bit 5 of the kind up to Go 1.25.
    image.header(0x1300, 8, 22 | 1 << 5, 0, key);
    image.word(0x1330, 0x1200);
    image.header(0x1400, 32, 17, 0, key);
    image.word(0x1430, 0x1200);
    image.word(0x1440, 2);
    image.put(0x1600, &[0; 64]);
    image
}

#[test]
fn types_are_read_from_what_the_runtime_knows() {
    let image = program();
    let int = image.read(0x1100).unwrap();
    assert_eq!((&*int.name, int.bytes, int.kind, int.shape), ("int", 8, Kind::Int, Shape::Scalar));
    let key = image.read(0x1200).unwrap();
    assert_eq!((&*key.name, key.kind, key.runtime_type), ("a/b.Key", Kind::Struct, Some(0x1200)));
    let Shape::Struct { fields } = key.shape else { panic!("no struct") };
    let fields: Vec<_> = fields.iter().map(|f| (&*f.name, f.embedded, f.offset, f.ty)).collect();
    // Debug data's own entry where there is one.
    assert_eq!(fields, [("n", false, 0, TypeId(7)), ("Next", true, 8, AbiTypes::id(0x1300))]);
    let pointer = image.read(0x1300).unwrap();
    assert_eq!((&*pointer.name, pointer.kind), ("*a/b.Key", Kind::Pointer));
    assert_eq!(pointer.shape, Shape::Pointer { elem: Some(AbiTypes::id(0x1200)) });
    let array = image.read(0x1400).unwrap();
    assert_eq!(
        (&*array.name, array.shape),
        ("[2]a/b.Key", Shape::Array { elem: AbiTypes::id(0x1200), len: 2 })
    );
    assert_eq!(AbiTypes::address(AbiTypes::id(0x1200)), Some(0x1200));
    assert_eq!(AbiTypes::address(TypeId(0x1200)), None);
}

#[test]
fn what_contradicts_itself_is_no_type() {
    type Damage = fn(&mut Image);
    let cases: [(&str, u64, Damage); 8] = [
        ("an int of four bytes", 0x1100, |image| image.word(0x1100, 4)),
        ("no kind", 0x1100, |image| image.put(0x1100 + KIND, &[0])),
        ("an odd alignment", 0x1100, |image| image.put(0x1100 + ALIGN, &[3])),
        ("a name outside", 0x1100, |image| image.put(0x1100 + NAME, &i32::MAX.to_le_bytes())),
        ("a field behind the end", 0x1200, |image| image.word(0x1518 + 16, 9)),
        ("a field of nothing", 0x1200, |image| image.word(0x1518 + 8, 0)),
        ("a million fields", 0x1200, |image| image.word(0x1240, 1 << 20)),
        ("an array of another size", 0x1400, |image| image.word(0x1400, 33)),
    ];
    for (name, at, damage) in cases {
        let mut image = program();
        assert!(image.read(at).is_some());
        damage(&mut image);
        assert!(image.read(at).is_none(), "{name}");
    }
}

#[test]
fn no_bytes_make_it_fail() {
    let original = program();
    let mut state = 1_u64;
    for _ in 0..20_000 {
        let mut image = Image(original.0.clone());
        for _ in 0..4 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % image.0.len();
            image.0[at] = (state >> 24) as u8;
        }
        for at in (BASE..BASE + 0x700).step_by(0x20) {
            let _ = image.read(at);
            let _ = AbiTypes::new(&image, BASE).describes(at);
        }
    }
    assert!(!AbiTypes::new(&original, BASE).describes(u64::MAX - 7));
    assert!(original.read(0).is_none());
}
