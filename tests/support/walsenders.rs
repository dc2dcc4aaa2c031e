//! Replication connections that ask for nothing: each takes a walsender of a server from those who need one.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::postgres::Tree;

/// Version 3.0 of the protocol between clients and servers.
const PROTOCOL: u32 = 3 << 16;

/// They are given back when this is dropped.
#[derive(Default)]
pub struct Walsenders(Vec<TcpStream>);

impl Walsenders {
    /// Takes those that are free, and says whether that was all that the server has.
    pub async fn take(&mut self, tree: &Tree, node: &str) -> bool {
        let most: usize = tree.value(node, "SHOW max_wal_senders").await.parse().unwrap();
        while let Some(taken) = walsender(tree.address(node), tree.port(node)).await {
            self.0.push(taken);
        }
        self.0.len() == most
    }
}

/// One more, or nothing when it is refused.
async fn walsender(address: &str, port: u16) -> Option<TcpStream> {
    let mut stream = TcpStream::connect((address, port)).await.unwrap();
    let parameters = b"user\0postgres\0replication\0true\0\0";
    let length = u32::try_from(2 * size_of::<u32>() + parameters.len()).unwrap();
    let begin = [&length.to_be_bytes()[..], &PROTOCOL.to_be_bytes(), parameters].concat();
    stream.write_all(&begin).await.unwrap();
    loop {
        let kind = stream.read_u8().await.ok()?;
        let length = stream.read_u32().await.ok()?;
        let mut rest = vec![0; usize::try_from(length).unwrap() - size_of::<u32>()];
        stream.read_exact(&mut rest).await.ok()?;
        match kind {
            // It is ready for a query.
            b'Z' => return Some(stream),
            // An error.
            b'E' => return None,
            _ => {}
        }
    }
}
