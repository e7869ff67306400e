//! Memory stays bounded whatever the size of a value; alone in its process, so as to measure it.

mod support;

use std::convert::Infallible;

use flexkeep_pg_copy::CopySink;
use support::{Cluster, server_bins};

#[derive(Default)]
struct Count {
    bytes: u64,
    longest: usize,
    ends: u64,
}

impl CopySink for Count {
    type Error = Infallible;

    fn data(&mut self, part: &[u8], row_end: bool) -> Result<(), Infallible> {
        self.bytes += part.len() as u64;
        self.longest = self.longest.max(part.len());
        self.ends += u64::from(row_end);
        Ok(())
    }
}

#[test]
fn a_huge_value_passes_in_bounded_memory() {
    let cluster = Cluster::start(&server_bins()[0]);
    let mut connection = cluster.connect();
    let before = support::peak_memory();
    let mut sink = Count::default();
    let sql = "COPY (SELECT 'first' UNION ALL SELECT repeat('0123456789', 10000000)
               UNION ALL SELECT 'last') TO STDOUT";
    assert_eq!(connection.copy_out(sql, &mut sink).unwrap(), 3);
    assert_eq!(sink.bytes, 6 + 100_000_001 + 5);
    assert_eq!(sink.ends, 3);
    assert!(sink.longest <= 256 * 1024, "{}", sink.longest);
    let grown = support::peak_memory() - before;
    assert!(grown < 8 << 20, "{grown} bytes more");
}
