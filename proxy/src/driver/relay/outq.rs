//! How much of what was written to a socket is still on its way (SIOCOUTQ, tcp(7)): a reset
//! throws that away, so it is waited for before one is sent.
#![expect(
    unsafe_code,
    reason = "no crate of ours wraps this request of ioctl(2) safely"
)]

use std::os::fd::AsFd;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// `SIOCOUTQ`, which is `TIOCOUTQ`.
const SIOCOUTQ: Opcode = 0x5411;

/// Bytes that the peer has not acknowledged.
pub(super) fn bytes(socket: impl AsFd) -> rustix::io::Result<u32> {
    // SAFETY: the request takes a pointer to an int and writes the count there (tcp(7)); the
    // int has the size of the u32 here, and the count is never negative.
    unsafe { ioctl(socket, Getter::<SIOCOUTQ, u32>::new()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_nobody_reads_is_still_on_its_way() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        assert_eq!(bytes(&near).unwrap(), 0);
        near.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(count) = near.write(&[0; 65536]) {
            sent += count;
        }
        assert!(bytes(&near).unwrap() > 0);
        let mut buffer = vec![0; sent];
        far.read_exact(&mut buffer).unwrap();
    }
}
