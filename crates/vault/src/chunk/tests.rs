use std::io::Write;

use super::large_objects::{Builder, MAX_RECORD_BYTES};
use super::*;

fn reference(raw: &[u8], object: &[u8]) -> ChunkRef {
    ChunkRef {
        hash: ContentHash::of(raw),
        raw_bytes: raw.len() as u32,
        stored_bytes: object.len() as u32,
        continued: false,
    }
}

fn decoded(kind: EntryKind, object: &[u8], expected: &ChunkRef) -> Result<Vec<u8>, DamagedChunk> {
    let mut raw = vec![9; 3];
    let result = ChunkDecoder::new().decode(kind, object, expected, &mut raw);
    if result.is_err() {
        assert!(raw.is_empty(), "nothing unverified is handed out");
    }
    result.map(|()| raw)
}

/// Bytes without pattern.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn large_objects(objects: &[(u32, &[u8])], limit: usize) -> Vec<Vec<u8>> {
    let mut builder = Builder::new(limit);
    let mut chunks = Vec::new();
    let take = |builder: &mut Builder, chunks: &mut Vec<Vec<u8>>| {
        let mut raw = Vec::new();
        builder.take(&mut raw);
        chunks.push(raw);
    };
    for (oid, mut bytes) in objects.iter().copied() {
        if !builder.has_room() {
            take(&mut builder, &mut chunks);
        }
        builder.begin(oid);
        loop {
            bytes = &bytes[builder.append(bytes)..];
            if bytes.is_empty() {
                break;
            }
            take(&mut builder, &mut chunks);
        }
        builder.end();
    }
    if !builder.is_empty() {
        take(&mut builder, &mut chunks);
    }
    chunks
}

#[test]
fn a_table_chunk_is_a_piece_header_and_one_frame_with_its_size() {
    let raw = b"1\tone\n2\ttwo\n".repeat(100);
    for level in [-7, 1, 3, 19, 1000] {
        let mut encoder = ChunkEncoder::new(level).unwrap();
        let object = encoder.encode_table(&raw).unwrap().to_vec();
        assert_eq!(object[0], 0);
        let length = u32::from_le_bytes(object[1..5].try_into().unwrap()) as usize;
        assert_eq!(length, object.len() - 5);
        assert_eq!(get_frame_content_size(&object[5..]).unwrap(), Some(raw.len() as u64));
        assert_eq!(zstd::decode_all(&object[5..]).unwrap(), raw);
        assert_eq!(object, encoder.encode_table(&raw).unwrap(), "the encoder can be reused");
        assert_eq!(decoded(EntryKind::Table, &object, &reference(&raw, &object)).unwrap(), raw);
    }
}

#[test]
fn chunks_have_at_least_one_byte_and_at_most_the_limit() {
    let mut encoder = ChunkEncoder::new(1).unwrap();
    assert_eq!(encoder.encode_table(b"").unwrap_err(), EncodeError::Empty);
    assert_eq!(encoder.encode_large_objects(b"").unwrap_err(), EncodeError::Empty);
    let mut raw = noise(MAX_CHUNK_RAW_BYTES + 1);
    assert_eq!(encoder.encode_table(&raw).unwrap_err(), EncodeError::TooLong(raw.len()));
    raw.pop();
    let object = encoder.encode_table(&raw).unwrap();
    assert!(object.len() <= MAX_CHUNK_STORED_BYTES);
    assert!(decoded(EntryKind::Table, object, &reference(&raw, object)).unwrap() == raw);
}

#[test]
fn large_objects_become_archive_bytes() {
    let objects: [(u32, &[u8]); 3] = [(16_400, b"abc"), (16_401, b""), (3_000_000_000, b"z")];
    let chunks = large_objects(&objects, MAX_CHUNK_RAW_BYTES);
    assert_eq!(chunks.len(), 1);
    let mut encoder = ChunkEncoder::new(3).unwrap();
    let object = encoder.encode_large_objects(&chunks[0]).unwrap();

    let mut expected = Vec::new();
    for (oid, bytes) in [
        ([0, 0x10, 0x40, 0, 0], b"abc".as_slice()),
        ([0, 0x11, 0x40, 0, 0], b""),
        // 3,000,000,000 as a signed number is -1,294,967,296.
        ([1, 0x00, 0xa2, 0x2f, 0x4d], b"z"),
    ] {
        expected.extend_from_slice(&oid);
        let mut frame = ChunkEncoder::new(3).unwrap();
        let end = frame.piece(0, bytes).unwrap();
        expected.extend_from_slice(&frame.out[..end]);
        expected.extend_from_slice(&[0; 5]);
    }
    assert_eq!(object, expected);
    let back = decoded(EntryKind::LargeObjects, object, &reference(&chunks[0], object));
    assert_eq!(back.unwrap(), chunks[0]);
}

