//! In-memory connections: the whole mesh in one process, with connections that a test can cut.
//!
//! No socket is involved, so tests on a paused clock are deterministic: tokio's clock jumps ahead while a real socket
//! waits, but not while a task is ready to read from a pipe.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::mpsc,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Bytes that one direction holds before its writer waits, like a socket's buffer.
const BUFFER: usize = 64 * 1024;

/// Opens connections to the [`Incoming`] that it was made with. Clones are the same connector.
#[derive(Clone, Debug)]
pub struct Connector {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    listener: Mutex<mpsc::UnboundedSender<Pipe>>,
    refuse: AtomicBool,
    /// Cancelled to cut what is open; replaced at once, so that later connections live.
    cable: Mutex<CancellationToken>,
}

/// The accepting end; a stream of connections. Dropping it closes the listener: connecting is refused from then on.
#[derive(Debug)]
pub struct Incoming {
    accepted: mpsc::UnboundedReceiver<Pipe>,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Pipe {
    io: DuplexStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Makes a connected pair.
pub fn pipe() -> (Connector, Incoming) {
    let (listener, accepted) = mpsc::unbounded_channel();
    let shared = Shared {
        listener: Mutex::new(listener),
        refuse: AtomicBool::new(false),
        cable: Mutex::new(CancellationToken::new()),
    };
    (Connector { shared: Arc::new(shared) }, Incoming { accepted })
}

impl Connector {
    /// Breaks all connections that are open, as a cut cable would: both ends see a reset.
    pub fn cut(&self) {
        std::mem::take(&mut *lock(&self.shared.cable)).cancel();
    }

    /// Refuses new connections until told otherwise, as a dead process would.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refuse.store(refuse, Ordering::SeqCst);
    }

    /// A new accepting end at the same address, as when a process is started again. The old one hears no more.
    pub fn listen(&self) -> Incoming {
        let (listener, accepted) = mpsc::unbounded_channel();
        *lock(&self.shared.listener) = listener;
        Incoming { accepted }
    }

    /// Whether both lead to the same place.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// `ConnectionRefused` where [`refuse`](Self::refuse) says so or nobody listens.
    pub fn connect(&self) -> io::Result<Pipe> {
        if self.shared.refuse.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let cable = lock(&self.shared.cable).clone();
        let (near, far) = tokio::io::duplex(BUFFER);
        let listener = lock(&self.shared.listener);
        listener
            .send(Pipe::new(far, &cable))
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(Pipe::new(near, &cable))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream for Incoming {
    type Item = io::Result<Pipe>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match ready!(self.accepted.poll_recv(cx)) {
            Some(pipe) => Poll::Ready(Some(Ok(pipe))),
            // Every connector is gone. A listener waits on, as a socket would.
            None => Poll::Pending,
        }
    }
}

impl Pipe {
    fn new(io: DuplexStream, cable: &CancellationToken) -> Self {
        Self { io, cut: Box::pin(cable.clone().cancelled_owned()) }
    }

    fn whole(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.whole(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.whole(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.whole(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_cut_resets_what_is_open_and_spares_what_comes_later() {
        let (connector, mut incoming) = pipe();
        let mut near = connector.connect().unwrap();
        let mut far = incoming.next().await.unwrap().unwrap();
        let waiting = tokio::join!(far.read_u8(), async { connector.cut() }).0;
        assert_eq!(waiting.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(near.write_u8(1).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

        let mut near = connector.connect().unwrap();
        let mut far = incoming.next().await.unwrap().unwrap();
        near.write_u8(7).await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), 7);
    }

    #[tokio::test]
    async fn connecting_is_refused_while_nobody_listens() {
        let (connector, incoming) = pipe();
        connector.refuse(true);
        assert_eq!(connector.connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        connector.refuse(false);
        drop(incoming);
        assert_eq!(connector.connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let mut again = connector.listen();
        connector.connect().unwrap();
        assert!(again.next().await.is_some());
    }
}
