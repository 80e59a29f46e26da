"""Makes the seed corpus: parts of small Go programs, cut down to one package and what it leads to.

Usage: python3 fuzz/seeds/seeds.py [GO_VERSION...]; needs `go`. Writes to fuzz/corpus/TARGET/go-….
A whole program's debug data and line table have a megabyte, most of it the runtime's; a fuzzer needs kilobytes.
"""

import collections
import os
import random
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
CORPUS = os.path.join(HERE, "..", "corpus")
SECTIONS = "info abbrev line line_str str str_offsets addr loc loclists ranges rnglists frame".split()


def write(target, name, content):
    os.makedirs(os.path.join(CORPUS, target), exist_ok=True)
    with open(os.path.join(CORPUS, target, name), "wb") as file:
        file.write(content)


def u(data, at, size):
    return int.from_bytes(data[at:at + size], "little")


def leb(data, at, signed=False):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if signed and byte & 0x40:
        value -= 1 << shift
    return value, at


def to_leb(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


class Program:
    """An ELF file of Go's linker."""

    def __init__(self, version, flags):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "go.mod"), "w") as file:
                file.write("module example.com/seed\n\ngo 1.21\n")
            with open(os.path.join(HERE, "main.go.txt")) as source:
                with open(os.path.join(folder, "main.go"), "w") as file:
                    file.write(source.read())
            out = os.path.join(folder, "program")
            command = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-compressdwarf=false", *flags]
            environment = {**os.environ, "GOTOOLCHAIN": "go" + version}
            subprocess.run([*command, "-o", out, "."], cwd=folder, env=environment, check=True)
            with open(out, "rb") as file:
                self.data = file.read()
        data = self.data
        at, size, count, names = u(data, 40, 8), u(data, 58, 2), u(data, 60, 2), u(data, 62, 2)
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, at + i * size) for i in range(count)]
        base = headers[names][4]
        self.sections = {self.text(base + h[0]): h for h in headers}
        self.symbols = {}
        symbols, strings = self.section(".symtab"), self.sections[".strtab"][4]
        for at in range(0, len(symbols), 24):
            name, _, _, _, value, size = struct.unpack_from("<IBBHQQ", symbols, at)
            self.symbols[self.text(strings + name)] = (value, size)

    def text(self, at):
        return self.data[at:self.data.index(b"\0", at)].decode()

    def section(self, name):
        if name not in self.sections:
            return b""
        header = self.sections[name]
        return self.data[header[4]:header[4] + header[5]]

    def read(self, address, size):
        for header in self.sections.values():
            if header[3] and header[1] != 8 and header[3] <= address < header[3] + header[5]:
                at = header[4] + address - header[3]
                return self.data[at:at + size]
        raise LookupError(hex(address))


# DWARF ------------------------------------------------------------------------------------------------------------

FIXED = {0x01: 8, 0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x10: 4, 0x11: 1, 0x12: 2, 0x13: 4, 0x14: 8, 0x17: 4,
         0x0E: 4, 0x1F: 4, 0x19: 0, 0x1E: 16, 0x20: 8, 0x29: 1, 0x2A: 2, 0x2C: 4, 0x25: 1, 0x26: 2, 0x28: 4}
REF_ADDR, SEC_OFFSET = 0x10, 0x17
UNIT, FUNCTION, VARIABLE, CONSTANT = 0x11, 0x2E, 0x34, 0x27
# Bytes of entries that a seed has, about.
MOST_ENTRIES = 9000
LOCATION, STMT_LIST, RANGES, NAME = 0x02, 0x10, 0x55, 0x03
ADDR_BASE, RNGLISTS_BASE, LOCLISTS_BASE, STR_OFFSETS_BASE = 0x73, 0x74, 0x8C, 0x72


def abbreviations(data):
    at, table = 0, {}
    while at < len(data):
        code, at = leb(data, at)
        if code == 0:
            break
        tag, at = leb(data, at)
        children, at = data[at], at + 1
        attributes = []
        while True:
            name, at = leb(data, at)
            form, at = leb(data, at)
            if form == 0x21:
                _, at = leb(data, at, True)
            if (name, form) == (0, 0):
                break
            attributes.append((name, form))
        table[code] = (tag, children, attributes)
    return table


