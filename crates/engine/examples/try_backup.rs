//! Throw-away.
use std::sync::Arc;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let target = flexkeep_pg_copy::Config::parse(&a[1]).unwrap();
    let vault = flexkeep_vault::Vault::open_or_create(&a[2].parse().unwrap()).unwrap();
    let mut o = flexkeep_engine::BackupOptions::default();
    if let Some(l) = a.get(3) { o.level = l.parse().unwrap(); }
    if let Some(l) = a.get(4) { o.lanes = l.parse().unwrap(); }
    let p = Arc::new(flexkeep_engine::Progress::default());
    let t = std::time::Instant::now();
    match flexkeep_engine::backup(&target, &vault, &o, &p) {
        Ok(m) => println!("{:.3}s {:?} {:?} {:?}", t.elapsed().as_secs_f64(), m.totals, m.losses, m.notes),
        Err(e) => println!("ERR {e} / {:?}", e),
    }
    for m in p.take_messages() { println!("{m}"); }
}
