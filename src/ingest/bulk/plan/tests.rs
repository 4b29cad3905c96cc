//! The planner against whole-buffer readings of the same file, cut into pieces at random places.

use super::{Chunk, FilePlan, LineFault, LineIssue, PlanError, PlanLimits, Planner, Shape, Sink};
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use std::io::Write as _;

/// Everything that a sink is told.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Told {
    chunks: Vec<(Chunk, Option<Vec<u8>>)>,
    issues: Vec<LineIssue>,
}

impl Sink for Told {
    fn chunk(&mut self, chunk: Chunk, text: Option<&[u8]>) {
        self.chunks.push((chunk, text.map(<[u8]>::to_vec)));
    }

    fn issue(&mut self, issue: LineIssue) {
        self.issues.push(issue);
    }
}

const SMALL: PlanLimits =
    PlanLimits { chunk_bytes: 40, chunk_lines: 1_000, line_bytes_max: 60, text_bytes_max: 100_000, chunks_max: 10_000 };

/// Plan a file that comes in pieces of these sizes, over and over.
fn plan_in(file: &[u8], pieces: &[usize], limits: PlanLimits) -> (Result<FilePlan, PlanError>, Told) {
    let (mut planner, mut told) = (Planner::new(limits), Told::default());
    let mut rest = file;
    for size in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at((*size).clamp(1, rest.len()));
        rest = behind;
        if let Err(error) = planner.push(piece, &mut told) {
            return (Err(error), told);
        }
    }
    (planner.finish(&mut told), told)
}

fn plan(file: &[u8], limits: PlanLimits) -> (Result<FilePlan, PlanError>, Told) {
    plan_in(file, &[usize::MAX], limits)
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn place(bytes: &std::ops::Range<u64>) -> std::ops::Range<usize> {
    usize::try_from(bytes.start).unwrap()..usize::try_from(bytes.end).unwrap()
}

#[track_caller]
fn code_of(file: &[u8]) -> &'static str {
    plan(file, SMALL).0.unwrap_err().code()
}

#[test]
fn short_lines_are_cut_by_their_number() {
    let limits = PlanLimits { chunk_bytes: 1_000_000, chunk_lines: 3, ..SMALL };
    for file in [b"{}\n{}\n\n{}\n{}\n{}\n{}\n{}".as_slice(), b"[{},{},{},{},{},{},{}]"] {
        let counts: Vec<u64> = plan(file, limits).1.chunks.iter().map(|(chunk, _)| chunk.count).collect();
        assert_eq!(counts, [3, 3, 1]);
    }
}

#[test]
fn a_file_of_very_short_lines_makes_only_so_many_chunks() {
    let limits = PlanLimits { chunk_bytes: 1_000_000, chunk_lines: 3, chunks_max: 10, ..SMALL };
    let lines = |lines: usize| b"1\n".repeat(lines);
    for pack in [|text: Vec<u8>| text, |text: Vec<u8>| gzip(&text)] {
        assert_eq!(plan(&pack(lines(30)), limits).0.unwrap().chunks, 10);
        let (refused, _) = plan(&pack(lines(31)), limits);
        assert_eq!(refused.err(), Some(PlanError::TooManyChunks { limit: 10 }));
        // It ends where it is known, not at the end of the file.
        let (refused, told) = plan(&pack(lines(50_000)), limits);
        assert_eq!(refused.err().unwrap().code(), "file_too_large");
        assert!(told.chunks.len() * 3 * 2 < 70_000, "{}", told.chunks.len());
    }
    let items = [b"[1".to_vec(), b",1".repeat(40), b"]".to_vec()].concat();
    assert_eq!(plan(&items, limits).0.err().unwrap().code(), "file_too_large");
    // 100 GB of long lines stay below the bound.
    let whole = PlanLimits::default();
    assert!(whole.text_bytes_max / whole.chunk_bytes < whole.chunks_max / 2);
}

#[test]
fn what_was_planned_is_unpacked_by_the_same_rules() {
    let members = [gzip(b"{\"a\":"), gzip(b""), vec![0; 700], gzip(b"1}"), vec![0; 5_000]].concat();
    let planned = plan(&members, SMALL).0.unwrap();
    assert_eq!((planned.text_bytes, planned.is_gzip), (7, true));
    assert_eq!(super::unpack(&members, 7).unwrap(), b"{\"a\":1}");
    assert_eq!(super::unpack(&members, 6), Err(PlanError::TooLarge { limit: 6 }));
    assert_eq!(super::unpack(&members[..20], 7), Err(PlanError::GzipTruncated));
}