def value_end(data, at, form):
    """The value of an attribute and where it ends."""
    if form in FIXED:
        return u(data, at, FIXED[form]), at + FIXED[form]
    if form == 0x08:
        end = data.index(b"\0", at)
        return data[at:end], end + 1
    if form in (0x0A, 0x09, 0x18, 0x03, 0x04):
        if form in (0x09, 0x18):
            size, at = leb(data, at)
        else:
            width = {0x0A: 1, 0x03: 2, 0x04: 4}[form]
            size, at = u(data, at, width), at + width
        return data[at:at + size], at + size
    if form in (0x0D, 0x0F, 0x15, 0x1A, 0x1B, 0x22, 0x23):
        return leb(data, at, form == 0x0D)
    if form == 0x21:
        return None, at
    raise ValueError(hex(form))


class Entry:
    pass


def entries(program):
    info, table = program.section(".debug_info"), abbreviations(program.section(".debug_abbrev"))
    units, by_offset, at = [], {}, 0
    while at < len(info):
        start, end = at, at + 4 + u(info, at, 4)
        header = 12 if u(info, at + 4, 2) == 5 else 11
        at += header
        unit, stack = [], []
        while at < end:
            entry = Entry()
            entry.offset, entry.unit = at, len(units)
            code, at = leb(info, at)
            if code == 0:
                if stack:
                    stack.pop()
                if not stack:
                    break
                continue
            entry.tag, entry.children, attributes = table[code]
            entry.parent = stack[-1] if stack else None
            entry.inside, entry.attributes = [], []
            for name, form in attributes:
                value, stop = value_end(info, at, form)
                entry.attributes.append((name, form, value, at))
                at = stop
            entry.end = at
            if entry.parent:
                entry.parent.inside.append(entry)
            unit.append(entry)
            by_offset[entry.offset] = entry
            if entry.children:
                stack.append(entry)
            elif not stack:
                break
        units.append((start, header, unit))
        at = end
    return info, units, by_offset


def attribute(entry, wanted):
    return next((value for name, _, value, _ in entry.attributes if name == wanted), None)


def contribution(data, base):
    """The part of a section, with a length in front, that holds this offset."""
    at = 0
    while at < len(data):
        end = at + 4 + u(data, at, 4)
        if at <= base < end:
            return at, end
        at = end
    return 0, 0


def lists(data, offsets, locations):
    """The part of a DWARF 4 list section from the first to the last of these lists."""
    if not offsets:
        return 0, 0
    at = max(offsets)
    while at < len(data) and data[at:at + 16] != bytes(16):
        base_address = u(data, at, 8) == (1 << 64) - 1
        at += 16
        if locations and not base_address:
            at += 2 + u(data, at, 2)
    return min(offsets), at + 16


def list_end(data, at, locations):
    """Where a DWARF 5 list ends. The kinds of entries have nearly the same numbers in both sections."""
    numbers = {1: 1, 2: 2, 3: 2, 4: 2, 5: 0, 6: 8, 7: 16, 8: 8} if locations else {1: 1, 2: 2, 3: 2, 4: 2, 5: 8, 6: 16, 7: 8}
    while data[at]:
        kind, at = data[at], at + 1
        at += numbers[kind] if numbers[kind] >= 8 else 0
        for _ in range(numbers[kind] if numbers[kind] < 8 else int(kind == 8 - (not locations))):
            _, at = leb(data, at)
        if locations and kind not in (1, 6):
            size, at = leb(data, at)
            at += size
    return at + 1


