//! Packages `sync` and `sync/atomic`.

use riptrace_common::wire::value::Value;

use super::{boolean, field, signed, unsigned};

/// sync/rwmutex.go: subtracted from `readerCount` while a writer waits or writes.
const MAX_READERS: i64 = 1 << 30;

pub(super) fn of(value: &Value, name: &str) -> Option<String> {
    match name {
        "sync.Mutex" | "internal/sync.Mutex" => mutex(value),
        "sync.RWMutex" => rw_mutex(value),
        "sync.WaitGroup" => wait_group(value),
        "sync.Once" => {
            let done = atomic(field(value, "done")?)? != 0;
            Some(if done { "done" } else { "not done" }.to_owned())
        }
        _ if name.starts_with("sync/atomic.") || name.starts_with("internal/runtime/atomic.") => {
            atomic_text(value, name)
        }
        _ => None,
    }
}

/// The bits of internal/sync/mutex.go; before Go 1.24 they lie in `sync.Mutex` itself.
fn mutex(value: &Value) -> Option<String> {
    let state = mutex_state(value)?;
    let mut text = if state & 1 == 0 { "unlocked" } else { "locked" }.to_owned();
    if state & 4 != 0 {
        text.push_str(", starving");
    }
    text.push_str(&plural(state >> 3, "waiter"));
    Some(text)
}

fn mutex_state(value: &Value) -> Option<i64> {
    match field(value, "mu") {
        Some(inner) => signed(field(inner, "state")?),
        None => signed(field(value, "state")?),
    }
}

fn rw_mutex(value: &Value) -> Option<String> {
    let readers = atomic(field(value, "readerCount")?)?;
    let departing = atomic(field(value, "readerWait")?)?;
    let writer = mutex_state(field(value, "w")?)? & 1 != 0;
    Some(match readers {
        ..0 if departing > 0 => format!("read-locked by {departing}, a writer waits"),
        ..0 if writer => format!("write-locked{}", plural(readers + MAX_READERS, "waiting reader")),
        ..0 => return None,
        0 => "unlocked".to_owned(),
        _ => format!("read-locked by {readers}"),
    })
}

fn wait_group(value: &Value) -> Option<String> {
    let state = atomic(field(value, "state")?)?.cast_unsigned();
    // The counter in the high half; waiters in the low one, whose top bit marks synctest bubbles.
    let counter = (state.cast_signed()) >> 32;
    Some(format!("counter {counter}{}", plural((state & 0x7fff_ffff).cast_signed(), "waiter")))
}

fn plural(count: i64, noun: &str) -> String {
    match count {
        0 => String::new(),
        1 => format!(", 1 {noun}"),
        _ => format!(", {count} {noun}s"),
    }
}

/// A number, or an atomic type around one.
fn atomic(value: &Value) -> Option<i64> {
    match field(value, "v") {
        Some(inner) => signed(inner),
        None => signed(value),
    }
}

fn atomic_text(value: &Value, name: &str) -> Option<String> {
    let (_, kind) = name.rsplit_once("atomic.")?;
    // `sync/atomic` calls it v, `internal/runtime/atomic` value or noptr.
    let inner = field(value, "v").or_else(|| field(value, "value"))?;
    match kind {
        "Bool" => {
            let set =
                boolean(inner).or_else(|| Some(unsigned(field(inner, "value").unwrap_or(inner))? != 0))?;
            Some(set.to_string())
        }
        "Int32" | "Int64" => signed(inner).map(|number| number.to_string()),
        "Uint8" | "Uint32" | "Uint64" | "Uintptr" => unsigned(inner).map(|number| number.to_string()),
        _ if kind.starts_with("Pointer[") => inner.addr.map(|address| match address.0 {
            0 => "nil".to_owned(),
            _ => address.to_string(),
        }),
        _ => None,
    }
}
