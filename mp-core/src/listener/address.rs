//! Where a listener can be met: a path, an abstract name, or a TCP endpoint.
//!
//! Plain data. What becomes of the place itself when a process dies is told in [`Listener`](super::Listener).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The address of a [`Listener`](super::Listener). It can sit inside any message.
///
/// What takes an address takes all that can become one:
///
/// | | is |
/// |---|---|
/// | a `SocketAddr`, a pair of IP address and port, a pair of host name and port | TCP |
/// | a `Path` or `PathBuf` | the path of a Unix socket |
/// | text that begins with a NUL or `@` | an abstract name |
/// | text without `/` that ends with a colon and a port | TCP; a host name is looked up, which may take a while |
/// | text that begins with two backslashes | a named pipe of Windows: an error |
/// | other text | the path of a Unix socket |
///
/// A path that looks like something else can be written with `./` in front. Follows the addresses of
/// `multiprocessing.connection`.
///
/// ```
/// use mp_core::listener::Address;
///
/// assert_eq!("/run/worker".parse::<Address>()?, Address::Unix("/run/worker".into()));
/// assert_eq!("@worker".parse::<Address>()?, Address::Abstract(b"worker".to_vec()));
/// assert_eq!("127.0.0.1:80".parse::<Address>()?, Address::Tcp(([127, 0, 0, 1], 80).into()));
/// assert!(r"\\.\pipe\worker".parse::<Address>().is_err());
/// # Ok::<(), mp_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Address {
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// A Unix socket that has a name, but none in the file system. It is seen by all users within the same network
    /// namespace, and gone with its listener.
    Abstract(Vec<u8>),
    /// An address and a port; port 0 lets the system choose one.
    Tcp(SocketAddr),
}

impl fmt::Display for Address {
    /// As text that can be parsed again (if it is UTF-8).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) if path.to_str().is_some_and(|text| !is_path(text)) => {
                write!(f, "./{}", path.display())
            }
            Address::Unix(path) => path.display().fmt(f),
            Address::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
            Address::Tcp(address) => address.fmt(f),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    /// See [`Address`]. Errors: [`Error::Invalid`] for a pipe of Windows and for an empty text, [`Error::Io`] for a
    /// host that is not found.
    fn from_str(text: &str) -> Result<Address> {
        if let Some(name) = text.strip_prefix(['\0', '@']) {
            return Ok(Address::Abstract(name.as_bytes().to_vec()));
        }
        if text.starts_with(r"\\") {
            return Err(invalid(format!("{text} names a pipe of Windows, which this system does not have")));
        }
        match host_and_port(text) {
            Some((host, port)) => Address::try_from((host, port)),
            None if text.is_empty() => Err(invalid("it is empty".into())),
            None => Ok(Address::Unix(text.into())),
        }
    }
}

fn invalid(reason: String) -> Error {
    Error::Invalid { what: "address", reason }
}

/// Whether text means a path.
fn is_path(text: &str) -> bool {
    !text.starts_with(['\0', '@']) && !text.starts_with(r"\\") && host_and_port(text).is_none()
}

fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'))?;
    let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??;
    Some((host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port))
}

impl TryFrom<(&str, u16)> for Address {
    type Error = Error;

    /// Looks up the host; the first of its addresses counts. Errors: [`Error::Io`] if it is not found.
    fn try_from((host, port): (&str, u16)) -> Result<Address> {
        let found = (host, port).to_socket_addrs().map(|mut found| found.next());
        match found.map_err(|error| Error::io(format!("looking up the host {host}"), error))? {
            Some(address) => Ok(Address::Tcp(address)),
            None => Err(invalid(format!("the host {host} has no address"))),
        }
    }
}

impl TryFrom<&str> for Address {
    type Error = Error;

    fn try_from(text: &str) -> Result<Address> {
        text.parse()
    }
}

impl TryFrom<&String> for Address {
    type Error = Error;

    fn try_from(text: &String) -> Result<Address> {
        text.parse()
    }
}

impl TryFrom<String> for Address {
    type Error = Error;

    fn try_from(text: String) -> Result<Address> {
        text.parse()
    }
}

impl From<&Address> for Address {
    fn from(address: &Address) -> Address {
        address.clone()
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Address {
        Address::Unix(path)
    }
}

impl From<&PathBuf> for Address {
    fn from(path: &PathBuf) -> Address {
        Address::Unix(path.clone())
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Address {
        Address::Unix(path.into())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Tcp(address)
    }
}

macro_rules! from_ip_and_port {
    ($($ip:ty)*) => {$(
        impl From<($ip, u16)> for Address {
            fn from(endpoint: ($ip, u16)) -> Address {
                Address::Tcp(endpoint.into())
            }
        }
    )*};
}
from_ip_and_port!(IpAddr Ipv4Addr Ipv6Addr);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// CON-12, LIST-05
    #[test]
    fn list_05_text_tells_the_family() {
        let unix = |text: &str| assert_eq!(text.parse::<Address>().unwrap(), Address::Unix(text.into()));
        ["/tmp/x", "x", "./@x", "/tmp/x:80", "./x:80", "x:", "x:99999", ":80", "C:\\x", "a:b"]
            .into_iter()
            .for_each(unix);
        let abstract_name =
            |text: &str| assert_eq!(text.parse::<Address>().unwrap(), Address::Abstract(b"x y".to_vec()));
        ["\0x y", "@x y"].into_iter().for_each(abstract_name);
        let tcp = |text: &str, is: &str| {
            assert_eq!(text.parse::<Address>().unwrap(), Address::Tcp(is.parse().unwrap()))
        };
        tcp("127.0.0.1:80", "127.0.0.1:80");
        tcp("[::1]:80", "[::1]:80");
        let Address::Tcp(local) = "localhost:80".parse().unwrap() else {
            panic!("a host and a port are TCP")
        };
        assert!(local.ip().is_loopback() && local.port() == 80);
        for text in [r"\\.\pipe\x", r"\\", ""] {
            assert!(matches!(text.parse::<Address>(), Err(Error::Invalid { what: "address", .. })), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_means_the_same(text in "[@\\\\a-c:0-9/.\\[\\]]{1,12}") {
            // No look-ups of hosts.
            prop_assume!(host_and_port(&text).is_none_or(|(host, _)| host.parse::<IpAddr>().is_ok()));
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            }
        }

        #[test]
        fn any_path_can_be_printed_and_parsed(text in "[@\\\\a-c:0-9/.]{1,12}") {
            let address = Address::Unix(text.clone().into());
            let Address::Unix(path) = address.to_string().parse::<Address>().unwrap() else { panic!("a path") };
            prop_assert!(path == Path::new(&text) || path == Path::new(".").join(&text));
        }
    }
}
