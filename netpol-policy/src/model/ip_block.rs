//! Address blocks with exceptions.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// `ipBlock`: the addresses of `cidr` without those of any `except`.
///
/// Host bits are masked off and IPv4-mapped blocks are IPv4 (see `convert`), so that two spellings of
/// one network are equal. The families are separate: an IPv4 block holds no IPv6 address.
///
/// Source: networking.k8s.io/v1 `IPBlock`; an exception cuts this block only, not those of other peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpBlock {
    /// The block, host bits zero.
    pub cidr: IpNetwork,
    /// The holes in it, sorted, host bits zero.
    pub except: Vec<IpNetwork>,
}

impl IpBlock {
    /// Whether the address is in the block and in no exception.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(address) && !self.except.iter().any(|hole| hole.contains(address))
    }
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cidr)?;
        for (index, hole) in self.except.iter().enumerate() {
            write!(f, "{}{hole}", if index == 0 { " except " } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(cidr: &str, except: &[&str], address: &str) -> bool {
        let block = IpBlock {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|hole| hole.parse().unwrap()).collect(),
        };
        block.contains(address.parse().unwrap())
    }

    #[test]
    fn exceptions_cut_holes_and_families_are_separate() {
        assert!(contains("10.0.0.0/8", &[], "10.1.2.3"));
        assert!(!contains("10.0.0.0/8", &["10.1.0.0/16"], "10.1.2.3"));
        assert!(contains("10.0.0.0/8", &["10.1.0.0/16"], "10.2.2.3"));
        assert!(!contains("0.0.0.0/0", &[], "::1"));
        assert!(!contains("::/0", &[], "10.0.0.1"));
        assert!(!contains("2001:db8::/32", &["2001:db8:1::/48"], "2001:db8:1::5"));
        assert!(contains("10.0.0.1/32", &[], "10.0.0.1"));
    }
}
