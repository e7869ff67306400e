-- Attributes, memberships, settings and comments of every role. $OPTIONS: more about memberships.
SELECT json_object_agg(rolname, concat_ws(' ',
    (to_jsonb(r) - 'oid')::text,
    (SELECT string_agg('in ' || roleid::regrole || ' admin ' || admin_option $OPTIONS, ' ' ORDER BY roleid::regrole::text)
     FROM pg_auth_members WHERE member = r.oid),
    (SELECT array_agg(setting ORDER BY setting)::text FROM pg_db_role_setting, unnest(setconfig) AS setting
     WHERE setrole = r.oid AND setdatabase = 0),
    shobj_description(r.oid, 'pg_authid')))
FROM pg_authid r WHERE rolname !~ '^pg_';
