#!/bin/bash
# aptroot.sh SUITE DIR PKG...: unpacks Debian packages of SUITE and all that they depend on, their
# libc too, into DIR, which must not exist. The system stays as it is and no root is needed.
# The mirror, its proxy and its certificates are the ones that this machine's apt already uses.
# ELF programs under usr/lib/postgresql are bound to the unpacked loader and libraries, by
# absolute path: DIR can't be moved afterwards. With APTROOT_AS_IS=yes they stay as they are, and
# DIR/packages.txt has package, version, source and its version of what was unpacked, and
# DIR/listings the files of each package. With APTROOT_SOURCE=yes, DIR gets only the original
# source archive of the source packages PKG.
# Needs apt, dpkg-deb and patchelf.
set -euo pipefail
die() { echo "aptroot: $*" >&2; exit 1; }
[ $# -ge 3 ] || die "usage: aptroot.sh SUITE DIR PKG..."
suite=$1 dir=$2; shift 2
[ ! -e "$dir" ] || die "$dir exists already"
. /etc/os-release

# The archive that the system's own release comes from: the release's name tells it from
# third-party lists, and security updates are a suite of another name.
mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
  awk -v want="${VERSION_CODENAME:-}" '$1 == want && $2 == "main" && !n++ {print $3}')
[ -n "$mirror" ] || die "apt's configuration has no mirror for ${VERSION_CODENAME:-this release}"
signed_by=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$signed_by" ] || die "no key to check packages with: $signed_by (package debian-archive-keyring)"

mkdir -p "$dir"; dir=$(cd "$dir" && pwd); state=$dir/.apt
mkdir -p "$state"/{etc/apt/apt.conf.d,etc/apt/preferences.d,log} \
  "$state"/var/{lib/apt/lists/partial,lib/dpkg,cache/apt/archives/partial}
touch "$state/var/lib/dpkg/status"
kind=deb
[ "${APTROOT_SOURCE:-no}" != yes ] || kind=deb-src
echo "$kind [signed-by=$signed_by] $mirror $suite main" >"$state/etc/apt/sources.list"
# Named by the environment, it is read before the system's own configuration and keeps that out,
# with what it runs after a download; of that only how to reach the mirror is taken over. Ours
# alone, as a proxy's address may hold a password.
reach=$(apt-config dump | grep -E '^Acquire::(http|https|Check-Valid-Until)' | grep -v '::Timeout' || true)
(umask 077; cat >"$state/apt.conf") <<CONF
Dir "$state";
Dir::State "$state/var/lib/apt";
Dir::State::status "$state/var/lib/dpkg/status";
Dir::Cache "$state/var/cache/apt";
Dir::Log "$state/log";
Dir::Etc "$state/etc/apt";
APT::Install-Recommends "false";
APT::Sandbox::User "$(id -un)";
$reach
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
CONF
export APT_CONFIG=$state/apt.conf
# apt's own exit code is 0 when a list could not be had; --error-on=any makes it honest.
apt-get -qq --error-on=any update
if [ "$kind" = deb-src ]; then
  (cd "$dir" && apt-get -qq source --download-only --tar-only "$@") >/dev/null
  rm -rf "$state"
  exit 0
fi
apt-get -qq -y --download-only install "$@" >/dev/null
for deb in "$state"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$deb" "$dir"; done
if [ "${APTROOT_AS_IS:-no}" = yes ]; then
  mkdir "$dir/listings"
  for deb in "$state"/var/cache/apt/archives/*.deb; do
    dpkg-deb -W --showformat '${Package} ${Version} ${source:Package} ${source:Version}\n' "$deb"
    dpkg-deb --fsys-tarfile "$deb" | tar -t | sed 's|^\.||' >"$dir/listings/$(dpkg-deb -f "$deb" Package).list"
  done | sort >"$dir/packages.txt"
  rm -rf "$state"
  exit 0
fi
rm -rf "$state"

loader=$(find "$dir"/usr/lib* "$dir"/lib* -name 'ld-linux-*.so.*' -print -quit 2>/dev/null || true)
[ -n "$loader" ] || die "the packages brought no loader"
# Older releases have /lib beside /usr/lib, and the libraries are spread over both.
libs=$(find "$dir" \( -name libc.so.6 -o -name libz.so.1 -o -name libxml2.so.\* \) -printf '%h\n' | sort -u | paste -sd:)
for bin in "$dir"/usr/lib/postgresql/*/bin/*; do
  [ "$(head -c4 "$bin" | tr -d '\0')" = $'\x7fELF' ] || continue
  patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libs" "$bin"
done