def debug_data(program):
    info, units, by_offset = entries(program)
    main = next(unit for unit in units if attribute(unit[2][0], NAME) == b"main")
    # Nearest first: what the package's own code leads to in a few steps, until there is enough of it.
    wanted, work, size = set(), collections.deque([main[2][0]]), 0
    work.extend(entry for entry in main[2][0].inside if entry.tag in (FUNCTION, VARIABLE, CONSTANT))
    while work:
        entry = work.popleft()
        if entry.offset in wanted:
            continue
        wanted.add(entry.offset)
        size += entry.end - entry.offset
        if entry is not main[2][0] and entry.tag != UNIT:
            work.extendleft(entry.inside)
        if entry.parent:
            work.appendleft(entry.parent)
        if size < MOST_ENTRIES:
            work.extend(by_offset[v] for _, form, v, _ in entry.attributes if form == REF_ADDR and v in by_offset)
    kept = [(unit, [entry for entry in unit[2] if entry.offset in wanted]) for unit in units]
    kept = [(unit, chosen) for unit, chosen in kept if chosen]
    offsets, place = {}, 0
    for (start, header, _), chosen in kept:
        place += header
        depth_ends = []
        for entry in chosen:
            while depth_ends and depth_ends[-1] is not entry.parent:
                depth_ends.pop()
                place += 1
            offsets[entry.offset] = place
            place += entry.end - entry.offset
            if entry.children:
                depth_ends.append(entry)
        place += len(depth_ends)
    head = main[2][0]
    parts = {name: program.section(".debug_" + name) for name in SECTIONS}
    moved = {}
    line = contribution(parts["line"], attribute(head, STMT_LIST))
    moved["line"], parts["line"] = line[0], parts["line"][line[0]:line[1]]
    used = [a for unit, chosen in kept for e in chosen if unit is main for a in e.attributes if a[1] == SEC_OFFSET]
    if parts["loc"] or parts["ranges"]:
        for name, kind in [("loc", LOCATION), ("ranges", RANGES)]:
            start, end = lists(parts[name], [value for at, _, value, _ in used if at == kind], kind == LOCATION)
            moved[name], parts[name] = start, parts[name][start:end]
    for name, kind, header in [("loclists", LOCATION, 12), ("rnglists", RANGES, 12), ("addr", ADDR_BASE, 8)]:
        places = [value for at, _, value, _ in used if at == kind]
        if parts[name] and places:
            # Go's linker writes one contribution for all units: its header, and what this unit has of it.
            section, first = parts[name], min(places)
            end = first + 1024 if kind == ADDR_BASE else list_end(section, max(places), kind == LOCATION)
            content = section[4:header] + section[first:end]
            moved[name], parts[name] = first - header, struct.pack("<I", len(content)) + content
    section_of = {STMT_LIST: "line", ADDR_BASE: "addr", RNGLISTS_BASE: "rnglists", LOCLISTS_BASE: "loclists"}
    if parts["loclists"] or parts["rnglists"]:
        section_of |= {LOCATION: "loclists", RANGES: "rnglists"}
    else:
        section_of |= {LOCATION: "loc", RANGES: "ranges"}
    out = bytearray()
    for (start, header, unit), chosen in kept:
        begin = len(out)
        out += info[start:start + header]
        open_entries = []
        for entry in chosen:
            while open_entries and open_entries[-1] is not entry.parent:
                open_entries.pop()
                out.append(0)
            assert offsets[entry.offset] == len(out)
            copied = bytearray(info[entry.offset:entry.end])
            for name, form, value, at in entry.attributes:
                at -= entry.offset
                if form == REF_ADDR:
                    copied[at:at + 4] = struct.pack("<I", offsets.get(value, 0))
                elif form == SEC_OFFSET and name in section_of:
                    if unit is main[2]:
                        new = max(value - moved.get(section_of[name], 0), 0)
                    else:
                        new = attribute(head, name) or 0
                        new = max(new - moved.get(section_of[name], 0), 0)
                    copied[at:at + 4] = struct.pack("<I", new)
            out += copied
            if entry.children:
                open_entries.append(entry)
        out += bytes(len(open_entries))
        out[begin:begin + 4] = struct.pack("<I", len(out) - begin - 4)
    parts["info"] = bytes(out)
    code = [value for name, value in program.symbols.items() if name.startswith("main.")]
    frame, kept_frames, at = parts["frame"], b"", 0
    while at < len(frame):
        end = at + 4 + u(frame, at, 4)
        if u(frame, at + 4, 4) == 0xFFFFFFFF or any(u(frame, at + 8, 8) == start for start, _ in code):
            kept_frames += frame[at:end]
        at = end
    parts["frame"] = kept_frames
    types = program.symbols.get("runtime.types", (0, 0))[0]
    content = bytes([0]) + struct.pack("<I", types)
    content += b"".join(struct.pack("<I", len(parts[name])) for name in SECTIONS)
    if os.environ.get("SIZES"):
        print({name: len(part) for name, part in parts.items()})
    return content + b"".join(parts[name] for name in SECTIONS)


