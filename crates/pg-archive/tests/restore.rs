//! Archives written by this crate are restored by the real `pg_restore` of PostgreSQL 15, 17 and
//! 18. Needs their programs: see `common/server.rs`.

mod common;

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use common::server::{Server, run};
use common::{Data, read_data, read_toc};
use flexkeep_pg_archive::{ArchiveWriter, Compression, Toc, Version, blocks, zlib};
use tempfile::TempDir;

/// Raw bytes of one compressed part or frame; small, so that there are many.
const PART: usize = 100_000;

const ROLES: &str = r#"CREATE ROLE alice; CREATE ROLE "bob; LARGE OBJECT 7 ""x""";"#;

/// More large objects than one group takes, with several owners and ACLs, and a larger table.
const MORE: &str = r#"
SELECT lo_from_bytea(100000 + n, ('object ' || n)::bytea) FROM generate_series(1, 2000) AS n;
DO $$ BEGIN
    FOR n IN 1..2000 LOOP
        IF n % 3 = 0 THEN EXECUTE format('ALTER LARGE OBJECT %s OWNER TO alice', 100000 + n); END IF;
        IF n % 7 = 0 THEN
            EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO PUBLIC', 100000 + n);
            EXECUTE format('GRANT ALL ON LARGE OBJECT %s TO "bob; LARGE OBJECT 7 ""x"""', 100000 + n);
        END IF;
        IF n % 500 = 0 THEN
            EXECUTE format('COMMENT ON LARGE OBJECT %s IS %L', 100000 + n, 'number ' || n);
        END IF;
    END LOOP;
END $$;
SELECT lo_from_bytea(99999, convert_to(repeat('0123456789', 50000), 'UTF8'));
CREATE TABLE app.large AS SELECT n, md5(n::text) AS m FROM generate_series(1, 50000) AS n;
"#;

/// All that a restore must bring back, as text.
const FINGERPRINT: &str = r#"
SET search_path = '';
-- The privilege m (MAINTAIN) came with 17; an owner has it there without a grant.
SELECT c.oid::regclass, c.relowner::regrole,
    pg_catalog.replace(c.relacl::text, 'Dxtm/', 'Dxt/'), c.relkind,
    md5(pg_catalog.query_to_xml(pg_catalog.format('SELECT * FROM %s ORDER BY 1', c.oid::regclass),
        true, false, '')::text), pg_catalog.obj_description(c.oid)
FROM pg_catalog.pg_class c
WHERE c.relnamespace::regnamespace::text ~ 'app|odd' AND c.relkind IN ('r', 'p', 'v', 'S')
    AND c.relname <> 'no_columns'
ORDER BY c.oid::regclass::text COLLATE "C";
SELECT pg_catalog.count(*) FROM app.no_columns;
SELECT m.oid, m.lomowner::regrole, m.lomacl, pg_catalog.md5(pg_catalog.lo_get(m.oid)),
    pg_catalog.obj_description(m.oid, 'pg_largeobject')
FROM pg_catalog.pg_largeobject_metadata m ORDER BY 1;
"#;

/// A server with a full database, and what `pg_dump` says of it.
struct Source {
    server: Server,
    folder: TempDir,
    archive: Vec<u8>,
    toc: Toc,
    data: Data,
    fingerprint: String,
}

fn source(major: u32) -> Source {
    let server = server(major);
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schema.sql");
    let schema = std::fs::read_to_string(schema).expect("the fixtures' schema");
    server.sql("postgres", "CREATE DATABASE source");
    server.sql("source", &schema);
    server.sql("source", MORE);
    let fingerprint = server.sql("source", FINGERPRINT);
    assert!(fingerprint.lines().count() > 2000 + 8 + 8, "{fingerprint}");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dump");
    let mut dump = server.client("pg_dump");
    run(dump.args(["-Fc", "-Z", "0", "-d", "source", "-f"]).arg(&file), None);
    let archive = std::fs::read(file).expect("written");
    let toc = read_toc(&archive);
    assert_eq!(toc.encode(), archive[..usize::try_from(toc.encoded_len()).expect("small")]);
    let data = read_data(&archive, &toc);
    Source { server, folder, archive, toc, data, fingerprint }
}

fn server(major: u32) -> Server {
    let server = Server::start(major);
    server.sql("postgres", ROLES);
    server
}

/// The pieces of an archive, compressed anew.
fn compress(raw: &[u8], compression: Compression) -> Vec<Vec<u8>> {
    match compression {
        Compression::None => raw.chunks(PART).map(<[u8]>::to_vec).collect(),
        Compression::Zstd => raw
            .chunks(PART)
            .map(|part| zstd::bulk::compress(part, 1).expect("compresses"))
            .collect(),
        Compression::Gzip => {
            let mut pieces = vec![zlib::HEADER.to_vec()];
            let mut stitcher = zlib::Stitcher::new();
            for (index, part) in raw.chunks(PART).enumerate() {
                // With and without a dictionary by turns.
                let before = &raw[..index * PART];
                let dictionary = (index % 2 == 1).then_some(before);
                let part = zlib::compress_part(part, 6, dictionary).expect("compresses");
                stitcher.add(&part);
                pieces.push(part.bytes);
            }
            pieces.push(stitcher.finish().to_vec());
            pieces
        }
        Compression::Lz4 => unreachable!("no test makes lz4"),
    }
}

