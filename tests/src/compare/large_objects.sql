-- Content, owner, rights and comment of every large object.
SELECT coalesce(json_object_agg(oid::text, concat_ws(' ',
    length(lo_get(oid)), 'bytes', md5(lo_get(oid)), 'owner', lomowner::regrole, 'acl',
    (SELECT string_agg(concat_ws('/', grantor::regrole, coalesce(nullif(grantee, 0)::regrole::text, 'public'),
                                 privilege_type, is_grantable), ' ' ORDER BY grantee::regrole::text, privilege_type)
     FROM aclexplode(coalesce(lomacl, acldefault('L', lomowner)))),
    'comment', obj_description(oid, 'pg_largeobject'))), '{}')
FROM pg_largeobject_metadata;
