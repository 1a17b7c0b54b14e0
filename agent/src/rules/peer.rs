//! The address in the name of a network peer. It must not know which field or rule asks for it.

use std::net::IpAddr;

/// The address in `203.0.113.9:443/tcp`, `[2001:db8::1]:443/udp` or `203.0.113.9`. An IPv4 address that IPv6 carries is
/// the IPv4 one: it is the same peer.
pub(crate) fn peer_address(peer: &str) -> Option<IpAddr> {
    let host = match peer.rsplit_once('/') {
        Some((endpoint, _)) => endpoint.rsplit_once(':')?.0,
        None => peer,
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_peers() {
        let address = |peer| peer_address(peer).map(|address| address.to_string());
        assert_eq!(address("203.0.113.9:443/tcp").as_deref(), Some("203.0.113.9"));
        assert_eq!(address("[2001:db8::1]:443/udp").as_deref(), Some("2001:db8::1"));
        assert_eq!(address("[::ffff:203.0.113.9]:443/tcp").as_deref(), Some("203.0.113.9"));
        assert_eq!(address("203.0.113.9").as_deref(), Some("203.0.113.9"));
        assert_eq!(address("2001:db8::1").as_deref(), Some("2001:db8::1"));
        assert_eq!(address("vsock:3:1024/vsock"), None);
        assert_eq!(address(""), None);
    }
}
