//! Asks a process on this machine, over its ops listener, whether it lives. Plain blocking calls: there is no runtime yet,
//! and the process that asks does nothing else.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// For each step. Shorter than what asks (Docker: 30 s by default) waits for us.
const PATIENCE: Duration = Duration::from_secs(2);

/// A status line is this long; the rest is of no interest.
const STATUS_LINE: &[u8] = b"HTTP/1.1 200 ";

/// Asks `/livez` of the process that listens on this address. `Err` says why the answer is no.
pub fn ask(ops: SocketAddr) -> Result<(), String> {
    let address = reachable(ops);
    let failed = |what: &str, error: std::io::Error| format!("{what} {address}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| failed("connect to", error))?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .and_then(|()| write!(stream, "GET /livez HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))
        .map_err(|error| failed("ask", error))?;
    let mut answer = [0; STATUS_LINE.len()];
    stream.read_exact(&mut answer).map_err(|error| failed("read the answer of", error))?;
    if answer == STATUS_LINE { Ok(()) } else { Err(format!("{address} answers {}", answer.escape_ascii())) }
}

/// Where to reach what listens on this address: on all addresses means on loopback too.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use std::{io::BufRead as _, net::TcpListener, thread};

    use super::*;

    /// Asks a listener that answers so, and returns what was asked.
    fn ask_one_that_answers(answer: &'static str) -> (Result<(), String>, String) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
            reader.read_line(&mut line).unwrap();
            while reader.read_line(&mut String::new()).unwrap() > 2 {}
            stream.write_all(answer.as_bytes()).unwrap();
            line
        });
        (ask(address), server.join().unwrap())
    }

    #[test]
    fn only_200_is_a_yes() {
        let (answer, asked) = ask_one_that_answers("HTTP/1.1 200 OK\r\n\r\nok\n");
        assert_eq!((answer, &*asked), (Ok(()), "GET /livez HTTP/1.1\r\n"));
        let (answer, _) = ask_one_that_answers("HTTP/1.1 503 Service Unavailable\r\n\r\n");
        assert!(answer.unwrap_err().contains("503"));
        for wrong in ["", "HTTP/1.1", "\u{0}\u{1} no HTTP at all"] {
            assert!(ask_one_that_answers(wrong).0.is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn nobody_there_is_a_no() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(ask(address).unwrap_err().contains("connect to"));
    }

    #[test]
    fn all_addresses_are_asked_on_loopback() {
        assert_eq!(reachable(([0, 0, 0, 0], 9100).into()), ([127, 0, 0, 1], 9100).into());
        assert_eq!(reachable("[::]:9100".parse().unwrap()), "[::1]:9100".parse().unwrap());
        assert_eq!(reachable(([10, 1, 2, 3], 9100).into()), ([10, 1, 2, 3], 9100).into());
    }
}
