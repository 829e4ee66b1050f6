//! Networks of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address alone.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// Not an address with a length of prefix.
    #[error("'{0}' is not a network: write ADDRESS/BITS, or an address alone")]
    Form(String),
    /// More bits than the address has.
    #[error("'{text}' is not a network: its prefix must have 0 to {most} bits")]
    Bits {
        /// The text.
        text: String,
        /// As many as the address has.
        most: u8,
    },
    /// Bits of the address are set that are not of the prefix.
    #[error("'{text}' is an address in a network: the network is {network}")]
    HostBits {
        /// The text.
        text: String,
        /// What was probably meant.
        network: Network,
    },
}

/// A network: an address and how many of its bits count. An IPv4 network that was written as one
/// of IPv6 (`::ffff:10.0.0.0/104`) is the IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Its first address and its last.
    #[must_use]
    pub fn range(self) -> (IpAddr, IpAddr) {
        match self.address {
            IpAddr::V4(first) => {
                let rest = u32::MAX.checked_shr(self.bits.into()).unwrap_or(0);
                let last = Ipv4Addr::from(u32::from(first) | rest);
                (first.into(), last.into())
            }
            IpAddr::V6(first) => {
                let rest = u128::MAX.checked_shr(self.bits.into()).unwrap_or(0);
                let last = Ipv6Addr::from(u128::from(first) | rest);
                (first.into(), last.into())
            }
        }
    }

    /// Whether an address is in it. An IPv4 address may come as one of IPv6, as it does on a
    /// socket that takes both.
    #[must_use]
    pub fn contains(self, ip: IpAddr) -> bool {
        let (first, last) = self.range();
        let ip = ip.to_canonical();
        first.is_ipv4() == ip.is_ipv4() && (first..=last).contains(&ip)
    }

    /// Whether any of them has this address.
    #[must_use]
    pub fn any_contains(networks: &[Self], ip: IpAddr) -> bool {
        networks.iter().any(|network| network.contains(ip))
    }

    /// The network of an address with so many bits.
    fn around(address: IpAddr, bits: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = !u32::MAX.checked_shr(bits.into()).unwrap_or(0);
                Ipv4Addr::from(u32::from(v4) & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = !u128::MAX.checked_shr(bits.into()).unwrap_or(0);
                Ipv6Addr::from(u128::from(v6) & mask).into()
            }
        };
        Self { address, bits }
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Self { address, bits }
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let form = || InvalidNetwork::Form(text.to_owned());
        let Some((address, bits)) = text.split_once('/') else {
            let address: IpAddr = text.parse().map_err(|_| form())?;
            return Ok(address.into());
        };
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let digits = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits: u8 = match bits.parse() {
            Ok(bits) if digits && bits <= most => bits,
            _ if !digits => return Err(form()),
            _ => {
                let text = text.to_owned();
                return Err(InvalidNetwork::Bits { text, most });
            }
        };
        let (address, bits) = match (address, address.to_canonical()) {
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if bits >= 96 => (v4, bits - 96),
            (address, _) => (address, bits),
        };
        let network = Self::around(address, bits);
        if network.address != address {
            return Err(InvalidNetwork::HostBits {
                text: text.to_owned(),
                network,
            });
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.bits) {
            (IpAddr::V4(address), 32) => address.fmt(f),
            (IpAddr::V6(address), 128) => address.fmt(f),
            (address, bits) => write!(f, "{address}/{bits}"),
        }
    }
}

impl TryFrom<String> for Network {
    type Error = InvalidNetwork;

    fn try_from(text: String) -> Result<Self, InvalidNetwork> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.0/31", "192.0.2.1", "192.0.2.2"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("2001:db8::/32", "2001:db8:ffff::", "2001:db9::"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.1"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(
                network.contains(inside.parse().unwrap()),
                "{network} {inside}"
            );
            assert!(
                !network.contains(outside.parse().unwrap()),
                "{network} {outside}"
            );
            assert_eq!(network.to_string().parse::<Network>().unwrap(), network);
        }
    }

    #[test]
    fn what_is_no_network_says_what_would_be_right() {
        for (text, expected) in [
            ("10.0.0.0/33", "0 to 32"),
            ("::/129", "0 to 128"),
            ("10.0.0.0/", "ADDRESS/BITS"),
            ("10.0.0.0/+8", "ADDRESS/BITS"),
            ("10.0.0/8", "ADDRESS/BITS"),
            ("localhost", "ADDRESS/BITS"),
            ("10.1.2.3/8", "the network is 10.0.0.0/8"),
        ] {
            let message = text.parse::<Network>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
