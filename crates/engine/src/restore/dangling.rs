//! Foreign keys that were not looked at while rows came.

pub(super) const DOING: &str = "checking foreign keys";

/// Since this version keys have periods.
const HAS_PERIODS: u32 = 18;

/// How the columns of a key are compared: as the server does when it validates the key, with the
/// key's own operators, whatever the search path is; operators of extensions are found by it alone.
const COLUMNS: &str = "
    SELECT pg_catalog.string_agg(pg_catalog.format('f.%I IS NOT NULL', a.attname),
        CASE c.confmatchtype WHEN 'f' THEN ' OR ' ELSE ' AND ' END) AS has_value,
      pg_catalog.string_agg(pg_catalog.format('p.%I::%I.%I OPERATOR(%I.%s) f.%I::%I.%I%s',
        b.attname, ln.nspname, lt.typname, opn.nspname, o.oprname,
        a.attname, rn.nspname, rt.typname,
        CASE WHEN a.attcollation <> b.attcollation THEN (
          SELECT pg_catalog.format(' COLLATE %I.%I', cn.nspname, co.collname)
          FROM pg_catalog.pg_collation co
          JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
          WHERE co.oid = b.attcollation) END), ' AND ') AS fits,
      pg_catalog.array_agg(a.attname ORDER BY k.n DESC) AS own,
      pg_catalog.array_agg(b.attname ORDER BY k.n DESC) AS others
    FROM ROWS FROM (pg_catalog.unnest(c.conkey), pg_catalog.unnest(c.confkey),
        pg_catalog.unnest(c.conpfeqop)) WITH ORDINALITY k(f, p, op, n)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.f
    JOIN pg_catalog.pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = k.p
    JOIN pg_catalog.pg_operator o ON o.oid = k.op
    JOIN pg_catalog.pg_namespace opn ON opn.oid = o.oprnamespace
    JOIN pg_catalog.pg_type lt ON lt.oid = o.oprleft
    JOIN pg_catalog.pg_namespace ln ON ln.oid = lt.typnamespace
    JOIN pg_catalog.pg_type rt ON rt.oid = o.oprright
    JOIN pg_catalog.pg_namespace rn ON rn.oid = rt.typnamespace";

/// A query: for each valid foreign key of the tables its table, its name, and a question whether it
/// has rows that point to rows which are not there. A period must be within all of the others'
/// together. Keys into a partitioned table have one more constraint for each partition, which does
/// not hold by itself.
pub(super) fn questions_sql(tables: &[Vec<u8>], major: u32) -> Vec<u8> {
    let has_period = if major >= HAS_PERIODS { "c.conperiod" } else { "false" };
    let mut sql = format!(
        "SELECT c.conrelid::pg_catalog.regclass::text, c.conname, pg_catalog.format(
           'SELECT EXISTS (SELECT FROM ONLY %s f WHERE (%s) AND NOT %s)',
           c.conrelid::pg_catalog.regclass, k.has_value,
           CASE WHEN {has_period} THEN pg_catalog.format(
             'coalesce((SELECT f.%I OPERATOR(pg_catalog.<@) pg_catalog.range_agg(p.%I) '
             'FROM %s p WHERE %s), false)', k.own[1], k.others[1], into_.it, k.fits)
           ELSE pg_catalog.format('EXISTS (SELECT FROM %s p WHERE %s)', into_.it, k.fits) END)
         FROM pg_catalog.pg_constraint c
         JOIN LATERAL ({COLUMNS}) k ON true
         JOIN LATERAL (
           SELECT pg_catalog.concat(CASE WHEN t.relkind <> 'p' THEN 'ONLY ' END,
             t.oid::pg_catalog.regclass) AS it
           FROM pg_catalog.pg_class t WHERE t.oid = c.confrelid) into_ ON true
         WHERE c.contype = 'f' AND c.convalidated AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_constraint whole
           WHERE whole.oid = c.conparentid AND whole.conrelid = c.conrelid)
         AND c.conrelid IN ("
    )
    .into_bytes();
    sql.extend_from_slice(&tables.join(&b","[..]));
    sql.extend_from_slice(b") ORDER BY 1, 2");
    sql
}
