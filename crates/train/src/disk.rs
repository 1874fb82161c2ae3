//! Whether what a run writes fits on its disk, found before it begins: a run that ends for lack of space was for nothing.

use std::path::Path;

use crate::TrainError;
use crate::run::{DiskPlan, checkpoint};

/// Bytes that may be written below a folder, which need not be there yet; none where the system does not say.
pub fn free(dir: &Path) -> Option<u64> {
    let dir = std::path::absolute(dir).ok()?;
    let there = dir.ancestors().find(|dir| dir.exists())?;
    free_at(there)
}

#[cfg(unix)]
fn free_at(dir: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(dir).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free_at(_: &Path) -> Option<u64> {
    None
}

/// Makes sure that a run's files fit below its output folder. Checkpoints that lie there give way to new ones and count as free.
///
/// # Errors
/// They do not.
pub fn check(dir: &Path, plan: DiskPlan) -> Result<(), TrainError> {
    let Some(free) = free(dir) else { return Ok(()) };
    let free = free.saturating_add(checkpoint::list(dir).iter().map(|(_, path)| size(path)).sum());
    match plan.total() <= free {
        true => Ok(()),
        false => Err(TrainError::Disk {
            dir: dir.display().to_string(),
            plan,
            free,
        }),
    }
}

/// Bytes of the files of a folder.
fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| Some(entry.metadata().ok()?.len()));
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(checkpoint_bytes: u64) -> DiskPlan {
        DiskPlan {
            output_bytes: 1 << 20,
            checkpoint_bytes,
        }
    }

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_space_of_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        let free = free(&dir.path().join("not/there/yet")).unwrap();
        assert!(free > 0);
        check(&dir.path().join("new"), plan(0)).unwrap();
        assert!(!dir.path().join("new").exists());
    }

    #[test]
    fn more_than_there_is_is_refused_with_both_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let error = check(dir.path(), plan(1 << 60)).unwrap_err().to_string();
        assert!(error.contains("(1048576 TiB of it checkpoints)"), "{error}");
        assert!(
            error.contains("are free") && error.contains("save_total_limit"),
            "{error}"
        );
    }

    #[test]
    fn checkpoints_that_will_be_replaced_count_as_free() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("checkpoint-5");
        std::fs::create_dir(&old).unwrap();
        let state = std::fs::File::create(old.join("trainer_state.safetensors")).unwrap();
        // A file with a hole: its length counts, and takes nothing.
        let held = free(dir.path()).unwrap() + (1 << 30);
        state.set_len(held).unwrap();
        assert!(check(dir.path(), plan(held)).is_ok());
        std::fs::remove_dir_all(&old).unwrap();
        assert!(check(dir.path(), plan(held)).is_err());
    }
}
