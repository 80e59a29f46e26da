//! Programs to compare with, written by hand and loaded by the system calls alone: one that does nothing, and one that
//! makes the reads of a capture straight down, without plan, filter, counters or bounds.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use riptrace_common::abi::program::{Image, register};

const MAP_CREATE: libc::c_long = 0;
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const RINGBUF: u32 = 27;
const KPROBE: u32 = 2;
const TRACE_UPROBE_MULTI: u32 = 48;

/// Room for the records of one round.
const RING_BYTES: u64 = 16 * 1024 * 1024;

/// A link with its program and what the program uses.
pub(super) struct Attached {
    _descriptors: Vec<OwnedFd>,
}

/// `return 0` at a file offset.
pub(super) fn empty(path: &Path, pid: u32, offset: u64) -> io::Result<Attached> {
    attach(path, pid, offset, &[instruction(0xb7, 0, 0, 0, 0), EXIT], Vec::new())
}

/// The capture of `main.Five` (target.go): time, thread, registers, goroutine, and what its parameters lead to, into a
/// ring buffer of its own.
pub(super) fn straight_line(path: &Path, pid: u32, offset: u64, image: &Image) -> io::Result<Attached> {
    let mut create = [0u64; 8];
    create[0] = u64::from(RINGBUF);
    // max_entries lies at byte 12.
    create[1] = RING_BYTES << 32;
    let ring = bpf(MAP_CREATE, &create)?;
    let program = straight_line_program(ring.as_raw_fd(), image);
    attach(path, pid, offset, &program, vec![ring])
}

fn attach(
    path: &Path,
    pid: u32,
    offset: u64,
    program: &[u64],
    mut used: Vec<OwnedFd>,
) -> io::Result<Attached> {
    let license = c"GPL";
    let mut load = [0u64; 16];
    load[0] = u64::from(KPROBE) | (program.len() as u64) << 32;
    load[1] = program.as_ptr() as u64;
    load[2] = license.as_ptr() as u64;
    // expected_attach_type lies at byte 68.
    load[8] = u64::from(TRACE_UPROBE_MULTI) << 32;
    let program = bpf(PROG_LOAD, &load)?;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut link = [0u64; 8];
    link[0] = program.as_raw_fd() as u64;
    link[1] = TRACE_UPROBE_MULTI.into();
    link[2] = path.as_ptr() as u64;
    link[3] = (&raw const offset) as u64;
    link[6] = 1;
    link[7] = pid.into();
    used.insert(0, bpf(LINK_CREATE, &link)?);
    used.push(program);
    Ok(Attached { _descriptors: used })
}

fn bpf(command: libc::c_long, attr: &[u64]) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is an initialised prefix of `union bpf_attr`; what it points at outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system call made this file descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

const EXIT: u64 = 0x95;
/// The context, kept over calls; the record.
const CONTEXT: u8 = 6;
const RECORD: u8 = 7;
const STACK: u8 = 10;

const KTIME: i32 = 5;
const CPU: i32 = 8;
const PID_TGID: i32 = 14;
const PROBE_READ_USER: i32 = 112;
const RINGBUF_RESERVE: i32 = 131;
const RINGBUF_SUBMIT: i32 = 132;
const COOKIE: i32 = 174;

fn instruction(op: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    u64::from(op)
        | u64::from(to) << 8
        | u64::from(from) << 12
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(value.cast_unsigned()) << 32
}

/// Writes instructions in order.
#[derive(Default)]
struct Assembler(Vec<u64>);

impl Assembler {
    fn push(&mut self, op: u8, to: u8, from: u8, offset: i16, value: i32) {
        self.0.push(instruction(op, to, from, offset, value));
    }

    fn call(&mut self, helper: i32) {
        self.push(0x85, 0, 0, 0, helper);
    }

    fn copy(&mut self, to: u8, from: u8) {
        self.push(0xbf, to, from, 0, 0);
    }