impl Source {
    fn write(&self, version: Version, compression: Compression) -> PathBuf {
        let toc = self.toc.clone().to_version(version).expect("converts");
        let toc = toc.with_compression(compression).expect("the version knows it");
        let path = self.folder.path().join(format!("{version}-{compression}"));
        let out = BufWriter::new(File::create(&path).expect("created"));
        let mut writer = ArchiveWriter::new(out, toc).expect("begins");
        for id in &self.data.order {
            if let Some((_, pieces)) = self.data.tables.get(id) {
                writer.start_table(*id).expect("a table");
                for piece in compress(&pieces.concat(), compression) {
                    writer.piece(&piece).expect("a piece");
                }
            } else {
                writer.start_blobs(*id).expect("a group");
                for (oid, pieces) in &self.data.blobs[id].1 {
                    writer.start_blob(*oid).expect("an object");
                    for piece in compress(&pieces.concat(), compression) {
                        let header = blocks::piece_header(piece.len()).expect("a piece");
                        writer.prepared(&[header.as_slice(), &piece].concat()).expect("written");
                    }
                    writer.end_blob().expect("ends");
                }
            }
            writer.end_block().expect("ends");
        }
        writer.finish().expect("complete");
        path
    }

    /// Restores serially from the standard input, and from the file with two jobs.
    fn check_restores(&self, target: &Server, archive: &Path) {
        for name in ["serial", "parallel"] {
            target.sql("postgres", "DROP DATABASE IF EXISTS target");
            target.sql("postgres", "CREATE DATABASE target");
            let mut restore = target.client("pg_restore");
            restore.args(["--exit-on-error", "-d", "target"]);
            if name == "parallel" {
                run(restore.arg("-j2").arg(archive), None);
            } else {
                run(&mut restore, Some(archive));
            }
            let restored = target.sql("target", FINGERPRINT);
            assert!(
                restored == self.fingerprint,
                "{name} restore of {}: {}",
                archive.display(),
                first_difference(&restored, &self.fingerprint)
            );
        }
    }
}

fn first_difference(found: &str, expected: &str) -> String {
    let pair = found.lines().zip(expected.lines()).find(|(a, b)| a != b);
    let lengths = (found.lines().count(), expected.lines().count());
    format!("{pair:?}, lines {lengths:?}")
}

#[test]
fn what_pg_dump_17_wrote_restores_with_17_and_15() {
    let source = source(17);
    let groups = source.data.blobs.len();
    assert!(groups > 5, "{groups} groups of large objects");
    source.check_restores(&source.server, &source.write(Version::V1_16, Compression::Zstd));
    let old = server(15);
    source.check_restores(&old, &source.write(Version::V1_14, Compression::Gzip));
    source.check_restores(&old, &source.write(Version::V1_14, Compression::None));
}

#[test]
fn what_pg_dump_18_wrote_restores_with_18_and_15() {
    let source = source(18);
    source.check_restores(&source.server, &source.write(Version::V1_16, Compression::Zstd));
    // What 16 would read: large objects one by one, but zstd.
    source.check_restores(&source.server, &source.write(Version::V1_15, Compression::Zstd));
    source.check_restores(&server(15), &source.write(Version::V1_14, Compression::Gzip));
}

#[test]
fn what_pg_dump_15_wrote_restores_with_15_17_and_18() {
    let source = source(15);
    source.check_restores(&source.server, &source.write(Version::V1_14, Compression::Gzip));
    let newer = source.write(Version::V1_16, Compression::Zstd);
    source.check_restores(&server(17), &newer);
    source.check_restores(&server(18), &newer);
    source.check_restores(&server(17), &source.write(Version::V1_15, Compression::Gzip));
}

#[test]
fn pg_restore_15_lists_a_converted_archive_as_one_of_its_own() {
    let source = source(17);
    let own = server(15);
    let converted = source.write(Version::V1_14, Compression::None);
    let list = run(own.client("pg_restore").arg("-l").arg(converted), None);
    let count = |kind: &str| list.lines().filter(|line| line.contains(kind)).count();
    assert_eq!(count(" BLOB - "), 2000 + 8 + 1);
    assert_eq!(count(" BLOB METADATA "), 0);
    assert_eq!(count(" BLOBS - "), source.data.blobs.len());
    assert_eq!(count(" ACL - LARGE OBJECT "), 2000 / 7 + 3);
    assert_eq!(count(" ACL - LARGE OBJECTS "), 0);
    assert!(source.archive.len() > 1_000_000, "the data is there");
}
