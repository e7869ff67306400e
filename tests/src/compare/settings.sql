-- The same text for the same value on both sides.
SET search_path = pg_catalog;
SET timezone = 'UTC';
SET datestyle = ISO;
SET intervalstyle = postgres;
SET bytea_output = hex;
SET extra_float_digits = 3;
SET row_security = off;
SET statement_timeout = '280s';
