//! A hub of one file on a local socket: answers its connections in order, each in its own way.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// How one request is answered.
#[derive(Debug, Clone, Copy)]
pub enum Behaviour {
    /// As asked, ranges included.
    Serve,
    /// The whole file with status 200, whatever range was asked for.
    IgnoreRange,
    /// As asked, but the connection closes after so many bytes of the body.
    CutAfter(usize),
    /// Without a file.
    Status(u16),
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<String>>,
    bytes: AtomicUsize,
}

/// The server; requests beyond its behaviours get no answer.
pub struct MockHub {
    /// Endpoint.
    pub url: String,
    seen: Arc<Seen>,
}

impl MockHub {
    /// Serves `content` to as many requests as there are behaviours.
    pub fn start(content: Vec<u8>, behaviours: Vec<Behaviour>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Seen::default());
        let log = seen.clone();
        std::thread::spawn(move || {
            for behaviour in behaviours {
                let (stream, _) = listener.accept().unwrap();
                answer(stream, &content, behaviour, &log);
            }
        });
        Self { url, seen }
    }

    /// Heads of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// Bytes of bodies sent so far.
    pub fn bytes_sent(&self) -> usize {
        self.seen.bytes.load(Ordering::SeqCst)
    }
}

fn answer(mut stream: TcpStream, content: &[u8], behaviour: Behaviour, seen: &Seen) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
    let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let range = head.iter().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("range: bytes=")
            .map(str::to_owned)
    });
    let asked = range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
    seen.requests.lock().unwrap().push(head.join("\n"));

    let start = if matches!(behaviour, Behaviour::IgnoreRange) {
        0
    } else {
        asked
    };
    let body = &content[start..];
    let status = match behaviour {
        Behaviour::Status(status) => {
            write!(
                stream,
                "HTTP/1.1 {status} Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            .unwrap();
            return;
        }
        _ if start > 0 => "206 Partial Content",
        _ => "200 OK",
    };
    let range = format!(
        "Content-Range: bytes {start}-{}/{}\r\n",
        content.len() - 1,
        content.len()
    );
    let range = if start > 0 { &*range } else { "" };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{range}Connection: close\r\n\r\n"
    )
    .unwrap();
    let sent = match behaviour {
        Behaviour::CutAfter(bytes) => &body[..bytes],
        _ => body,
    };
    seen.bytes.fetch_add(sent.len(), Ordering::SeqCst);
    // A client that has seen enough may hang up.
    let _ = stream.write_all(sent);
}
