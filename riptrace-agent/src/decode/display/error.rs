//! What the standard library's errors say: their `Error` methods, from captured fields.

use riptrace_common::wire::value::Value;

use super::{elements, field, shown, text};

pub(super) fn of(value: &Value, name: &str) -> Option<String> {
    Some(match name {
        "errors.errorString" | "runtime.errorString" => text(field(value, "s")?)?.to_owned(),
        "fmt.wrapError" | "fmt.wrapErrors" => text(field(value, "msg")?)?.to_owned(),
        "errors.joinError" => elements(field(value, "errs")?)?
            .iter()
            .map(|error| shown(error))
            .collect::<Option<Vec<_>>>()?
            .join("\n"),
        "io/fs.PathError" => {
            format!("{} {}: {}", string(value, "Op")?, string(value, "Path")?, inner(value, "Err")?)
        }
        "os.LinkError" => format!(
            "{} {} {}: {}",
            string(value, "Op")?,
            string(value, "Old")?,
            string(value, "New")?,
            inner(value, "Err")?
        ),
        "os.SyscallError" => format!("{}: {}", string(value, "Syscall")?, inner(value, "Err")?),
        "os/exec.Error" => format!("exec: {}: {}", go_quote(string(value, "Name")?)?, inner(value, "Err")?),
        "strconv.NumError" => format!(
            "strconv.{}: parsing {}: {}",
            string(value, "Func")?,
            go_quote(string(value, "Num")?)?,
            inner(value, "Err")?
        ),
        "net/url.Error" => {
            format!("{} {}: {}", string(value, "Op")?, go_quote(string(value, "URL")?)?, inner(value, "Err")?)
        }
        "encoding/json.SyntaxError" => string(value, "msg")?.to_owned(),
        "context.deadlineExceededError" => "context deadline exceeded".to_owned(),
        "internal/poll.DeadlineExceededError" => "i/o timeout".to_owned(),
        "internal/poll.errNetClosing" => "use of closed network connection".to_owned(),
        "net.OpError" => op_error(value)?,
        "net.DNSError" => dns_error(value)?,
        "net.AddrError" => match string(value, "Addr")? {
            "" => string(value, "Err")?.to_owned(),
            address => format!("address {address}: {}", string(value, "Err")?),
        },
        "net.ParseError" => format!("invalid {}: {}", string(value, "Type")?, string(value, "Text")?),
        "github.com/pkg/errors.fundamental" => string(value, "msg")?.to_owned(),
        "github.com/pkg/errors.withMessage" => {
            format!("{}: {}", string(value, "msg")?, inner(value, "cause")?)
        }
        "github.com/pkg/errors.withStack" => inner(value, "error")?.to_owned(),
        _ => return None,
    })
}

fn string<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    text(field(value, name)?)
}

/// What the error in a field says; a nil one prints as Go's `%v` does.
fn inner<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    let error = field(value, name)?;
    if error.nil { Some("<nil>") } else { shown(error) }
}

/// `%q` where it is the plain text in quotes; another text gives no display.
fn go_quote(text: &str) -> Option<String> {
    let plain =
        text.chars().all(|character| matches!(character, ' '..='~') && !matches!(character, '"' | '\\'));
    plain.then(|| format!("\"{text}\""))
}

/// net/net.go, `OpError.Error`.
fn op_error(value: &Value) -> Option<String> {
    let mut out = string(value, "Op")?.to_owned();
    let network = string(value, "Net")?;
    if !network.is_empty() {
        out.push(' ');
        out.push_str(network);
    }
    let source = field(value, "Source")?;
    if !source.nil {
        out.push(' ');
        out.push_str(shown(source)?);
    }
    let address = field(value, "Addr")?;
    if !address.nil {
        out.push_str(if source.nil { " " } else { "->" });
        out.push_str(shown(address)?);
    }
    out.push_str(": ");
    out.push_str(inner(value, "Err")?);
    Some(out)
}

/// net/net.go, `DNSError.Error`.
fn dns_error(value: &Value) -> Option<String> {
    let mut out = format!("lookup {}", string(value, "Name")?);
    let server = string(value, "Server")?;
    if !server.is_empty() {
        out.push_str(" on ");
        out.push_str(server);
    }
    out.push_str(": ");
    out.push_str(string(value, "Err")?);
    Some(out)
}
