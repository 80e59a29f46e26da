//! Contexts as a chain, as `Context.String` writes it: `context.Background.WithCancel.WithDeadline(…)`.

use riptrace_common::wire::value::Value;

use super::{field, shown};

/// A parent that was not captured.
const NOT_CAPTURED: &str = "…";

pub(super) fn of(value: &Value, name: &str) -> Option<String> {
    Some(match name {
        "context.backgroundCtx" => "context.Background".to_owned(),
        "context.todoCtx" => "context.TODO".to_owned(),
        "context.cancelCtx" => format!("{}.WithCancel{}", parent(value)?, error(value)),
        "context.timerCtx" => {
            let cancel = field(value, "cancelCtx")?;
            let deadline = field(value, "deadline").and_then(shown).unwrap_or(NOT_CAPTURED);
            format!("{}.WithDeadline({deadline}){}", parent(cancel)?, error(cancel))
        }
        "context.valueCtx" => {
            let key = field(value, "key").and_then(|key| key.elem.as_deref());
            let key = key.and_then(|key| key.type_name.as_deref()).unwrap_or(NOT_CAPTURED);
            format!("{}.WithValue({key})", parent(value)?)
        }
        "context.withoutCancelCtx" => format!("{}.WithoutCancel", chain(field(value, "c")?)),
        "context.afterFuncCtx" => format!("{}.AfterFunc", parent(field(value, "cancelCtx")?)?),
        "context.stopCtx" => parent(value)?,
        _ => return None,
    })
}

fn parent(value: &Value) -> Option<String> {
    Some(chain(field(value, "Context")?))
}

fn chain(parent: &Value) -> String {
    match shown(parent) {
        Some(text) => text.to_owned(),
        // A context of the program's own.
        None => parent
            .elem
            .as_deref()
            .and_then(|own| own.type_name.as_deref())
            .unwrap_or(if parent.nil { "nil" } else { NOT_CAPTURED })
            .to_owned(),
    }
}

/// Why it ended, once it has: an `error`, in later versions within an `atomic.Value`.
fn error(cancel: &Value) -> String {
    let error = field(cancel, "err").map(|error| field(error, "v").unwrap_or(error));
    error.and_then(shown).map_or_else(String::new, |text| format!(" [{text}]"))
}
