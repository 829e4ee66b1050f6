//! Messages and descriptors between two processes of one edge, over a socket pair: a length, a
//! JSON text, and descriptors as ancillary data (unix(7), SCM_RIGHTS).

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};

/// Longest message, in bytes: a table of a million routes fits.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;
/// Descriptors sent at a time; the kernel takes 253 (unix(7)).
const DESCRIPTORS: usize = 64;

/// Sends a message.
///
/// # Errors
/// The other side is gone, or does not read.
pub(super) fn send<M: Serialize>(mut stream: &UnixStream, message: &M) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    stream.write_all(&(text.len() as u64).to_le_bytes())?;
    stream.write_all(&text)
}

/// Receives a message.
///
/// # Errors
/// The other side is gone, says nothing in time, or says what this version cannot read.
pub(super) fn receive<M: DeserializeOwned>(mut stream: &UnixStream) -> io::Result<M> {
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MESSAGE_BYTES_MAX {
        let message = format!("a message of {length} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut text = Vec::new();
    stream.take(length).read_to_end(&mut text)?;
    if (text.len() as u64) < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&text)?)
}

/// Sends descriptors; they stay ours, too.
///
/// # Errors
/// The other side is gone.
pub(super) fn send_descriptors(stream: &UnixStream, all: &[OwnedFd]) -> io::Result<()> {
    for some in all.chunks(DESCRIPTORS) {
        let borrowed: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        // There is room for as many as a chunk has.
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
        // Ancillary data travels with at least one byte.
        sendmsg(
            stream,
            &[IoSlice::new(b"d")],
            &mut control,
            SendFlags::empty(),
        )?;
    }
    Ok(())
}

/// Receives so many descriptors; they are closed on exec.
///
/// # Errors
/// The other side is gone, or sends fewer.
pub(super) fn receive_descriptors(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0; 1];
        let got = recvmsg(
            stream,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                all.extend(descriptors);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn messages_and_many_descriptors_arrive_in_order() {
        let (here, there) = UnixStream::pair().unwrap();
        let listeners: Vec<TcpListener> = (0..150)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let ports: Vec<u16> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        let sent: Vec<OwnedFd> = listeners.into_iter().map(OwnedFd::from).collect();
        let sender = std::thread::spawn(move || {
            send(&here, &ports).unwrap();
            send_descriptors(&here, &sent).unwrap();
            send(&here, &"done").unwrap();
        });
        let ports: Vec<u16> = receive(&there).unwrap();
        let descriptors = receive_descriptors(&there, ports.len()).unwrap();
        assert_eq!(receive::<String>(&there).unwrap(), "done");
        sender.join().unwrap();
        for (descriptor, port) in descriptors.into_iter().zip(ports) {
            let listener = TcpListener::from(descriptor);
            assert_eq!(listener.local_addr().unwrap().port(), port);
            TcpStream::connect(("127.0.0.1", port)).unwrap();
        }
    }

    #[test]
    fn a_peer_that_goes_away_is_an_error_wherever_it_goes() {
        let whole = {
            let (here, there) = UnixStream::pair().unwrap();
            send(&here, &"a message").unwrap();
            drop(here);
            let mut bytes = Vec::new();
            (&there).read_to_end(&mut bytes).unwrap();
            bytes
        };
        for cut in 0..whole.len() {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(&whole[..cut]).unwrap();
            drop(here);
            assert!(receive::<String>(&there).is_err(), "{cut}");
            assert!(receive_descriptors(&there, 1).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_length_beyond_reason_is_refused_before_anything_is_kept_for_it() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(&u64::MAX.to_le_bytes()).unwrap();
        let error = receive::<String>(&there).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
