//! What this process takes of the machine's memory, as the kernel counts it.

/// Resident memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Bytes now.
    pub resident: u64,
    /// Bytes at most since it began.
    pub peak: u64,
}

impl Memory {
    /// Reads it; none where the system has no /proc.
    pub fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/status").ok()?)
    }

    /// From lines like `VmRSS:      1234 kB`.
    fn parse(status: &str) -> Option<Self> {
        let bytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kilobytes.checked_mul(1024)
        };
        Some(Self {
            resident: bytes("VmRSS:")?,
            peak: bytes("VmHWM:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read_and_others_are_not() {
        let status = "Name:\trootstock\nVmPeak:\t  900 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t2\n";
        let memory = Memory {
            resident: 1 << 20,
            peak: 2 << 20,
        };
        assert_eq!(Memory::parse(status), Some(memory));
        for status in [
            "",
            "VmRSS: many kB\nVmHWM: 1 kB",
            "VmRSS: 1 kB",
            "VmRSS: 1\nVmHWM: 1 kB",
        ] {
            assert_eq!(Memory::parse(status), None, "{status}");
        }
    }

    #[test]
    fn memory_that_is_touched_is_counted() {
        let Some(before) = Memory::now() else {
            assert!(!std::path::Path::new("/proc/self/status").exists());
            return;
        };
        let touched = vec![1u8; 64 << 20];
        let after = Memory::now().unwrap();
        assert!(after.peak >= after.resident && after.peak >= before.peak);
        assert!(after.resident >= touched.len() as u64, "{after:?}");
    }
}