#[test]
fn lines_are_cut_at_their_ends_and_counted_as_editors_do() {
    let file = b"\xef\xbb\xbf{\"resourceType\":\"Patient\",\"id\":\"1\"}\r\n\r\n  \n{\"a\":2}\n{\"resourceType\":\"Patient\",\"id\":\"3\"}";
    let (plan, told) = plan(file, SMALL);
    let plan = plan.unwrap();
    assert_eq!((plan.shape, plan.lines, plan.chunks, plan.is_gzip), (Shape::Ndjson, 3, 2, false));
    assert_eq!(plan.sha256, <[u8; 32]>::from(Sha256::digest(file)));
    let [(one, None), (two, None)] = told.chunks.as_slice() else { panic!("{told:?}") };
    // The blank lines between are in it.
    assert_eq!((one.first, one.count, one.bytes.start), (1, 2, 3));
    assert_eq!(&file[place(&one.bytes)][..36], b"{\"resourceType\":\"Patient\",\"id\":\"1\"}\r");
    assert_eq!((two.first, two.count, two.bytes.end), (5, 1, file.len() as u64));
    assert!(told.issues.is_empty());
}

#[test]
fn unreadable_lines_are_issues_and_the_others_go_on() {
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(100));
    let file = [b"{\"n\":1}\n".as_slice(), long.as_bytes(), b"\n{\"n\":3}\n{\"n\":\"\xff\"}\n{\"n\":5}\n"].concat();
    for pieces in [&[usize::MAX][..], &[1], &[7, 3]] {
        let (plan, told) = plan_in(&file, pieces, SMALL);
        assert_eq!((plan.unwrap().lines, told.chunks.len()), (5, 2));
        let at = 8 + long.len() as u64 + 1 + 8;
        assert_eq!(
            told.issues,
            [
                LineIssue { fault: LineFault::TooLong, number: 2, offset: 8 },
                LineIssue { fault: LineFault::NotUtf8, number: 4, offset: at }
            ]
        );
        // The long line is in no chunk.
        assert_eq!((told.chunks[0].0.bytes.clone(), told.chunks[1].0.bytes.start), (0..8, at - 8));
        assert_eq!((told.chunks[1].0.first, told.chunks[1].0.count), (3, 3));
    }
    // In arrays the same, by entry.
    let array = [b"[{\"n\":1}, ".as_slice(), long.as_bytes(), b", \"\xff\" ,{\"n\":5}]"].concat();
    let (plan, told) = plan(&array, SMALL);
    assert_eq!((plan.unwrap().lines, told.chunks.len()), (4, 2));
    let issues: Vec<_> = told.issues.iter().map(|issue| (issue.fault.code(), issue.number)).collect();
    assert_eq!(issues, [("line_too_long", 1), ("invalid_utf8", 2)]);
}

#[test]
fn the_first_line_tells_what_a_file_is() {
    let bundle = r#"{"type":"batch","entry":[{"resource":{"id":"[}\"\\"}},{"resource":{}}],"resourceType":"Bundle"}"#;
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(bundle).unwrap()).unwrap();
    let wide = PlanLimits { line_bytes_max: 1000, ..SMALL };
    for (file, shape, lines) in [
        (bundle.to_owned(), Shape::Bundle, 2),
        (format!("{bundle}\r\n\n"), Shape::Bundle, 2),
        (pretty.clone(), Shape::Bundle, 2),
        (format!("\u{feff}\n{pretty}\n"), Shape::Bundle, 2),
        (pretty.replace(':', "\n:").replace(',', "\n,"), Shape::Bundle, 2),
        (bundle.replace("\"entry\"", "\"\\u0065ntry\""), Shape::Bundle, 2),
        // Lines that are Bundles are lines.
        (format!("{bundle}\n{bundle}"), Shape::Ndjson, 2),
        (r#"{"resourceType":"Patient"}"#.to_owned(), Shape::Ndjson, 1),
        // The first line is broken.
        ("{\"resourceType\":\"Pat\n{\"a\":1}\n{}".to_owned(), Shape::Ndjson, 3),
        ("{\"a\":[1}\n{}".to_owned(), Shape::Ndjson, 2),
        ("{\"a\":1\n{}".to_owned(), Shape::Ndjson, 2),
        ("{} {}\n{}".to_owned(), Shape::Ndjson, 2),
        ("Patient,1\n{}".to_owned(), Shape::Ndjson, 2),
        (" [1 , \"a,]\", {} ,[[]]]\n".to_owned(), Shape::Array, 4),
    ] {
        for pieces in [&[usize::MAX][..], &[1], &[5]] {
            let (plan, _) = plan_in(file.as_bytes(), pieces, wide);
            let plan = plan.unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!((plan.shape, plan.lines), (shape, lines), "{file}");
            assert_eq!(plan.bundle_type.as_deref(), (shape == Shape::Bundle).then_some("batch"), "{file}");
        }
    }
    // One line that is longer than a line may be, and a Bundle.
    let entries: Vec<String> = (0..500).map(|n| format!("{{\"n\":{n}}}")).collect();
    let long = format!("{{\"entry\":[{}],\"resourceType\":\"Bundle\"}}", entries.join(","));
    let (plan, told) = plan(long.as_bytes(), SMALL);
    assert_eq!((plan.unwrap().lines, told.issues.len()), (500, 0));
    assert!(told.chunks.len() > 50);
}

