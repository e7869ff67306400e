-- Where every sequence stands.
WITH counted AS (
    SELECT format('%I.%I', n.nspname, c.relname) AS name, query_to_xml(format(
        'SELECT last_value || '' called '' || is_called AS f FROM %I.%I', n.nspname, c.relname),
        false, true, '') AS found
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'S' AND c.relpersistence <> 't'
)
SELECT coalesce(json_object_agg(name, (xpath('//f/text()', found))[1]::text), '{}') FROM counted;