# The runtime's line table -----------------------------------------------------------------------------------------


def pc_table(data, at):
    """The bytes of a table of values by address, and the largest value."""
    start, value, largest = at, -1, -1
    while True:
        delta, stop = leb(data, at)
        if delta == 0 and at != start:
            return data[start:stop], largest
        value += -(delta >> 1) - 1 if delta & 1 else delta >> 1
        largest = max(largest, value)
        _, at = leb(data, stop)


def line_table(program):
    section = ".gopclntab" if ".gopclntab" in program.sections else ".data.rel.ro.gopclntab"
    table = program.section(section)
    count, _, start, names, units, files, values, functions = (u(table, 8 + i * 8, 8) for i in range(8))
    start = program.symbols["runtime.text"][0]
    gofunc = program.symbols.get("go:func.*", (0, 0))[0]
    name_at = lambda offset: table[names + offset:table.index(b"\0", names + offset) + 1]
    new_names, new_units, new_files, new_values = bytearray(b"\0"), bytearray(), bytearray(), bytearray(b"\0")
    known, trees, records, index = {}, bytearray(8), bytearray(), []

    def named(offset):
        text = name_at(offset)
        if text not in known:
            known[text] = len(new_names)
            new_names.extend(text)
        return known[text]

    def copied(offset):
        if offset == 0:
            return 0, -1
        content, largest = pc_table(table, values + offset)
        new_values.extend(content)
        return len(new_values) - len(content), largest

    known_files = {}
    for i in range(count):
        entry, record = u(table, functions + i * 8, 4), functions + u(table, functions + i * 8 + 4, 4)
        if not name_at(u(table, record + 4, 4)).startswith(b"main."):
            continue
        fields = list(struct.unpack_from("<IiiIIIIIIiBBBB", table, record))
        extra = record + 44
        data = [u(table, extra + i * 4, 4) for i in range(fields[7] + fields[13])]
        old_unit = fields[8]
        fields[1] = named(fields[1])
        fields[4], _ = copied(fields[4])
        fields[5], last = copied(fields[5])
        fields[6], _ = copied(fields[6])
        fields[8] = len(new_units) // 4
        for file in range(last + 1):
            offset = u(table, units + (old_unit + file) * 4, 4)
            if offset != 0xFFFFFFFF:
                text = table[files + offset:table.index(b"\0", files + offset) + 1]
                if text not in known_files:
                    known_files[text] = len(new_files)
                    new_files.extend(text)
                offset = known_files[text]
            new_units += struct.pack("<I", offset)
        largest = -1
        for i in range(fields[7]):
            data[i], most = copied(data[i])
            largest = most if i == 2 else largest
        if gofunc and fields[13] > 3 and data[fields[7] + 3] != 0xFFFFFFFF and largest >= 0:
            tree = bytearray(program.read(gofunc + data[fields[7] + 3], 16 * (largest + 1)))
            for at in range(0, len(tree), 16):
                tree[at + 4:at + 8] = struct.pack("<i", named(u(tree, at + 4, 4)))
            data[fields[7] + 3] = len(trees)
            trees += tree
        index.append((entry, len(records)))
        records += struct.pack("<IiiIIIIIIiBBBB", *fields) + b"".join(struct.pack("<I", d) for d in data)
    end = max(sum(value) for name, value in program.symbols.items() if name.startswith("main.") and start < value[0] < start + u(table, functions + count * 8, 4))
    head = 8 * len(index) + 4
    functab = b"".join(struct.pack("<II", entry, head + at) for entry, at in index) + struct.pack("<I", end - start)
    while len(new_units) % 8:
        new_units += b"\0\0\0\0"
    body, offsets = b"", []
    for part in (new_names, new_units, new_files, new_values, functab + records):
        body += bytes(-len(body) % 8)
        offsets.append(72 + len(body))
        body += part
    header = table[:8] + struct.pack("<8Q", len(index), 3, start if u(table, 24, 8) else 0, *offsets)
    return start, header + body, bytes(trees), index[0][0] + start, end