#[test]
fn large_objects_cut_anywhere_read_back() {
    let body = noise(5000);
    let mut encoder = ChunkEncoder::new(1).unwrap();
    for length in [1, 1005, 1014, 1015, 1016, 2029, 2030, 2031, 5000] {
        let objects: [(u32, &[u8]); 4] =
            [(7, &body[..length]), (8, b""), (u32::MAX, &body[..length]), (10, b"end")];
        let chunks = large_objects(&objects, 1024);
        let mut seen: Vec<(u32, Vec<u8>, bool)> = Vec::new();
        for raw in &chunks {
            assert!(!raw.is_empty() && raw.len() <= 1024, "{length}: {}", raw.len());
            let object = encoder.encode_large_objects(raw).unwrap();
            let back = decoded(EntryKind::LargeObjects, object, &reference(raw, object)).unwrap();
            assert_eq!(&back, raw, "{length}");
            for record in large_objects::records(&back) {
                let record = record.unwrap();
                match record.begins {
                    Some(oid) => seen.push((oid, record.bytes.to_vec(), record.ends)),
                    None => {
                        let last = seen.last_mut().unwrap();
                        last.1.extend_from_slice(record.bytes);
                        last.2 = record.ends;
                    }
                }
            }
        }
        let expected: Vec<_> =
            objects.iter().map(|(oid, bytes)| (*oid, bytes.to_vec(), true)).collect();
        assert_eq!(seen, expected, "{length}");
    }
}

#[test]
fn an_object_larger_than_a_chunk_is_continued() {
    let body = noise(MAX_CHUNK_RAW_BYTES + 100);
    let chunks = large_objects(&[(5, &body)], usize::MAX);
    assert_eq!(chunks.len(), 2);
    let lengths: Vec<Vec<usize>> = chunks
        .iter()
        .map(|raw| large_objects::records(raw).map(|r| r.unwrap().bytes.len()).collect())
        .collect();
    let second = MAX_CHUNK_RAW_BYTES - MAX_RECORD_BYTES - 2 * 9;
    assert_eq!(lengths[0], [MAX_RECORD_BYTES, second]);
    assert_eq!(lengths.concat().iter().sum::<usize>(), body.len());
}

#[test]
fn the_content_of_large_objects_is_never_copy_text() {
    for raw in large_objects(&[(0x6161_6161, &b"text\n".repeat(5_000_000))], usize::MAX) {
        assert!(raw.contains(&0));
    }
}

