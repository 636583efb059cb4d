//! Addresses to listen on.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use rustix::net::sockopt::set_ipv6_v6only;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `localhost:PORT`: the loopback addresses of both families, as far as the node has them.
    Loopback(u16),
    /// `ADDRESS:PORT`. `[::]` is every address of both families.
    Address(SocketAddr),
}

impl FromStr for ListenAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
        let address = text.parse().ok().map(Self::Address);
        local.map(Self::Loopback).or(address).ok_or(
            "it must be localhost:PORT, an address with port such as 10.0.0.1:9470, or [::]:PORT for every address",
        )
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(port) => write!(f, "localhost:{port}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl ListenAddress {
    /// Listens. A node without IPv6 has no `::1`, and its `[::]` is `0.0.0.0`.
    ///
    /// # Errors
    /// An address is in use, or none can be bound.
    pub fn listen(self) -> io::Result<Vec<TcpListener>> {
        let port = match self {
            Self::Address(SocketAddr::V6(address)) if address.ip().is_unspecified() => {
                let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
                let bound = listen(address.into());
                let bound = bound
                    .or_else(|error| if is_missing(&error) { listen(every) } else { Err(error) });
                return Ok(vec![bound?]);
            }
            Self::Address(address) => return Ok(vec![listen(address)?]),
            Self::Loopback(port) => port,
        };
        let v4 = listen((Ipv4Addr::LOCALHOST, port).into());
        // Port 0 is any free port, the same for both.
        let port = match &v4 {
            Ok(listener) => listener.local_addr()?.port(),
            Err(_) => port,
        };
        let v6 = listen((Ipv6Addr::LOCALHOST, port).into());
        match (v4, v6) {
            (Ok(v4), Ok(v6)) => Ok(vec![v4, v6]),
            (Ok(one), Err(error)) | (Err(error), Ok(one)) if is_missing(&error) => Ok(vec![one]),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }
}

/// Whether the node has no such address, or nothing of its family.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        rustix::io::Errno::from_io_error(error),
        Some(rustix::io::Errno::ADDRNOTAVAIL | rustix::io::Errno::AFNOSUPPORT)
    )
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    if let SocketAddr::V6(address) = address {
        // Whatever the node's `net.ipv6.bindv6only` says.
        set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_shown() {
        for text in ["localhost:9470", "127.0.0.1:9470", "[::]:9471"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for text in ["localhost", "localhost:http", "9470", ":9470", "node:9470", ""] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn localhost_is_both_families_and_the_unspecified_address_too() {
        let both = ListenAddress::Loopback(0).listen().unwrap();
        let port = both[0].local_addr().unwrap().port();
        assert_eq!(both.len(), 2);
        assert!(both.iter().all(|one| one.local_addr().unwrap().port() == port));
        let every = ListenAddress::Address("[::]:0".parse().unwrap()).listen().unwrap();
        let port = every[0].local_addr().unwrap().port();
        for address in ["127.0.0.1", "::1"] {
            let address = SocketAddr::new(address.parse().unwrap(), port);
            assert!(tokio::net::TcpStream::connect(address).await.is_ok(), "{address}");
        }
        let taken = ListenAddress::Loopback(port).listen();
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