# A small ELF file around it ---------------------------------------------------------------------------------------


def elf(program, version, with_sections=True):
    start, table, trees, begin, end = line_table(program)
    minor = int(version.split(".")[1])
    text = program.read(begin, end - begin)
    info, note = program.section(".go.buildinfo"), program.section(".note.go.buildid")
    page = lambda address: (address + 0xFFF) & ~0xFFF
    read_only = page(end)
    table_at, trees_at = read_only, read_only + len(table) + (-len(table) % 8)
    rodata = table + bytes(-len(table) % 8) + trees
    types_at = read_only + len(rodata)
    rodata += bytes(256)
    data_at = page(read_only + len(rodata))
    words = [0] * 64
    words[0], words[1] = table_at, table_at + u(table, 32, 8)
    words[22], words[23] = begin, end
    words[37] = types_at
    words[39 if minor >= 27 else 38] = types_at + 256
    words[43 if minor >= 27 else 40] = trees_at
    if minor >= 27:
        words[40], words[41] = 64, 64
    module = struct.pack("<64Q", *words)
    data = info + bytes(-len(info) % 8) + module
    strings, symbols = bytearray(b"\0"), bytearray(24)
    for name, value, kind in [("runtime.text", start, 2), ("runtime.tlsg", 0, 6), ("main.main", begin, 2),
                              ("go:itab.*main.T,error", types_at + 64, 1)]:
        symbols += struct.pack("<IBBHQQ", len(strings), kind, 0, 1, value, 8)
        strings += name.encode() + b"\0"
    names = bytearray(b"\0")
    sections = [struct.pack("<IIQQQQIIQQ", *[0] * 10)]
    body = bytearray()
    first = 64 + 56 * 5

    def put(name, kind, address, content, link=0, size=0):
        body.extend(bytes(-(first + len(body)) % 8))
        at = first + len(body)
        body.extend(content)
        sections.append(struct.pack("<IIQQQQIIQQ", len(names), kind, 2 if address else 0, address, at, len(content), link, 1, 8, size))
        names.extend(name.encode() + b"\0")
        return at

    text_at = put(".text", 1, begin, text)
    rodata_at = put(".gopclntab", 1, table_at, rodata)
    data_file = put(".go.buildinfo", 1, data_at, info)
    body.extend(bytes(-(first + len(body)) % 8))
    put(".go.module", 1, data_at + len(data) - len(module), module)
    note_at = put(".note.go.buildid", 7, 0, note)
    put(".symtab", 2, 0, bytes(symbols), 7, 24)
    put(".strtab", 3, 0, bytes(strings))
    names_index = len(sections)
    put(".shstrtab", 3, 0, b"")
    names_at = first + len(body)
    body.extend(names)
    fixed = list(struct.unpack("<IIQQQQIIQQ", sections[names_index]))
    fixed[4], fixed[5] = names_at, len(names)
    sections[names_index] = struct.pack("<IIQQQQIIQQ", *fixed)
    body.extend(bytes(-(first + len(body)) % 8))
    sections_at = first + len(body)
    load = lambda flags, at, address, size: struct.pack("<IIQQQQQQ", 1, flags, at, address, address, size, size, 0x1000)
    programs = load(5, text_at, begin, len(text)) + load(4, rodata_at, table_at, len(rodata))
    programs += load(6, data_file, data_at, len(data))
    programs += struct.pack("<IIQQQQQQ", 4, 4, note_at, 0, 0, len(note), len(note), 4)
    programs += struct.pack("<IIQQQQQQ", 7, 4, 0, 0, 0, 0, 8, 8)
    count = len(sections) if with_sections else 0
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, begin, 64, sections_at if count else 0, 0, 64, 56, 5, 64, count,
        names_index if count else 0)
    return header + programs + bytes(body) + (b"".join(sections) if count else b"")


