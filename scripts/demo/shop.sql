-- A small shop with three databases and about 300 MB: sales, what visitors did, and pictures.
\set ON_ERROR_STOP on
SET client_encoding = 'UTF8';
CREATE ROLE shop_owner;
CREATE ROLE shop_app LOGIN PASSWORD 'only a demo';
CREATE ROLE shop_analyst LOGIN CONNECTION LIMIT 5;
CREATE ROLE shop_readers;
GRANT shop_readers TO shop_app, shop_analyst;
ALTER ROLE shop_analyst SET work_mem = '32MB';
CREATE DATABASE shop OWNER shop_owner TEMPLATE template0;
CREATE DATABASE events OWNER shop_owner TEMPLATE template0;
CREATE DATABASE pictures OWNER shop_owner TEMPLATE template0;
COMMENT ON DATABASE shop IS 'customers, products and orders';
ALTER DATABASE events SET timezone = 'Europe/Berlin';

\c shop
SET ROLE shop_owner;
CREATE TYPE order_state AS ENUM ('new', 'paid', 'sent', 'returned');
CREATE TABLE customers (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email      text NOT NULL UNIQUE,
    name       text NOT NULL,
    city       text NOT NULL,
    since      date NOT NULL
);
CREATE TABLE products (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL,
    price      numeric(10, 2) NOT NULL CHECK (price > 0),
    attributes jsonb NOT NULL
);
CREATE TABLE orders (
    id         bigint NOT NULL,
    customer   bigint NOT NULL,
    state      order_state NOT NULL DEFAULT 'new',
    ordered_at timestamptz NOT NULL,
    note       text,
    PRIMARY KEY (id, ordered_at)
) PARTITION BY RANGE (ordered_at);
SELECT format('CREATE TABLE orders_%s PARTITION OF orders FOR VALUES FROM (%L) TO (%L)',
              to_char(m, 'YYYY_MM'), m::date, (m + interval '1 month')::date)
FROM generate_series(timestamp '2025-01-01', '2026-12-01', '1 month') m \gexec
CREATE TABLE order_lines (
    order_id   bigint NOT NULL,
    line       smallint NOT NULL,
    product    integer NOT NULL,
    quantity   smallint NOT NULL,
    price      numeric(10, 2) NOT NULL
);
CREATE SEQUENCE invoice_number START 100000;

INSERT INTO customers (email, name, city, since)
SELECT lower(first || '.' || last || i) || '@example.com', first || ' ' || last,
       (ARRAY['Berlin', 'Zürich', 'Kraków', 'Lisboa', 'Malmö', 'Paris', 'Århus'])[1 + i % 7],
       date '2019-01-01' + i % 2500
FROM generate_series(1, 60000) i, LATERAL (SELECT
       (ARRAY['Ada', 'Björn', 'Chloé', 'Dmitri', 'Elif', 'Fatma', 'Grace', 'Hugo', 'İnci'])[1 + i % 9] AS first,
       (ARRAY['Kowalski', 'Müller', 'Nguyen', 'Okafor', 'Silva', 'Smith', 'Tanaka'])[1 + i / 9 % 7] AS last) n;
INSERT INTO products (name, price, attributes)
SELECT (ARRAY['Lamp', 'Chair', 'Desk', 'Shelf', 'Rug', 'Clock'])[1 + i % 6] || ' no. ' || i, 5 + i % 400 + 0.95,
       jsonb_build_object('colour', (ARRAY['red', 'oak', 'black', 'sand'])[1 + i % 4], 'weight_kg', i % 37 / 2.0,
                          'tags', jsonb_build_array('t' || i % 11, 't' || i % 13), 'text', repeat(md5(i::text) || ' ', 8))
FROM generate_series(1, 5000) i;
INSERT INTO orders
SELECT i, 1 + (hashint8(i) & 32767), (ARRAY['sent', 'sent', 'sent', 'returned', 'paid'])[1 + i % 5]::order_state,
       timestamptz '2025-01-01 00:00+00' + i * interval '170 seconds', CASE WHEN i % 9 = 0 THEN 'please ring twice, ' || md5(i::text) END
FROM generate_series(1, 350000) i;
INSERT INTO order_lines
SELECT i, l, 1 + abs(hashint8(i * 5 + l)) % 5000, 1 + l % 3, 5 + abs(hashint8(i + l)) % 40000 / 100.0
FROM generate_series(1, 350000) i, generate_series(1, 1 + i % 4) l;
ALTER TABLE orders ADD FOREIGN KEY (customer) REFERENCES customers;
ALTER TABLE order_lines ADD PRIMARY KEY (order_id, line);
ALTER TABLE order_lines ADD FOREIGN KEY (product) REFERENCES products;
CREATE INDEX ON orders (customer);
CREATE INDEX ON products USING gin (attributes);
SELECT count(nextval('invoice_number')) FROM generate_series(1, 350);
CREATE MATERIALIZED VIEW sales_by_month AS
SELECT date_trunc('month', ordered_at) AS month, count(*) AS lines, sum(quantity * price) AS sales
FROM orders JOIN order_lines ON order_id = id GROUP BY 1;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO shop_readers;
GRANT INSERT, UPDATE ON customers, orders, order_lines TO shop_app;
COMMENT ON TABLE orders IS 'a partition for each month';

\c events
SET ROLE shop_owner;
CREATE TABLE events (
    id       uuid NOT NULL,
    at       timestamptz NOT NULL,
    customer bigint,
    kind     text NOT NULL,
    payload  jsonb NOT NULL
);
INSERT INTO events
SELECT (to_char(i, 'FM00000000') || substr(md5(i::text), 9))::uuid, timestamptz '2026-01-01 00:00+00' + i * interval '45.678 seconds',
       nullif(i % 60000, 0), (ARRAY['view', 'view', 'view', 'search', 'basket', 'pay'])[1 + i % 6],
       jsonb_build_object('page', '/product/' || abs(hashint4(i)) % 5000, 'ms', i % 1931, 'agent', 'agent/' || i % 17, 'session', md5((i / 9)::text))
FROM generate_series(1, 500000) i;
ALTER TABLE events ADD PRIMARY KEY (id);
CREATE INDEX ON events (at);
GRANT SELECT ON events TO shop_readers;

\c pictures
SET ROLE shop_owner;
CREATE TABLE pictures (product integer PRIMARY KEY, name text NOT NULL, image oid NOT NULL);
INSERT INTO pictures
SELECT i, 'product-' || i || '.webp', lo_from_bytea(0, decode(string_agg(md5((i * 10000 + k)::text), ''), 'hex'))
FROM generate_series(1, 300) i, generate_series(1, 3000 + i * 11) k GROUP BY i;
SELECT format('GRANT SELECT ON LARGE OBJECT %s TO shop_readers', image) FROM pictures \gexec
GRANT SELECT ON pictures TO shop_readers;
