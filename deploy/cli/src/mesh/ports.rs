//! Whether a port is free, and if not, who holds it.

use std::{
    fmt, fs, io,
    net::{SocketAddr, TcpListener},
};

use super::{Member, process};

/// The process that holds a port, as far as /proc tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pid: i32,
    program: String,
}

impl Holder {
    /// Whether it is part of a mesh of ours.
    pub(crate) fn is_weft(&self) -> bool {
        Member::ALL.into_iter().any(|member| self.program == member.binary())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.program, self.pid)
    }
}

/// Tries to listen on an address, and lets go of it.
///
/// # Errors
/// Somebody listens there, or this machine does not have the address.
pub(crate) fn probe(address: SocketAddr) -> io::Result<()> {
    TcpListener::bind(address).map(drop)
}

/// Who listens on a port of this machine. `None` also for processes of other users, which /proc hides.
pub(crate) fn holder(port: u16) -> Option<Holder> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let inodes: Vec<u64> = tables.iter().flat_map(|table| listening_inodes(table, port)).collect();
    let processes =
        fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let pid = processes.into_iter().find(|pid: &i32| has_socket(*pid, &inodes))?;
    Some(Holder { pid, program: process::program(pid).unwrap_or_else(|| "a process".to_owned()) })
}

/// The inodes of the sockets that listen on `port`, in the words of `/proc/net/tcp`.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let local = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        (local == port && *fields.get(3)? == LISTEN).then(|| fields.get(9)?.parse().ok())?
    };
    table.lines().skip(1).filter_map(inode).collect()
}

fn has_socket(pid: i32, inodes: &[u64]) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).any(|target| {
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.and_then(|inode| inode.parse().ok()).is_some_and(|inode: u64| inodes.contains(&inode))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:C383 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31337 1 0 100 0 0 10 0
   1: 0100007F:C383 0100007F:A0B2 01 00000000:00000000 00:00000000 00000000     0        0 31338 1 0 20 4 30 10 -1";

    #[test]
    fn only_listeners_hold_a_port() {
        assert_eq!(listening_inodes(TABLE, 50051), [31337]);
        assert_eq!(listening_inodes(TABLE, 50052), [0; 0]);
    }

    #[test]
    fn the_holder_of_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(holder(address.port()).unwrap().pid, me);
        assert_eq!(probe(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        // A process that another test is starting at this moment may still share the socket: not for long.
        while probe(address).is_err() {
            std::thread::yield_now();
        }
    }
}
