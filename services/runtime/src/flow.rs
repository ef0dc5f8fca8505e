//! HTTP/2's flow control, set for token streams: many streams share a connection, each of many small messages.
//!
//! # Why not hyper's own windows
//! A reader that stalls leaves its messages unread on the connection that it shares with everybody. hyper's windows
//! (2 MiB a stream, 5 MiB a connection) let three such readers use up the connection's window, and nobody else gets a
//! byte. And h2 takes too many small frames that nobody has read for an attack: at 5 MiB that is some 10,000 in all
//! (half the window by 256 bytes each), and then it closes the connection under everybody (`too_many_data_frames`).
//! Small windows for streams and the largest for the connection leave every stream to its own reader.

/// What one stream may have unread, in bytes: the protocol's own default, and some thousand tokens.
pub(crate) const STREAM_WINDOW: u32 = 65_535;
/// What a connection may have unread, in bytes: the most there is. The streams bound it.
pub(crate) const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
