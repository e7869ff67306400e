-- A day of business: one percent of the rows change or are new, and they are the recent ones.
\set ON_ERROR_STOP on
SET client_encoding = 'UTF8';
\c shop
SET ROLE shop_owner;
UPDATE orders SET state = 'sent', note = 'sent today' WHERE id > 350000 - 2600;
INSERT INTO orders SELECT i, 1 + i % 60000, 'new', timestamptz '2026-11-20 00:00+00' + i % 1000 * interval '1 minute' FROM generate_series(350001, 351000) i;
INSERT INTO order_lines SELECT i, l, 1 + (i * 7 + l) % 5000, 1, 19.95 FROM generate_series(350001, 351000) i, generate_series(1, 3) l;
UPDATE order_lines SET quantity = quantity + 1 WHERE order_id > 350000 - 2600;
INSERT INTO customers (email, name, city, since) SELECT 'new' || i || '@example.com', 'New ' || i, 'Oslo', '2026-11-20' FROM generate_series(1, 600) i;
SELECT count(nextval('invoice_number')) FROM generate_series(1, 1000);
REFRESH MATERIALIZED VIEW sales_by_month;
\c events
SET ROLE shop_owner;
INSERT INTO events
SELECT (to_char(i, 'FM00000000') || substr(md5(i::text), 9))::uuid, timestamptz '2026-11-20 00:00+00' + i % 5000 * interval '17 seconds',
       i % 60000, 'view', jsonb_build_object('page', '/', 'ms', i % 1931)
FROM generate_series(500001, 505000) i;
\c pictures
SET ROLE shop_owner;
INSERT INTO pictures SELECT i, 'product-' || i || '.webp', lo_from_bytea(0, decode(string_agg(md5((i * 10000 + k)::text), ''), 'hex'))
FROM generate_series(301, 303) i, generate_series(1, 5000) k GROUP BY i;
