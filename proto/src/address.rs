//! IP addresses as they stand on the wire: 4 or 16 bytes in network order, never IPv4-mapped IPv6.

use std::net::IpAddr;

/// The wire form of an address. An IPv4-mapped IPv6 address becomes its IPv4 form, so that a client that came in
/// through a dual-stack socket is found under the address people know.
///
/// ```
/// use rollcall_proto::address;
/// assert_eq!(address::to_wire("::ffff:10.0.0.1".parse().unwrap()), [10, 0, 0, 1]);
/// ```
#[must_use]
pub fn to_wire(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The address in a wire field, canonical; `None` unless it is 4 or 16 bytes long.
#[must_use]
pub fn from_wire(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| IpAddr::from(v6).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_wire_in_canonical_form() {
        for (text, canonical) in
            [("10.0.0.1", "10.0.0.1"), ("::1", "::1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("::", "::")]
        {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(from_wire(&to_wire(address)), Some(canonical.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn any_other_length_is_no_address() {
        for length in [0, 1, 3, 5, 15, 17] {
            assert_eq!(from_wire(&vec![0; length]), None, "{length} bytes");
        }
    }
}
