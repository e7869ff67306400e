-- What belongs to the database named $NAME itself.
SELECT json_strip_nulls(json_build_object(
    'owner', datdba::regrole::text, 'encoding', pg_encoding_to_char(encoding),
    'collate', datcollate, 'ctype', datctype, 'template', datistemplate::text,
    'connections', datallowconn::text || datconnlimit::text,
    'comment', shobj_description(oid, 'pg_database'),
    'acl', (SELECT string_agg(concat_ws('/', grantor::regrole, coalesce(nullif(grantee, 0)::regrole::text, 'public'),
                                        privilege_type, is_grantable), ' ' ORDER BY grantee::regrole::text, privilege_type)
            FROM aclexplode(coalesce(datacl, acldefault('d', datdba)))),
    'settings', (SELECT string_agg(concat_ws(' ', nullif(setrole, 0)::regrole, setconfig), ' ' ORDER BY setrole::regrole::text)
                 FROM pg_db_role_setting WHERE setdatabase = d.oid)))
FROM pg_database d WHERE datname = $NAME;
