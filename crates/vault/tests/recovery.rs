//! docs/recovery-without-flexkeep.md does what it says: its scripts run as they stand there.

mod pretend;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use flexkeep_vault::contents::{ChunkRef, Entry, EntryKind};
use flexkeep_vault::{ChunkBuffer, FoldersOnly, Place, Vault, chunk_name, meta_name};

const BACKUP: &str = "srv-20261122T225300Z";

struct Pretend {
    root: tempfile::TempDir,
    vault: Vault,
}

impl Pretend {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let place: Place = root.path().join("vault").to_str().unwrap().parse().unwrap();
        let vault = Vault::create(&place, &FoldersOnly).unwrap();
        pretend::backup(&vault, "srv", "2026-11-22T22:53:00Z").unwrap();
        Self { root, vault }
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("vault")
    }

    fn entries(&self) -> Vec<Entry> {
        let manifest = self.vault.manifest(&BACKUP.parse().unwrap()).unwrap();
        let mut entries = Vec::new();
        self.vault
            .read_contents(&manifest.databases[0].contents, |entry| entries.push(entry))
            .unwrap();
        entries
    }

    fn run(&self, language: &str, program: &str, arguments: &[&str]) -> Output {
        let mut child = Command::new(program)
            .args(if program == "python3" { vec!["-"] } else { vec!["-s", "-"] })
            .arg(self.path())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("this test needs {program} and zstd: {error}"));
        let script = block(language);
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn compose(&self, database: &str, out: &Path) -> Output {
        self.run("python", "python3", &[BACKUP, database, out.to_str().unwrap()])
    }
}

/// The one fenced block of a language in the page.
fn block(language: &str) -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/recovery-without-flexkeep.md");
    let page = std::fs::read_to_string(page).unwrap();
    let fence = format!("\n```{language}\n");
    let mut blocks = page.split(&fence).skip(1);
    let block = blocks.next().expect("the page has the script");
    assert!(blocks.next().is_none(), "one block of {language} only");
    block.split_once("\n```\n").expect("the block ends").0.to_owned()
}

fn int(value: i32) -> Vec<u8> {
    [&[u8::from(value < 0)][..], &value.unsigned_abs().to_le_bytes()].concat()
}

#[test]
fn the_script_composes_an_archive_byte_for_byte() {
    let pretend = Pretend::new();
    let out = pretend.root.path().join("app.dump");
    let output = pretend.compose("app", &out);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    let composed = std::fs::read(&out).unwrap();

    let mut expected = pretend::TOC.to_vec();
    let mut buffer = ChunkBuffer::new();
    let mut ends = Vec::new();
    for entry in pretend.entries() {
        expected.push(if entry.kind == EntryKind::Table { 1 } else { 3 });
        expected.extend(int(entry.dump_id));
        for chunk in &entry.chunks {
            pretend.vault.get_chunk(entry.kind, chunk, &mut buffer).unwrap();
            expected.extend_from_slice(buffer.object());
        }
        if entry.kind == EntryKind::Table {
            // The script's own frame: any that holds the right bytes would do.
            let frame = &composed[expected.len() + 5..expected.len() + 19];
            ends.push(zstd::decode_all(frame).unwrap());
            expected.extend(int(14));
            expected.extend_from_slice(frame);
        }
        expected.extend(int(0));
    }
    assert_eq!(ends, [b"\\.\n\n\n", b"\\.\n\n\n"]);
    assert!(composed == expected, "{} and {} bytes", composed.len(), expected.len());

    let again = pretend.compose("app", &out);
    assert!(!again.status.success(), "it does not overwrite");
    assert_eq!(std::fs::read(&out).unwrap(), composed);
}

#[test]
fn the_script_says_what_is_missing_or_damaged() {
    let pretend = Pretend::new();
    let out = pretend.root.path().join("out.dump");
    let fails = |database: &str, expected: &str| {
        let output = pretend.compose(database, &out);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && errors.contains(expected), "{expected}: {errors}");
        let _ = std::fs::remove_file(&out);
    };
    fails("nobody", "no database nobody in srv-20261122T225300Z, only: app");
    let chunk: ChunkRef = pretend.entries()[0].chunks[2];
    let path = pretend.path().join(chunk_name(&chunk.hash));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[1..]).unwrap();
    fails("app", "it is damaged");
    std::fs::remove_file(&path).unwrap();
    fails("app", "is missing");
    std::fs::write(&path, &bytes).unwrap();
    let manifest = pretend.vault.manifest(&BACKUP.parse().unwrap()).unwrap();
    let path = pretend.path().join(meta_name(&manifest.databases[0].toc.hash));
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    fails("app", "is damaged");
}

#[test]
fn one_table_comes_out_with_a_shell() {
    let pretend = Pretend::new();
    let table = |name: &str| pretend.run("sh", "sh", &[BACKUP, "app", "public", name]);
    let output = table("pretend");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(output.stdout, pretend::table_chunks().concat());
    let empty = table("empty");
    assert!(empty.status.success() && empty.stdout.is_empty());
    let missing = table("nothing");
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no table public.nothing"));

    let chunk = pretend.entries()[0].chunks[1];
    let path = pretend.path().join(chunk_name(&chunk.hash));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let damaged = table("pretend");
    assert!(!damaged.status.success());
    assert!(String::from_utf8_lossy(&damaged.stderr).contains("is damaged"));
}

#[test]
fn the_roles_are_a_plain_zstd_file() {
    let pretend = Pretend::new();
    let manifest = pretend.vault.manifest(&BACKUP.parse().unwrap()).unwrap();
    let path = pretend.path().join(meta_name(&manifest.globals.unwrap().hash));
    let output = Command::new("zstd").arg("-dc").arg(path).output().unwrap();
    assert_eq!(output.stdout, pretend::GLOBALS);
}

#[test]
fn the_checksum_of_a_manifest_is_that_of_all_but_its_last_two_lines() {
    let pretend = Pretend::new();
    let path = pretend.path().join(format!("backups/srv/{BACKUP}.json"));
    for command in ["head -n -2 \"$0\"", "sed '$d' \"$0\" | sed '$d'"] {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/recovery-without-flexkeep.md");
        let told = command.replace("\"$0\"", "BACKUP.json");
        assert!(std::fs::read_to_string(page).unwrap().contains(&told), "{told}");
        let output = Command::new("sh").args(["-c", command]).arg(&path).output().unwrap();
        let hash = flexkeep_vault::ContentHash::of(&output.stdout).to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with(&format!("\"blake3\": \"{hash}\"\n}}\n")), "{text}");
    }
}

#[test]
fn the_example_in_the_format_page_is_a_real_chunk() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vault-format.md");
    let page = std::fs::read_to_string(page).unwrap();
    let name = "chunks/ef/ef40086ad8a395c7a05b5f70cf2575ad187f637ad813136292cb39610694db73";
    let (_, example) = page.split_once(&format!("\n{name}\n")).expect("the example");
    let (example, _) = example.split_once("```").unwrap();
    // Each line: bytes in hexadecimal, two or more spaces, what they are.
    let digits: String = example
        .lines()
        .filter_map(|line| line.split("  ").next())
        .collect::<String>()
        .replace(' ', "");
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    let bytes: Vec<u8> =
        digits.as_bytes().chunks(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1").join(name);
    assert_eq!(std::fs::read(fixture).unwrap(), bytes);
}
