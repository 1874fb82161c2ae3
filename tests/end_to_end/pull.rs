//! `rootstock pull` against a hub that breaks off, has other content, or has nothing.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use assert_cmd::Command;

use crate::server::ROOTSTOCK;

const SIZE: usize = 3_000_000;

/// How the hub answers one request.
#[derive(Clone, Copy)]
enum Conduct {
    /// What was asked for, by range if one was given.
    Serve,
    /// This many bytes of it, then the connection breaks.
    BreakAfter(usize),
    /// As many bytes, other ones.
    ServeWrong,
    NotFound,
}

/// A hub on a local port with one file.
struct Hub {
    url: String,
    /// Heads of the requests.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    /// Answers as told, one request after the other; the last conduct stays.
    fn start(conducts: &'static [Conduct]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for (index, socket) in listener.incoming().enumerate() {
                let conduct = conducts[index.min(conducts.len() - 1)];
                let socket = socket.unwrap();
                let head = read_head(&socket);
                seen.lock().unwrap().push(head.clone());
                // A client that leaves early is its own affair.
                let _ = answer(socket, &head, conduct);
            }
        });
        Self { url, requests }
    }

    /// First bytes that were asked for, request by request; 0 without a range.
    fn offsets(&self) -> Vec<usize> {
        self.requests.lock().unwrap().iter().map(|head| offset(head)).collect()
    }
}

fn read_head(socket: &TcpStream) -> String {
    let lines = BufReader::new(socket).lines().map_while(Result::ok);
    lines
        .take_while(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
        .to_lowercase()
}

fn offset(head: &str) -> usize {
    let range = head.lines().find_map(|line| line.strip_prefix("range: bytes="));
    range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap())
}

fn answer(mut socket: TcpStream, head: &str, conduct: Conduct) -> std::io::Result<()> {
    let content = content();
    let offset = offset(head);
    let mut body = content[offset..].to_vec();
    let mut sent = body.len();
    match conduct {
        Conduct::NotFound => {
            return socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        Conduct::ServeWrong => body.iter_mut().for_each(|byte| *byte ^= 1),
        Conduct::BreakAfter(bytes) => sent = bytes.min(body.len()),
        Conduct::Serve => {}
    }
    let status = if offset > 0 { "206 Partial Content" } else { "200 OK" };
    write!(
        socket,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    )?;
    if offset > 0 {
        write!(
            socket,
            "Content-Range: bytes {offset}-{}/{}\r\n",
            content.len() - 1,
            content.len()
        )?;
    }
    socket.write_all(b"\r\n")?;
    socket.write_all(&body[..sent])
}

fn content() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(4);
    (0..SIZE).map(|_| random.u8(..)).collect()
}

/// Where a pull works, with a catalog of one model.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("content");
        fs::write(&file, content()).unwrap();
        let sum = std::process::Command::new("sha256sum").arg(&file).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        let catalog = format!(
            "[models.small]\ndescription = \"a file\"\nlicence = \"Apache-2.0\"\n[[models.small.files]]\nname = \"small.gguf\"\n\
             size = {SIZE}\nsha256 = \"{}\"\nsources = [{{ hf = {{ repo = \"org/small\", revision = \"main\", file = \"small.gguf\" }} }}]\n",
            &sum[..64]
        );
        fs::write(dir.path().join("catalog.toml"), catalog).unwrap();
        fs::remove_file(file).unwrap();
        Self { dir }
    }

    /// Pulls from the hub; what the command says, and whether it succeeded.
    fn pull(&self, hub: &Hub) -> (bool, String) {
        let mut command = Command::new(ROOTSTOCK);
        command
            .args(["pull", "small", "--models-dir"])
            .arg(self.dir.path().join("models"));
        command.arg("--catalog").arg(self.dir.path().join("catalog.toml"));
        command
            .env("HF_ENDPOINT", &hub.url)
            .env("HF_HOME", self.dir.path().join("cache"));
        let output = command
            .env_remove("HF_HUB_OFFLINE")
            .env("HF_TOKEN", "a-token")
            .output()
            .unwrap();
        let written = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.success(), written.into_owned())
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("models/small/small.gguf")
    }
}

#[test]
fn a_pull_that_breaks_off_goes_on_where_it_ended() {
    let hub = Hub::start(&[
        Conduct::BreakAfter(1_000_000),
        Conduct::BreakAfter(700_000),
        Conduct::Serve,
    ]);
    let place = Place::new();
    let (done, said) = place.pull(&hub);
    assert!(done, "{said}");
    assert!(fs::read(place.file()).unwrap() == content(), "other content");
    assert_eq!(hub.offsets(), [0, 1_000_000, 1_700_000]);
    let head = hub.requests.lock().unwrap()[0].clone();
    assert!(
        head.starts_with("get /org/small/resolve/main/small.gguf ") && head.contains("bearer a-token"),
        "{head}"
    );
}

#[test]
fn a_later_pull_goes_on_where_an_earlier_one_ended() {
    let place = Place::new();
    let broken = Hub::start(&[Conduct::BreakAfter(2_000_000), Conduct::NotFound]);
    let (done, said) = place.pull(&broken);
    assert!(!done && !place.file().exists(), "{said}");
    let hub = Hub::start(&[Conduct::Serve]);
    let (done, said) = place.pull(&hub);
    assert!(done, "{said}");
    assert!(fs::read(place.file()).unwrap() == content(), "other content");
    assert_eq!(hub.offsets(), [2_000_000]);
    let (done, said) = place.pull(&hub);
    assert!(done, "{said}");
    assert_eq!(hub.offsets().len(), 1, "what is there was fetched again");
}

#[test]
fn content_with_another_checksum_is_not_kept() {
    let place = Place::new();
    let (done, said) = place.pull(&Hub::start(&[Conduct::ServeWrong]));
    assert!(!done && said.contains("sha256"), "{said}");
    assert!(!place.file().exists());
    let (done, said) = place.pull(&Hub::start(&[Conduct::Serve]));
    assert!(done, "{said}");
    assert!(fs::read(place.file()).unwrap() == content(), "other content");
}

#[test]
fn a_file_that_the_hub_does_not_have_is_named() {
    let place = Place::new();
    let (done, said) = place.pull(&Hub::start(&[Conduct::NotFound]));
    assert!(!done && said.contains("404") && said.contains("small.gguf"), "{said}");
    assert!(!place.file().exists());
}
