#!/bin/sh
# Starts the PostgreSQL program of the same name with the loader and the libraries that lie beside it, so that
# nothing of the system's is used: it may have none, or older ones. Needs no program but this shell,
# which pg_dumpall needs in any case, to ask pg_dump for its version.
here=${0%/*}
[ "$here" != "$0" ] || here=.
loader=$here/lib/ld-linux-x86-64.so.2
program=$here/libexec/${0##*/}
if ! [ -f "$program" ] || ! [ -f "$loader" ]; then
  echo "$0: ${program} or ${loader} is missing; this file works only where the package put it" >&2
  exit 127
fi
# What is meant for the system's programs would be loaded into another libc.
unset LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT LOCPATH GCONV_PATH
# The system's configuration may name modules of another OpenSSL.
: "${OPENSSL_CONF:=/dev/null}"
export OPENSSL_CONF
# sslrootcert=system: what the system trusts, or what it is told to; Mozilla's list if it has none.
if [ "${PGSSLROOTCERT:-}" = system ] && [ -z "${SSL_CERT_FILE:-}${SSL_CERT_DIR:-}" ]; then
  for SSL_CERT_FILE in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt \
    /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem "$here/ca-certificates.crt"; do
    [ ! -r "$SSL_CERT_FILE" ] || break
  done
  export SSL_CERT_FILE
fi
exec "$loader" --inhibit-cache --library-path "$here/lib" --argv0 "$0" "$program" "$@"