def code(program):
    """Functions, as the target of that name reads them: rows, inlined calls and a jump table in front."""
    for name in ("main.choose", "main.inner", "main.Generic[go.shape.string,go.shape.int]", "main.main"):
        if name not in program.symbols:
            continue
        start, size = program.symbols[name]
        rows = bytes([6]) + b"".join(bytes([i * 20, 20, (i % 4 + 1) << 5]) for i in range(6))
        inlined = bytes([2, 1, 2, 30, 20, 0x11, 1, 35, 5])
        table = bytes([0, 0x20, 9]) + bytes(range(16, 34, 2))
        yield name.split("[")[0].split(".")[1].lower(), bytes([0]) + rows + inlined + table + bytes([0, 0]) + program.read(start, size)[:900]


TEXTS = {
    "location": ["main.go:42", "shop/orders/handler.go:1", "main.main", "example.org/shop/v2.(*T).Method", "*0x4a1b2c",
                 "main.Generic[go.shape.int]", "./a b.go:7", "main.f.func1", "main.go", ":1", "*main", "m\u00e4in.f("],
    "expression": ['n == 5 && o.S != "a"', 'o.Next.SS[n] == `x` || len(o.M) > 2', 'o.W["k"] == 3', 'p.D >= 1.5 && !p.O', '-n % 7 &^ 3 << 2 == 0x1f', 'o.A == nil && o.E != nil',
        'strings.Contains(o.S, "needle")', 'h.R[2].Next == nil', 'order {n} of {o.S}: {len(o.SS)} {{}}', 'int8(n) == \'a\'', '*p.Next == nil', 'o.M[nil]', 'o.E.(*T)'],
    "capture_path": ["o", "*o", "o.Next.S", "h.N[3].SS[1]", "c.R[2].A", "r.M", "**o.Next", "o.T.wall", "h.Next.Next.N[1]",
                     "o.R[3]", "o . S", "o.SS[18446744073709551615]", "o.Nxt", "o[", "[0]", "\u00f6.x"],
    "policy": ['redact = ["salary", "hr.Person", "Order.CardNumber"]\nallow = ["tokenCount", "*.PublicToken"]\nmap_keys_allow = ["x-tenant"]',
               "S", "*", "main.*\nN\nE", "*.S?\nSS\nT.M", "a b", "redact = 'x'", "redact = [", "password\nM\nheader", "**?*a*b*\n\u00c4pfel"],
}


def texts_and_records():
    for target, texts in TEXTS.items():
        for number, text in enumerate(texts):
            write(target, f"text-{number}", text.encode())
    words = random.Random(1)
    for flags in range(1, 32, 4):
        script = bytes([flags | 1, 0x40, 3]) + bytes(words.choices(range(256), [4] * 200 + [1] * 56, k=1200))
        write("record", f"script-{flags}", script)


def main(versions):
    texts_and_records()
    for version in versions:
        for kind, flags in [("optimised", []), ("plain", ["-gcflags=all=-N -l"])]:
            program = Program(version, flags)
            name = f"go{version}-{kind}"
            write("debug_data", name, debug_data(program))
            if kind == "plain":
                continue
            start, table, trees, _, _ = line_table(program)
            minor = int(version.split(".")[1])
            head = bytes([2]) + struct.pack("<QBH", start, minor, len(trees))
            write("line_table", name, head + trees + table)
            write("elf", name, elf(program, version))
            write("elf", name + "-no-sections", elf(program, version, False))
            write("build_info", name, program.section(".go.buildinfo"))
            for function, content in code(program):
                write("code", f"{name}-{function}", content)


if __name__ == "__main__":
    main(sys.argv[1:] or ["1.21.13", "1.24.13", "1.26.8", "1.27.0"])