#[test]
fn a_file_that_nobody_can_read_has_a_code() {
    let text = b"{\"a\":1}\n".repeat(1000);
    let packed = gzip(&text);
    for (what, file, code) in [
        ("nothing", Vec::new(), "file_empty"),
        ("one byte", b"\n".to_vec(), "file_empty"),
        ("blank lines", b"\xef\xbb\xbf \r\n\n\t".to_vec(), "file_empty"),
        ("no entry", b"[ ]".to_vec(), "file_empty"),
        ("a Bundle without entries", b"{\"resourceType\":\"Bundle\",\"entry\":[]}".to_vec(), "file_empty"),
        ("an image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec(), "file_binary"),
        ("UTF-16", b"\xff\xfe{\0}\0".to_vec(), "file_binary"),
        ("another charset", b"\xe9t\xe9".to_vec(), "file_binary"),
        ("half of a gzip", packed[..packed.len() / 2].to_vec(), "gzip_truncated"),
        ("a gzip without its last byte", packed[..packed.len() - 1].to_vec(), "gzip_truncated"),
        ("the beginning of a gzip", packed[..2].to_vec(), "gzip_truncated"),
        ("junk behind a gzip", [packed.as_slice(), b"junk"].concat(), "gzip_damaged"),
        ("gzip and no deflate", b"\x1f\x8b\x07\0\0\0\0\0\0\0".to_vec(), "gzip_damaged"),
        ("a gzip of a binary", gzip(b"\0\0\0"), "file_binary"),
        ("an empty gzip", gzip(b""), "file_empty"),
        ("a bomb", gzip(&vec![b'\n'; 200_000]), "file_too_large"),
        ("an array that ends early", b"[{},{}".to_vec(), "file_not_json"),
        ("an array with something behind it", b"[{}]\n{}".to_vec(), "file_not_json"),
        ("brackets that do not fit", b"[{\"a\":[}]".to_vec(), "file_not_json"),
        ("an array without a comma", b"[{}{}]".to_vec(), "file_not_json"),
        ("an array with a comma too many", b"[{},]".to_vec(), "file_not_json"),
        ("depth", [b"[".repeat(2000), b"]".repeat(2000)].concat(), "file_not_json"),
        ("entry twice", b"{\n\"entry\":[1],\"entry\":[2]}".to_vec(), "file_not_json"),
        ("a resource over lines", b"{\n\"resourceType\":\"Patient\"}".to_vec(), "file_not_a_bundle"),
        ("a key that is not UTF-8", b"{\n\"\xff\":1}".to_vec(), "file_not_utf8"),
    ] {
        assert_eq!(code_of(&file), code, "{what}");
        assert_eq!(plan_in(&file, &[1], SMALL).0.unwrap_err().code(), code, "{what}, byte by byte");
    }
    // A flipped bit anywhere is noticed, or changes nothing: the last bits of the last block are filling.
    for at in (10..packed.len()).step_by(7) {
        let mut damaged = packed.clone();
        damaged[at] ^= 4;
        match plan(&damaged, SMALL) {
            // What it decompresses to is no text at once, or the checksum tells.
            (Err(error), _) => {
                assert!(["gzip_damaged", "gzip_truncated", "file_binary"].contains(&error.code()), "{at}: {error}");
            }
            (Ok(_), told) => {
                let read: Vec<u8> = told.chunks.into_iter().filter_map(|(_, text)| text).flatten().collect();
                assert_eq!(read, text, "{at}");
            }
        }
    }
}

#[test]
fn a_gzip_of_many_members_and_all_header_fields_is_one_text() {
    let named = flate2::GzBuilder::new().filename("a.ndjson").comment("c").extra(vec![1, 2, 3]);
    let mut encoder = named.write(Vec::new(), Compression::best());
    encoder.write_all(b"{\"n\":1}\n{\"n\"").unwrap();
    // The rest of a line is in the next member; zeros fill the last block of a tape.
    let file = [encoder.finish().unwrap(), gzip(b":2}\n"), gzip(b""), gzip(b"{\"n\":3}"), vec![0; 30]].concat();
    for pieces in [&[usize::MAX][..], &[1], &[11]] {
        let (plan, told) = plan_in(&file, pieces, SMALL);
        let plan = plan.unwrap();
        assert_eq!((plan.is_gzip, plan.lines, plan.text_bytes), (true, 3, 23));
        assert_eq!((plan.size_bytes, plan.sha256), (file.len() as u64, Sha256::digest(&file).into()));
        assert_eq!(told.chunks[0].1.as_deref(), Some(b"{\"n\":1}\n{\"n\":2}\n{\"n\":3}".as_slice()));
    }
}

/// The same reading with the whole file at hand.
fn lines_of(text: &[u8], limits: PlanLimits) -> Told {
    let (mut told, mut offset) = (Told::default(), 0);
    let mut open: Option<Chunk> = None;
    for (number, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let (start, end) = (offset, offset + line.len() as u64);
        let number = number as u64 + 1;
        offset = end;
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        if content.iter().all(|byte| b" \t\r".contains(byte)) {
            continue;
        }
        if content.len() as u64 > limits.line_bytes_max {
            told.chunks.extend(open.take().map(|chunk| (chunk, None)));
            told.issues.push(LineIssue { fault: LineFault::TooLong, number, offset: start });
            continue;
        }
        if std::str::from_utf8(content).is_err() {
            told.issues.push(LineIssue { fault: LineFault::NotUtf8, number, offset: start });
        }
        let chunk = open.get_or_insert(Chunk { bytes: start..end, first: number, count: 0 });
        chunk.bytes.end = end;
        chunk.count += 1;
        if chunk.bytes.end - chunk.bytes.start >= limits.chunk_bytes {
            told.chunks.extend(open.take().map(|chunk| (chunk, None)));
        }
    }
    told.chunks.extend(open.take().map(|chunk| (chunk, None)));
    told
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[a-z\"\\\\{}\\[\\]:, \n\u{e9}\u{1f600}]{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::hash_map("[a-z\"{\\[]{0,6}", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// What arrays and Bundles are cut into: exactly the items that `serde_json` sees.
#[track_caller]
fn check_items(text: &str, items: &[&RawValue], told: &Told) {
    let mut at = 0;
    for (chunk, _) in &told.chunks {
        assert_eq!(chunk.first, at as u64);
        let count = usize::try_from(chunk.count).unwrap();
        let start = items[at].get().as_ptr() as usize - text.as_ptr() as usize;
        let last = items[at + count - 1].get();
        let end = last.as_ptr() as usize - text.as_ptr() as usize + last.len();
        assert_eq!(chunk.bytes, start as u64..end as u64);
        at += count;
    }
    assert_eq!(at, items.len());
}

/// As `serde_json` reads it.
#[derive(serde::Deserialize)]
struct Bundle<'a> {
    #[serde(borrow)]
    entry: Vec<&'a RawValue>,
}

proptest! {
    #[test]
    fn lines_cut_anywhere_are_the_lines_of_the_whole(
        lines in prop::collection::vec("(\\{\"[a-z\u{e9}\u{1f600}]{0,20}\":1\\}|[ \t]{0,9}|\\{x{0,90}\\})\r?", 1..40),
        broken in prop::collection::vec(0usize..800, 0..3),
        pieces in prop::collection::vec(1usize..200, 1..5),
        is_packed: bool,
    ) {
        let mut text = b"{}\n".to_vec();
        text.extend(lines.join("\n").into_bytes());
        for at in broken {
            // A byte that is in no UTF-8.
            if let Some(byte) = text.get_mut(at + 4).filter(|byte| byte.is_ascii_lowercase()) {
                *byte = 0xff;
            }
        }
        let expected = lines_of(&text, SMALL);
        let file = if is_packed { gzip(&text) } else { text.clone() };
        let (plan, told) = plan_in(&file, &pieces, SMALL);
        prop_assert_eq!(plan.unwrap().text_bytes, text.len() as u64);
        prop_assert_eq!(&told.issues, &expected.issues);
        prop_assert_eq!(told.chunks.len(), expected.chunks.len());
        for ((chunk, given), (other, _)) in told.chunks.iter().zip(&expected.chunks) {
            prop_assert_eq!(chunk, other);
            prop_assert_eq!(given.as_deref(), is_packed.then_some(&text[place(&chunk.bytes)]));
        }
    }

    #[test]
    fn items_cut_anywhere_are_the_items_that_serde_json_sees(
        items in prop::collection::vec(json(), 1..20),
        others in prop::collection::vec(json(), 2),
        is_pretty: bool,
        is_late: bool,
        pieces in prop::collection::vec(1usize..200, 1..5),
    ) {
        let limits = PlanLimits { line_bytes_max: 100_000, ..SMALL };
        let print = |value: &serde_json::Value| {
            if is_pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) }.unwrap()
        };
        let text = print(&serde_json::Value::Array(items.clone()));
        let (plan, told) = plan_in(text.as_bytes(), &pieces, limits);
        prop_assert_eq!(plan.unwrap().shape, Shape::Array);
        check_items(&text, &serde_json::from_str::<Vec<&RawValue>>(&text).unwrap(), &told);

        let (head, tail) = ("\"resourceType\": \"Bundle\", \"type\": \"batch\"", print(&others[0]));
        let (first, last) = if is_late { (format!("\"x\":{tail}"), head.to_owned()) } else { (head.to_owned(), format!("\"x\":{tail}")) };
        let text = format!("{{{first}, \"entry\" : {text} , {last},\"total\": {}}}\n", print(&others[1]));
        let (plan, told) = plan_in(text.as_bytes(), &pieces, limits);
        // A Bundle's value may be broken over lines at a place where a cut-off line could end, too.
        let Ok(plan) = plan else { return Err(TestCaseError::fail("no plan")) };
        if plan.shape == Shape::Bundle {
            prop_assert_eq!(plan.bundle_type.as_deref(), Some("batch"));
            check_items(&text, &serde_json::from_str::<Bundle>(&text).unwrap().entry, &told);
        } else {
            prop_assert!(is_pretty, "{}", text);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(file in prop::collection::vec(any::<u8>(), 0..400), pieces in prop::collection::vec(1usize..50, 1..4)) {
        let (one, told) = plan(&file, SMALL);
        let (other, told_too) = plan_in(&file, &pieces, SMALL);
        prop_assert_eq!(one.map_err(|error| error.code()), other.map_err(|error| error.code()));
        prop_assert_eq!(told, told_too);
    }
}

/// Counts and forgets.
#[derive(Default)]
struct Counting {
    chunks: u64,
    lines: u64,
    issues: u64,
    longest: u64,
}

impl Sink for Counting {
    fn chunk(&mut self, chunk: Chunk, _: Option<&[u8]>) {
        self.chunks += 1;
        self.lines += chunk.count;
        self.longest = self.longest.max(chunk.bytes.end - chunk.bytes.start);
    }

    fn issue(&mut self, _: LineIssue) {
        self.issues += 1;
    }
}

#[test]
fn a_gigabyte_is_planned_in_the_memory_of_one_line() {
    let line = format!("{{\"resourceType\":\"Observation\",\"note\":\"{}\"}}\n", "x".repeat(1500));
    let piece = line.repeat(64 * 1024 / line.len() + 1);
    let (mut planner, mut told) = (Planner::new(PlanLimits::default()), Counting::default());
    let mut buffered = 0;
    let mut size = 0u64;
    while size < 1 << 30 {
        planner.push(piece.as_bytes(), &mut told).unwrap();
        size += piece.len() as u64;
        buffered = buffered.max(planner.buffered());
    }
    let plan = planner.finish(&mut told).unwrap();
    assert_eq!((plan.text_bytes, plan.lines, told.lines), (size, size / line.len() as u64, size / line.len() as u64));
    assert_eq!(plan.chunks, told.chunks);
    assert!(told.longest <= (4 << 20) + line.len() as u64 && told.chunks >= 255);
    assert!(buffered <= 256 * 1024, "{buffered}");
}

#[test]
fn a_packed_gigabyte_of_one_line_is_one_issue_and_little_memory() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(b"{\"n\":1}\n{\"a\":\"").unwrap();
    let block = vec![b'x'; 1 << 20];
    for _ in 0..1024 {
        encoder.write_all(&block).unwrap();
    }
    encoder.write_all(b"\"}\n{\"n\":3}").unwrap();
    let file = encoder.finish().unwrap();
    let (mut planner, mut told) = (Planner::new(PlanLimits::default()), Counting::default());
    let mut buffered = 0;
    for piece in file.chunks(16 * 1024) {
        planner.push(piece, &mut told).unwrap();
        buffered = buffered.max(planner.buffered());
    }
    let plan = planner.finish(&mut told).unwrap();
    assert_eq!((plan.lines, told.lines, told.issues, told.chunks), (3, 2, 1, 2));
    // One line of the longest allowed, in a vector that doubles.
    assert!(buffered <= 33 << 20, "{buffered}");
}
