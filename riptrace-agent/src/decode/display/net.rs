//! Addresses of packages `net` and `net/netip`.

use std::net::{Ipv4Addr, Ipv6Addr};

use riptrace_common::wire::value::Value;

use super::{boolean, bytes, field, shown, text, unsigned};

pub(super) fn of(value: &Value, name: &str) -> Option<String> {
    match name {
        "net.TCPAddr" | "net.UDPAddr" => {
            let host = zoned(ip(field(value, "IP")?)?, text(field(value, "Zone")?)?);
            Some(host_port(&host, unsigned(field(value, "Port")?)?))
        }
        "net.IPAddr" => Some(zoned(ip(field(value, "IP")?)?, text(field(value, "Zone")?)?)),
        "net.UnixAddr" => text(field(value, "Name")?).map(str::to_owned),
        "net.IPNet" => {
            let mask = bytes(field(value, "Mask")?)?;
            let ones: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
            let bits: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
            // A mask with holes has no length.
            (ones == bits && !mask.is_empty())
                .then(|| Some(format!("{}/{ones}", ip(field(value, "IP")?)?)))?
        }
        "net/netip.Addr" => netip_address(value),
        "net/netip.AddrPort" => {
            let address = shown(field(value, "ip")?)?;
            Some(host_port(address, unsigned(field(value, "port")?)?))
        }
        "net/netip.Prefix" => {
            let address = shown(field(value, "ip")?)?;
            let bits = unsigned(field(value, "bitsPlusOne")?)?;
            Some(
                bits.checked_sub(1)
                    .map_or_else(|| "invalid Prefix".to_owned(), |bits| format!("{address}/{bits}")),
            )
        }
        _ => None,
    }
}

/// As `IP.String`.
pub(super) fn ip_or_nil(value: &Value) -> Option<String> {
    ip(value).map(|text| if text.is_empty() { "<nil>".to_owned() } else { text })
}

/// Four bytes, or sixteen, which may hold an IPv4 address; none: as addresses with a port write it.
fn ip(value: &Value) -> Option<String> {
    let bytes = bytes(value)?;
    if let Ok(four) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(four).to_string());
    }
    if bytes.is_empty() {
        return Some(String::new());
    }
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?);
    Some(address.to_ipv4_mapped().map_or_else(|| address.to_string(), |address| address.to_string()))
}

pub(super) fn hardware_address(value: &Value) -> Option<String> {
    let bytes = bytes(value)?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
}

fn zoned(address: String, zone: &str) -> String {
    if zone.is_empty() { address } else { format!("{address}%{zone}") }
}

fn host_port(host: &str, port: u64) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn netip_address(value: &Value) -> Option<String> {
    let address = field(value, "addr")?;
    let (hi, lo) = (unsigned(field(address, "hi")?)?, unsigned(field(address, "lo")?)?);
    let address = Ipv6Addr::from(u128::from(hi) << 64 | u128::from(lo));
    // Go 1.23: z is a unique.Handle, whose value points at {isV6, zoneV6}. Before, IPv4 and IPv6 differ by which of two
    // empty objects z points at, which nothing in the record tells.
    let z = field(value, "z")?;
    let detail = match field(z, "value") {
        Some(handle) => handle,
        None if z.nil => z,
        None => return (address.to_ipv4_mapped().is_none() && !has_zone(z)?).then(|| address.to_string()),
    };
    if detail.nil {
        return Some("invalid IP".to_owned());
    }
    let detail = detail.elem.as_deref()?;
    if !boolean(field(detail, "isV6")?)? {
        return address.to_ipv4_mapped().map(|address| address.to_string());
    }
    Some(zoned(address.to_string(), text(field(detail, "zoneV6")?)?))
}

/// `internal/intern.Value`: an IPv6 zone is its `cmpVal`.
fn has_zone(z: &Value) -> Option<bool> {
    Some(!field(z.elem.as_deref()?, "cmpVal")?.nil)
}
