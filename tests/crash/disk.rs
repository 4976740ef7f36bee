//! A disk whose power can be cut: a file system in an image, of which only what was synced is there afterwards.
//!
//! `kill -9` leaves the kernel with everything that was written. Whether ACCEPTED waited for the disk shows only when the kernel's
//! memory goes too: the image is copied as it is, without what the file system still holds back, and the copy is mounted instead.
#![forbid(unsafe_code)]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

/// Room for the log of a run, and what the store leaves free; the image takes as much as was written to it.
const IMAGE_BYTES: u64 = 4 << 30;
/// The file system writes back on its own account as late as it can, in seconds.
const COMMIT_S: &str = "300";

/// A mounted image.
pub struct Disk {
    image: PathBuf,
    mounted: PathBuf,
}

fn run(command: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(command).args(args).output().map_err(|error| format!("{command}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command} {}: {}", args.join(" "), said.trim())) }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

impl Disk {
    /// Makes one in a folder. Fails where this user may not mount anything.
    pub fn new(folder: &Path) -> Result<Disk, String> {
        let (image, mounted) = (folder.join("image"), folder.join("disk"));
        let file = File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(IMAGE_BYTES).map_err(|error| error.to_string())?;
        fs::create_dir(&mounted).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&image)])?;
        let disk = Disk { image, mounted };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    fn mount(&self) -> Result<(), String> {
        let options = format!("loop,noatime,commit={COMMIT_S}");
        run("mount", &["-t", "ext4", "-o", &options, text(&self.image), text(&self.mounted)])
    }

    /// The power goes, and comes back. Nothing may be open on it.
    pub fn cut(&mut self) {
        let rescued = self.image.with_extension("rescued");
        run("cp", &["--sparse=always", text(&self.image), text(&rescued)]).expect("there is room for two images");
        run("umount", &[text(&self.mounted)]).expect("nothing is open on it");
        fs::rename(&rescued, &self.image).expect("both are in one folder");
        self.mount().expect("it was mounted before");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A killed gateway may take a moment to let go of it.
        if let Err(error) = run("umount", &["--lazy", text(&self.mounted)]) {
            eprintln!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// What was synced is there after a cut, what was not is not: otherwise this disk would prove nothing.
    #[test]
    fn a_cut_loses_what_was_not_synced() {
        let folder = crate::folder();
        let mut disk = match Disk::new(folder.path()) {
            Ok(disk) => disk,
            Err(why) => return crate::skip(&why),
        };
        let (synced, unsynced) = (disk.path().join("synced"), disk.path().join("unsynced"));
        let mut file = File::create(&synced).unwrap();
        file.write_all(b"kept").unwrap();
        file.sync_all().unwrap();
        File::open(disk.path()).unwrap().sync_all().unwrap();
        // In the same file, behind the sync, and in one of its own.
        file.write_all(b" and lost").unwrap();
        drop(file);
        fs::write(&unsynced, b"lost").unwrap();
        disk.cut();
        assert_eq!(fs::read(&synced).unwrap(), b"kept");
        assert!(!unsynced.exists());
    }
}
