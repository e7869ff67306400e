-- A count and two sums of hashes for every table and materialised view: the order of rows does not
-- matter, repetitions do. Below a hash partitioning rows are looked at through its root, as the
-- hash of a row may be another one in the copy. Foreign tables are not read.
WITH relation AS (
    SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relkind
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
      AND c.relpersistence <> 't'
      AND (c.relkind = 'r' OR c.relkind = 'm' AND c.relispopulated
           OR c.relkind = 'p' AND NOT c.relispartition AND NOT EXISTS (
              SELECT FROM pg_partition_tree(c.oid) leaf JOIN pg_class f ON f.oid = leaf.relid
              WHERE f.relkind = 'f'))
      AND NOT EXISTS (
          SELECT FROM pg_partition_ancestors(c.oid) above
          JOIN pg_partitioned_table p ON p.partrelid = above.relid
          WHERE p.partstrat = 'h' AND above.relid <> c.oid)
), counted AS (
    SELECT name, query_to_xml(format(
        $q$SELECT count(*) || ' rows, sum '
              || coalesce(sum(('x' || left(md5("fk row"::text), 16))::bit(64)::bigint::numeric), 0)
              || coalesce(sum(('x' || right(md5("fk row"::text), 16))::bit(64)::bigint::numeric), 0)
              AS f FROM %s %s AS "fk row"$q$,
        CASE WHEN relkind = 'p' THEN '' ELSE 'ONLY' END, name), false, true, '') AS found
    FROM relation
)
SELECT coalesce(json_object_agg(name, (xpath('//f/text()', found))[1]::text), '{}') FROM counted;
