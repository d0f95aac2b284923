use lambdalake_data::CutRange;

use super::*;

fn at(offset: u64) -> Cut {
    let mut cut = Cut::start(1);
    cut.advance(0, offset);
    cut
}

fn file(from: u64, rows: u64) -> MasterFile {
    MasterFile {
        path: format!("{from}.parquet"),
        range: CutRange::new(at(from), at(from + rows)),
        rows,
        bytes: 1_000 + 10 * rows,
        crc32c: 0,
        schema_id: 1,
        version: 1,
        bounds: Vec::new(),
        dictionaries: Vec::new(),
    }
}

/// Merges all that is to be merged, as the engine does; how many rows were written again.
fn settle(files: &mut Vec<MasterFile>, cuts: &HashSet<Cut>) -> u64 {
    let mut written = 0;
    loop {
        let [first, .., last] = to_merge(files, cuts) else {
            return written;
        };
        let (from, to) = (first.range.from.offset(0), last.range.to.offset(0));
        let from_index = files.iter().position(|it| it.range.from.offset(0) == from);
        let to_index = files.iter().position(|it| it.range.to.offset(0) == to);
        let replaced = from_index.expect("the first")..=to_index.expect("the last");
        assert!(to - from <= MOST_ROWS);
        files.splice(replaced, [file(from, to - from)]);
        written += to - from;
    }
}

fn flushed(sizes: impl IntoIterator<Item = u64>) -> (Vec<MasterFile>, u64, usize) {
    let (mut files, mut end, mut written, mut most) = (Vec::new(), 0, 0, 0);
    for rows in sizes {
        files.push(file(end, rows));
        end += rows;
        written += settle(&mut files, &HashSet::new());
        most = most.max(files.len());
    }
    let ends = files.iter().map(|it| it.range.to.offset(0));
    let begins = files.iter().skip(1).map(|it| it.range.from.offset(0));
    assert!(ends.zip(begins).all(|(end, begin)| end == begin));
    assert_eq!(files.iter().map(|it| it.rows).sum::<u64>(), end);
    (files, written, most)
}

#[test]
fn ten_thousand_flushes_leave_few_files_and_few_rows_written_again() {
    let (files, written, most) = flushed((0..10_000).map(|_| 20));
    assert!(most <= 40, "{most}");
    assert!(files.iter().any(|it| it.rows >= ENOUGH_ROWS));
    assert!(written <= 5 * 200_000, "{written}");
    // Whatever their sizes are.
    let sizes = (0..10_000).map(|at| match at % 97 {
        0 => 70_000,
        few if few % 2 == 0 => 3,
        some => some * some,
    });
    let rows: u64 = sizes.clone().sum();
    let large = sizes.clone().filter(|rows| *rows >= ENOUGH_ROWS).count();
    let (files, written, _) = flushed(sizes);
    assert!(
        files.len() <= large * 12 + MIXED_FILES,
        "{} of {large}",
        files.len()
    );
    assert!(written <= 6 * rows, "{written} of {rows}");
}

#[test]
fn a_long_history_of_small_files_is_merged_in_few_steps() {
    let mut files: Vec<_> = (0..10_000).map(|at| file(at * 20, 20)).collect();
    assert!(to_merge(&files, &HashSet::new()).len() > 500);
    let written = settle(&mut files, &HashSet::new());
    assert!(files.len() <= 40, "{}", files.len());
    assert!(written <= 3 * 200_000, "{written}");
}

#[test]
fn large_files_stay_and_nothing_is_merged_across_a_cut_or_a_gap() {
    let large: Vec<_> = (0..20).map(|at| file(at * 70_000, 70_000)).collect();
    assert!(to_merge(&large, &HashSet::new()).is_empty());
    let mut wide: Vec<_> = (0..20).map(|at| file(at * 10, 10)).collect();
    wide.iter_mut().for_each(|it| it.bytes = ENOUGH_BYTES);
    assert!(to_merge(&wide, &HashSet::new()).is_empty());

    let files: Vec<_> = (0..14).map(|at| file(at * 10, 10)).collect();
    let ranges = |cut: u64| {
        let merged = to_merge(&files, &HashSet::from([at(cut)]));
        merged
            .iter()
            .map(|it| it.range.from.offset(0))
            .collect::<Vec<_>>()
    };
    assert_eq!(ranges(70), [] as [u64; 0], "seven on each side");
    assert_eq!(ranges(80), [0, 10, 20, 30, 40, 50, 60, 70]);
    assert_eq!(ranges(60), [60, 70, 80, 90, 100, 110, 120, 130]);
    assert_eq!(ranges(140).len(), 14);
    let with_gap = [&files[..7], &files[8..]].concat();
    assert!(to_merge(&with_gap, &HashSet::new()).is_empty());
}
