//! Rows in binary format, made into text, are what the server sends as text.

mod support;

use std::convert::Infallible;

use flexkeep_pg_copy::{BinaryRows, ColumnFormat, Connection, CopySink};
use support::{Cluster, server_bins};

#[derive(Default)]
struct Collect(Vec<u8>);

impl CopySink for Collect {
    type Error = Infallible;

    fn data(&mut self, part: &[u8], _row_end: bool) -> Result<(), Infallible> {
        self.0.extend_from_slice(part);
        Ok(())
    }
}

#[track_caller]
fn compare(connection: &mut Connection, columns: &[ColumnFormat], query: &str) {
    let mut expected = Collect::default();
    connection.copy_out(format!("COPY ({query}) TO STDOUT"), &mut expected).unwrap();
    let mut text = Collect::default();
    let mut rows = BinaryRows::new(columns, &mut text);
    connection.copy_out(format!("COPY ({query}) TO STDOUT (FORMAT binary)"), &mut rows).unwrap();
    rows.finish().unwrap();
    if text.0 != expected.0 {
        let (one, two) = (String::from_utf8_lossy(&expected.0), String::from_utf8_lossy(&text.0));
        let different = one.lines().zip(two.lines()).find(|(one, two)| one != two);
        panic!("{query}: {different:?}; {} and {} bytes", expected.0.len(), text.0.len());
    }
}

/// Numbers, times and texts at their ends, and many others.
#[test]
fn every_value_has_the_servers_own_text() {
    use ColumnFormat::*;
    let cases: [(&[ColumnFormat], &str); 19] = [
        (
            &[Int2, Int4, Int8],
            "SELECT n::int2, n::int4 * 65535, n * 281470681743361 FROM generate_series(-32768, 32767) n",
        ),
        (
            &[Int2, Int4, Int8],
            "VALUES ((-32768)::int2, (-2147483648)::int4, (-9223372036854775808)::int8), (NULL, NULL, NULL)",
        ),
        (
            &[Oid, Bool],
            "SELECT (n * 65537)::oid, n % 2 = 0 FROM generate_series(0::bigint, 65535) n",
        ),
        (
            &[Text, Text, Text],
            "SELECT repeat(chr(n), n), repeat('x', n) || chr(n) || 'y', chr(n)::char(9) FROM generate_series(1, 1200) n",
        ),
        (
            &[Text],
            "SELECT convert_from(decode(string_agg(lpad(to_hex(1 + (n::bigint * k * 7919) % 127), 2, '0'), ''), 'hex'), 'UTF8') FROM generate_series(1, 400) n, generate_series(1, 150) k GROUP BY n",
        ),
        (
            &[Text, Text, Text],
            "SELECT n::text::name, n::text::varchar(9), format('[%s]', n)::json FROM generate_series(1, 999) n",
        ),
        (
            &[Jsonb],
            "SELECT jsonb_build_object('a', repeat(chr(1 + n % 300), n), 'b\\\"', n / 7.0, 'c', ARRAY[n, NULL]) FROM generate_series(1, 2000) n",
        ),
        (&[Text], "SELECT repeat(md5(n::text) || E'\\t', n * 300) FROM generate_series(1, 60) n"),
        (
            &[Bytea, Bytea],
            "SELECT decode(repeat(md5(n::text), n), 'hex'), ''::bytea FROM generate_series(1, 300) n",
        ),
        (&[Uuid], "SELECT md5(n::text)::uuid FROM generate_series(1, 5000) n"),
        (&[Date], "SELECT '4713-01-01 BC'::date + n * 37 FROM generate_series(0, 120000) n"),
        (
            &[Date, Timestamp, TimestampTz],
            "VALUES ('infinity'::date, 'infinity'::timestamp, 'infinity'::timestamptz), ('-infinity', '-infinity', '-infinity'), ('5874897-12-31', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00'), ('4713-11-24 BC', '4713-11-24 BC', '4713-11-24 00:00+00 BC'), ('0001-12-31 BC', '0001-12-31 23:59:59.9 BC', '0001-01-01')",
        ),
        (
            &[Timestamp, TimestampTz],
            "SELECT '2000-01-01'::timestamp + n * interval '97 days 3:07:11.000137', '1999-12-31 23:59:59.999999+00'::timestamptz + (n - 30000) * interval '1 day 00:00:00.01' FROM generate_series(-24000, 90000) n",
        ),
        (
            &[TimestampTz],
            "SELECT '2024-02-28 12:00+00'::timestamptz + n * interval '0.1 s' FROM generate_series(1, 20000) n",
        ),
        (
            &[Numeric, Numeric, Numeric],
            "SELECT n / 7.0, n::numeric ^ 3, n::numeric(20,5) / 1000000 FROM generate_series(-20000, 20000) n",
        ),
        (
            &[Numeric],
            "SELECT (10::numeric ^ n) * 1.1 FROM generate_series(-60, 60) n UNION ALL SELECT -(10::numeric ^ n) FROM generate_series(0, 300) n",
        ),
        (
            &[Numeric],
            "SELECT round((n::bigint * 7919 % 100003)::numeric / 100003, n % 23) FROM generate_series(0, 30000) n",
        ),
        (
            &[Numeric],
            "VALUES ('NaN'::numeric), (NULL), (0), (0.000), (-0.0001), (1e-20), (0.1), (9999), (10000), (99999999.9999), (1e1000), (1e131071), (1e-16383), ('9999.9990')",
        ),
        (&[], "SELECT FROM generate_series(1, 10)"),
    ];
    for bin in server_bins() {
        let cluster = Cluster::start(&bin);
        let mut connection = cluster.connect();
        connection
            .execute("SET timezone = 'UTC'; SET datestyle = iso; SET bytea_output = hex; SET client_encoding = 'UTF8'; SET extra_float_digits = 3")
            .unwrap();
        for (columns, query) in &cases {
            compare(&mut connection, columns, query);
        }
        connection.execute("CREATE TYPE mood AS ENUM ('sad', E'o\\\\k', 'ha\tppy')").unwrap();
        compare(&mut connection, &[Text], "SELECT unnest(enum_range(NULL::mood))");
        if connection.server_version_num() >= 140_000 {
            compare(&mut connection, &[Numeric], "VALUES ('Infinity'::numeric), ('-Infinity')");
        }
        compare(&mut connection, &[Int4], "SELECT 1 WHERE false");
    }
}
