//! TensorBoard's event files, as far as scalars need them: TFRecord frames around the protobuf messages `Event` and `Summary`.
//!
//! A frame is the length (u64), its checksum, the message, its checksum; little endian. A checksum is CRC-32C, rotated by 15
//! bits and shifted by a constant, so that a checksum of data that holds checksums stays one. The messages are few and flat, so
//! their fields are written here instead of by generated code.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};

use crate::TrainError;

static CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// What the file is read by.
const VERSION: &str = "brain.Event:2";

/// An open event file. Each call writes whole frames.
#[derive(Debug)]
pub struct EventWriter {
    file: File,
    path: PathBuf,
}

impl EventWriter {
    /// A file of its own in `folder`, which is made where there is none.
    ///
    /// # Errors
    /// A folder or file that cannot be made.
    pub fn create(folder: &Path) -> Result<Self, TrainError> {
        std::fs::create_dir_all(folder).map_err(|error| TrainError::io(folder, error))?;
        let (path, file) = create_new(folder)?;
        let mut writer = Self { file, path };
        writer.write(&event(now(), 0, &string(3, VERSION)))?;
        Ok(writer)
    }

    /// A file that goes on after `step`: TensorBoard forgets what earlier files in the folder have beyond it.
    ///
    /// # Errors
    /// A folder or file that cannot be made.
    pub fn resume(folder: &Path, step: u64) -> Result<Self, TrainError> {
        let mut writer = Self::create(folder)?;
        writer.write(&session_start(now(), step + 1))?;
        Ok(writer)
    }

    /// Writes numbers of a step by their tags, such as `train/loss`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<(), TrainError> {
        let time = now();
        let frames: Vec<u8> = scalars
            .iter()
            .flat_map(|(tag, value)| frame(&scalar(time, step, tag, *value)))
            .collect();
        self.write_bytes(&frames)
    }

    fn write(&mut self, message: &[u8]) -> Result<(), TrainError> {
        self.write_bytes(&frame(message))
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        self.file
            .write_all(bytes)
            .map_err(|error| TrainError::io(&self.path, error))
    }
}

/// TensorBoard reads the files of a folder in the order of their names, so the time comes first; what follows keeps two runs
/// apart that begin in the same second.
fn create_new(folder: &Path) -> Result<(PathBuf, File), TrainError> {
    let (seconds, process) = (now() as u64, std::process::id());
    for number in 0u32.. {
        let path = folder.join(format!(
            "events.out.tfevents.{seconds:010}.rootstock.{process}.{number}"
        ));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(TrainError::io(&path, error)),
        }
    }
    let reason = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
    Err(TrainError::io(folder, reason))
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// `Event` with `wall_time` (1), `step` (2), and one field of `what`.
pub(super) fn event(time: f64, step: u64, what: &[u8]) -> Vec<u8> {
    let mut message = vec![(1 << 3) | 1];
    message.extend(time.to_le_bytes());
    if step > 0 {
        message.push(2 << 3);
        varint(step, &mut message);
    }
    message.extend(what);
    message
}

/// `Event.summary` (5) with one `Summary.value` (1): its `tag` (1) and `simple_value` (2).
pub(super) fn scalar(time: f64, step: u64, tag: &str, value: f64) -> Vec<u8> {
    let mut pair = string(1, tag);
    pair.push((2 << 3) | 5);
    pair.extend((value as f32).to_le_bytes());
    event(time, step, &bytes(5, &bytes(1, &pair)))
}

/// `Event.session_log` (7) with the `status` (1) START (1).
fn session_start(time: f64, step: u64) -> Vec<u8> {
    event(time, step, &bytes(7, &[1 << 3, 1]))
}

fn string(field: u8, text: &str) -> Vec<u8> {
    bytes(field, text.as_bytes())
}

/// A field that has a length.
fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    let mut message = vec![(field << 3) | 2];
    varint(content.len() as u64, &mut message);
    message.extend(content);
    message
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

pub(super) fn frame(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut frame = length.to_vec();
    frame.extend(masked_checksum(&length).to_le_bytes());
    frame.extend(message);
    frame.extend(masked_checksum(message).to_le_bytes());
    frame
}

pub(super) fn masked_checksum(content: &[u8]) -> u32 {
    CRC32C.checksum(content).rotate_right(15).wrapping_add(0xa282_ead8)
}