    fn set(&mut self, to: u8, value: i32) {
        self.push(0xb7, to, 0, 0, value);
    }

    /// `to = *(u64 *)(from + offset)`
    fn load(&mut self, to: u8, from: u8, offset: i16) {
        self.push(0x79, to, from, offset, 0);
    }

    /// `*(u64 *)(to + offset) = from`
    fn store(&mut self, to: u8, offset: i16, from: u8) {
        self.push(0x7b, to, from, offset, 0);
    }

    fn register(&mut self, to: u8, register: u32) {
        self.load(to, CONTEXT, register as i16);
    }

    /// Copies from the address in R3 as many bytes as R2 says.
    fn read(&mut self, to: i32) {
        self.copy(1, RECORD);
        self.push(0x07, 1, 0, 0, to);
        self.call(PROBE_READ_USER);
    }

    fn mask(&mut self, register: u8, mask: i32) {
        self.push(0x57, register, 0, 0, mask);
    }
}

fn straight_line_program(ring: i32, image: &Image) -> Vec<u64> {
    // Where what lies in the record.
    const BYTES: i32 = 1024;
    const REGISTERS: i16 = 112;
    const TEXT: i32 = 280;
    const NUMBERS: i32 = 536;
    const NODE: i32 = 784;
    const NAME: i32 = 816;
    const ERROR: i32 = 944;
    const MESSAGE: i32 = 960;
    // `g` is looked at and overwritten.
    const G: i32 = NUMBERS;
    let mut code = Assembler::default();
    code.copy(CONTEXT, 1);
    code.call(COOKIE);
    for (helper, slot) in [(PID_TGID, -8), (KTIME, -16), (CPU, -24)] {
        code.call(helper);
        code.store(STACK, slot, 0);
    }
    code.push(0x18, 1, 1, 0, ring);
    code.0.push(0);
    code.set(2, BYTES);
    code.set(3, 0);
    code.call(RINGBUF_RESERVE);
    // A full ring: give up.
    code.push(0x55, 0, 0, 2, 0);
    code.set(0, 0);
    code.0.push(EXIT);
    code.copy(RECORD, 0);
    for (slot, to) in [(-8, 0), (-16, 8), (-24, 16)] {
        code.load(1, STACK, slot);
        code.store(RECORD, to, 1);
    }
    for word in 0..21 {
        code.load(1, CONTEXT, 8 * word);
        code.store(RECORD, REGISTERS + 8 * word, 1);
    }
    code.set(2, image.g_parent_goid.max(image.g_goid) as i32 + 8);
    code.register(3, register::R14);
    code.read(G);
    for (field, to) in [(image.g_goid, 24), (image.g_parent_goid, 32), (image.g_stack_hi, 40)] {
        code.load(1, RECORD, (G as u32 + field) as i16);
        code.store(RECORD, to, 1);
    }
    code.register(2, register::RCX);
    code.mask(2, 0xff);
    code.register(3, register::RBX);
    code.read(TEXT);
    code.register(2, register::RSI);
    code.push(0x67, 2, 0, 0, 3);
    code.mask(2, 0xf8);
    code.register(3, register::RDI);
    code.read(NUMBERS);
    code.set(2, 32);
    code.register(3, register::R9);
    code.read(NODE);
    code.load(2, RECORD, NODE as i16 + 8);
    code.mask(2, 0x7f);
    code.load(3, RECORD, NODE as i16);
    code.read(NAME);
    code.set(2, 16);
    code.register(3, register::R11);
    code.read(ERROR);
    code.load(2, RECORD, ERROR as i16 + 8);
    code.mask(2, 0x3f);
    code.load(3, RECORD, ERROR as i16);
    code.read(MESSAGE);
    code.copy(1, RECORD);
    code.set(2, 1);
    code.call(RINGBUF_SUBMIT);
    code.set(0, 0);
    code.0.push(EXIT);
    code.0
}
