//! A wire between sender and receiver that fails in a given place.

use std::{net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use flocker_storage_agent::logic::wire::{Frame, decode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

/// What the wire does to its first connection; later ones are sound.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Ends after so many bytes of the sender.
    Cut(u64),
    /// Flips a bit of the sender's byte at this place.
    Flip(u64),
    /// Passes nothing on after so many bytes of the sender, and stays open, until told to go on.
    Stall(u64),
    /// Ends instead of passing the acknowledgement on.
    LoseAck,
}

/// Opens such a wire to `to`; its address.
pub async fn wire(to: SocketAddr, fault: Fault) -> SocketAddr {
    stalling_wire(to, fault).await.0
}

/// What is notified by, and what notifies, a stalling wire.
#[derive(Debug, Default)]
pub struct Stall {
    /// It has stalled.
    pub stalled: Notify,
    /// It shall go on.
    pub go_on: Notify,
}

/// The same; also the wire's stall.
pub async fn stalling_wire(to: SocketAddr, fault: Fault) -> (SocketAddr, Arc<Stall>) {
    let stall = Arc::new(Stall::default());
    let notify = Arc::clone(&stall);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut fault = Some(fault);
        while let Ok((sender, _)) = listener.accept().await {
            let receiver = TcpStream::connect(to).await.unwrap();
            let fault = fault.take();
            let (from_sender, to_sender) = sender.into_split();
            let (from_receiver, to_receiver) = receiver.into_split();
            let notify = Arc::clone(&notify);
            tokio::spawn(async move {
                // Whichever direction ends takes the connection with it.
                tokio::select! {
                    () = forth(from_sender, to_receiver, fault, &notify) => {}
                    () = back(from_receiver, to_sender, fault) => {}
                }
            });
        }
    });
    (address, stall)
}

async fn forth(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: Option<Fault>,
    stall: &Stall,
) {
    let mut buffer = vec![0; 64 << 10];
    let mut passed = 0_u64;
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 {
            // The other direction may still have something to say.
            to.shutdown().await.ok();
            return std::future::pending().await;
        }
        let bytes = &mut buffer[..read];
        let end = passed + read as u64;
        match fault {
            Some(Fault::Cut(at)) if at < end => {
                let rest = usize::try_from(at - passed).unwrap();
                to.write_all(&bytes[..rest]).await.ok();
                return;
            }
            Some(Fault::Stall(at)) if at < end => {
                stall.stalled.notify_one();
                stall.go_on.notified().await;
                fault = None;
            }
            Some(Fault::Flip(at)) if (passed..end).contains(&at) => {
                bytes[usize::try_from(at - passed).unwrap()] ^= 0x10;
            }
            _ => {}
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
        passed = end;
    }
}

async fn back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, fault: Option<Fault>) {
    let mut seen = BytesMut::new();
    loop {
        let mut bytes = BytesMut::with_capacity(64 << 10);
        if !from.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
            return;
        }
        if matches!(fault, Some(Fault::LoseAck)) {
            seen.extend_from_slice(&bytes);
            while let Ok(Some(frame)) = decode(&mut seen) {
                if matches!(frame, Frame::Ack(_)) {
                    return;
                }
            }
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
