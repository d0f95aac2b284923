//! No byte of a Parquet file reaches a reader that is not what was written.

use std::path::Path;

use lambdalake_data::{DataError, Disk};

const PATH: &str = "views/v-1/a.parquet";

/// Three blocks and a bit.
fn content() -> Vec<u8> {
    (0..200_000_u32).map(|at| (at / 7) as u8).collect()
}

fn flip(folder: &Path, at: usize) {
    let path = folder.join(PATH);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn reason(read: Result<Option<bytes::Bytes>, DataError>) -> String {
    match read {
        Err(DataError::Damaged { path, reason }) => {
            assert_eq!(path.to_str(), Some(PATH));
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_read_of_a_written_file_is_checked_and_right() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    let bytes = content();
    disk.put_if_absent(PATH, &bytes).unwrap();
    for range in [
        0..1,
        0..200_000,
        65_535..65_537,
        131_072..140_000,
        199_999..200_000,
    ] {
        let read = disk.read_range(PATH, range.clone()).unwrap().unwrap();
        assert_eq!(read, bytes[range.start as usize..range.end as usize]);
    }
    flip(folder.path(), 70_000);
    // The other blocks are what they were.
    assert!(disk.read_range(PATH, 0..65_536).is_ok());
    let said = reason(disk.read_range(PATH, 131_000..131_073));
    assert!(said.contains("bytes 65536 to 131072"), "{said}");
    reason(disk.read(PATH));
    flip(folder.path(), 70_000);
    assert_eq!(disk.read(PATH).unwrap().unwrap(), bytes);
}

#[test]
fn a_file_of_an_earlier_process_is_checked_as_a_whole_first() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = content();
    let written = Disk::open(folder.path()).unwrap();
    written.put_if_absent(PATH, &bytes).unwrap();
    drop(written);
    let crc = crc32c::crc32c(&bytes);
    let known = || {
        let disk = Disk::open(folder.path()).unwrap();
        disk.expect(PATH, bytes.len() as u64, crc);
        disk
    };
    let disk = known();
    assert_eq!(disk.read_range(PATH, 7..9).unwrap().unwrap(), bytes[7..9]);
    flip(folder.path(), 199_999);
    reason(disk.read_range(PATH, 199_000..199_001));
    drop(disk);
    // A process that meets the file like this trusts no byte of it.
    let said = reason(known().read_range(PATH, 7..9));
    assert!(said.contains("checksum"), "{said}");
    flip(folder.path(), 199_999);
    assert!(known().read(PATH).is_ok());
}

#[test]
fn a_short_file_and_a_missing_one_are_damage_until_they_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    disk.put_if_absent(PATH, &content()).unwrap();
    let path = folder.path().join(PATH);
    std::fs::write(&path, [7; 100]).unwrap();
    assert!(reason(disk.read(PATH)).contains("100 bytes long"));
    assert!(matches!(disk.head(PATH), Err(DataError::Damaged { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(reason(disk.read(PATH)).contains("missing"));
    disk.remove(PATH).unwrap();
    assert_eq!(disk.head(PATH).unwrap(), None);
}