#[test]
fn malformed_large_object_content_is_refused() {
    let record = |oid: u32, flags: u8, length: u32, bytes: &[u8]| {
        [&oid.to_le_bytes()[..], &[flags], &length.to_le_bytes(), bytes].concat()
    };
    let cases = [
        (b"short".to_vec(), "a record header is cut short"),
        (record(1, 3, 5, b"abc"), "a record is cut short"),
        (record(1, 4, 1, b"a"), "unknown flags"),
        (record(0, 3, 1, b"a"), "an oid must stand"),
        (record(1, 2, 1, b"a"), "an oid must stand"),
        (record(1, 1, 0, b""), "a record of no bytes"),
        (record(0, 0, 0, b""), "a record of no bytes"),
        ([record(1, 1, 1, b"a"), record(0, 2, 0, b"")].concat(), "a record of no bytes"),
        ([record(1, 1, 1, b"a"), record(2, 3, 1, b"a")].concat(), "an object begins within"),
        ([record(1, 3, 1, b"a"), record(0, 2, 1, b"a")].concat(), "an object begins within"),
        (record(1, 3, 1 << 24, &vec![0; 1 << 24]), "a record is too long"),
        (record(1, 3, 0, b"").repeat(65_537), "too many records"),
    ];
    let mut encoder = ChunkEncoder::new(1).unwrap();
    for (raw, problem) in cases {
        let message = encoder.encode_large_objects(&raw).unwrap_err().to_string();
        assert!(message.contains(problem), "{problem}: {message}");
    }
    encoder.encode_large_objects(&record(1, 3, 0, b"").repeat(65_536)).unwrap();
    encoder.encode_large_objects(&record(0, 2, 0, b"")).unwrap();
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let mut encoder = ChunkEncoder::new(3).unwrap();
    let table = b"1\tone\n".repeat(20);
    let objects =
        large_objects(&[(77, b"some bytes"), (78, b""), (79, b"more")], 1 << 20).remove(0);
    for (kind, raw) in [(EntryKind::Table, table), (EntryKind::LargeObjects, objects)] {
        let object = match kind {
            EntryKind::Table => encoder.encode_table(&raw),
            EntryKind::LargeObjects => encoder.encode_large_objects(&raw),
        };
        let object = object.unwrap().to_vec();
        let expected = reference(&raw, &object);
        for bit in 0..object.len() * 8 {
            let mut damaged = object.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // zstd ignores a few bits; what is read must then still be right.
            if let Ok(back) = decoded(kind, &damaged, &expected) {
                assert_eq!(back, raw);
            }
        }
        for length in 0..object.len() {
            let cut = &object[..length];
            assert!(decoded(kind, cut, &expected).is_err());
            let lying = ChunkRef { stored_bytes: length as u32, ..expected };
            assert!(decoded(kind, cut, &lying).is_err());
        }
        let longer = [object.as_slice(), &object].concat();
        let lying = ChunkRef { stored_bytes: longer.len() as u32, ..expected };
        assert!(decoded(kind, &longer, &lying).is_err());
        let other = ChunkRef { hash: ContentHash::of(b"other"), ..expected };
        assert!(decoded(kind, &object, &other).is_err());
        for raw_bytes in [0, 1, expected.raw_bytes - 1, expected.raw_bytes + 1, u32::MAX] {
            assert!(decoded(kind, &object, &ChunkRef { raw_bytes, ..expected }).is_err());
        }
    }
}

#[test]
fn hostile_frames_are_errors_and_allocate_nothing_much() {
    let raw = vec![b'x'; 100];
    let piece = |body: &[u8]| [&[0][..], &(body.len() as u32).to_le_bytes(), body].concat();
    let expect = |object: &[u8]| reference(&raw, object);
    let frame = zstd::bulk::compress(&raw, 3).unwrap();
    let half = zstd::bulk::compress(&raw[..50], 3).unwrap();
    let bomb = zstd::bulk::compress(&vec![0; 200 << 20], 3).unwrap();
    let mut stream = zstd::Encoder::new(Vec::new(), 3).unwrap();
    for part in raw.chunks(50) {
        stream.write_all(part).unwrap();
        stream.flush().unwrap();
    }
    let streamed = stream.finish().unwrap();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &frame].concat();
    for (object, problem) in [
        (piece(&bomb), "longer than it should be"),
        (piece(&[half.clone(), half.clone()].concat()), "not exactly one zstd frame"),
        (piece(&skippable), "does not begin with a zstd frame"),
        (piece(b"plain text"), "does not begin with a zstd frame"),
        (piece(&streamed), "does not tell its content size"),
        ([piece(&half), piece(&half)].concat(), "follow the piece"),
        (piece(&half), "has 50 bytes, not 100"),
        (vec![0, 255, 255, 255, 127, 1], "a piece is cut short"),
        (vec![1, 5, 0, 0, 0, 1], "negative length"),
        (vec![2, 5, 0, 0, 0, 1], "sign byte 2"),
        (vec![0, 0, 0, 0, 128, 1], "out of range"),
    ] {
        let error = decoded(EntryKind::Table, &object, &expect(&object)).unwrap_err();
        assert!(error.problem.contains(problem), "{problem}: {}", error.problem);
        let large = decoded(EntryKind::LargeObjects, &object, &expect(&object));
        assert!(large.is_err(), "{problem}");
    }
}
