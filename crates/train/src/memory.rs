//! What this process takes of the machine's memory, as the kernel counts it, and what it may take: what the machine has left, and
//! what its control groups allow.

use std::path::Path;

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

/// Bytes that this process may have resident before the machine or one of its control groups runs out; none where the system
/// does not say.
pub fn room() -> Option<u64> {
    room_in(Path::new("/"))
}

fn room_in(root: &Path) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let left_of_machine = meminfo(&read("proc/meminfo")?)?;
    let groups = read("proc/self/cgroup").unwrap_or_default();
    let left = groups.lines().filter_map(|line| left_of_groups(root, line)).min();
    let own = read("proc/self/status").and_then(|status| Memory::parse(&status));
    Some(own?.resident + left.unwrap_or(u64::MAX).min(left_of_machine))
}

/// What can be had without swapping.
fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// What the groups of a line of /proc/self/cgroup leave, `hierarchy:controllers:path`: the least of the group and those above it.
fn left_of_groups(root: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, group) = (fields.next()?, fields.next()?);
    let (top, limit, used) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max", "memory.current"),
        _ if controllers.split(',').any(|name| name == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        }
        _ => return None,
    };
    // In a container the path can be that of the host, which is not there: then the top is the group.
    let groups = Path::new(group.trim_start_matches('/')).ancestors();
    let left = |group: &Path| {
        let folder = root.join(top).join(group);
        let number = |name: &str| {
            std::fs::read_to_string(folder.join(name))
                .ok()?
                .trim()
                .parse::<u64>()
                .ok()
        };
        // Pages of files that nobody used lately are given up before anything else.
        let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let of_files = stat
            .lines()
            .find_map(|line| line.strip_prefix("inactive_file ")?.parse::<u64>().ok());
        let used = number(used)?.saturating_sub(of_files.unwrap_or(0));
        Some(number(limit)?.saturating_sub(used))
    };
    groups.filter_map(left).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system with these files.
    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let own = ("proc/self/status", "VmHWM: 3 kB\nVmRSS: 2 kB\n");
        for (path, text) in files.iter().chain([&own]) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal: 900 kB\nMemAvailable:    100 kB\n");

    #[test]
    fn without_groups_the_machine_decides() {
        let of = |files: &[_]| room_in(system(files).path());
        assert_eq!(of(&[MACHINE]), Some(102 << 10));
        assert_eq!(of(&[]), None);
        let unlimited = [
            MACHINE,
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.current", "4096\n"),
        ];
        assert_eq!(of(&unlimited), Some(102 << 10));
    }

    #[test]
    fn the_tightest_group_above_decides_and_files_nobody_uses_do_not_count() {
        let files = [
            MACHINE,
            ("proc/self/cgroup", "0::/outer/inner\n"),
            ("sys/fs/cgroup/outer/inner/memory.max", "81920\n"),
            ("sys/fs/cgroup/outer/inner/memory.current", "1024\n"),
            ("sys/fs/cgroup/outer/memory.max", "40960\n"),
            ("sys/fs/cgroup/outer/memory.current", "30720\n"),
            ("sys/fs/cgroup/outer/memory.stat", "anon 5\ninactive_file 10240\n"),
        ];
        assert_eq!(room_in(system(&files).path()), Some((20 + 2) << 10));
    }

    #[test]
    fn groups_of_the_older_kind_are_read_where_the_container_shows_them() {
        let files = [
            MACHINE,
            (
                "proc/self/cgroup",
                "5:cpu,cpuacct:/x\n4:memory:/docker/not-seen-from-within\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "20480\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "10240\n"),
        ];
        assert_eq!(room_in(system(&files).path()), Some(12 << 10));
    }

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
