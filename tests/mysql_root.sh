#!/usr/bin/env bash
# Unpacks Debian's MySQL server with all that it needs, its C library too, into a new folder. Nothing is installed.
#
#   tests/mysql_root.sh DIRECTORY [SUITE]
#   HEADRACE_TEST_MYSQL_ROOT=DIRECTORY pytest tests/ingress/mysql connectors/headrace-mysql
#
# MySQL is in no stable release of Debian, only in its unstable suite, `sid`. The mirror is the one that this machine's
# apt uses, and its keys are apt's. Needs apt, dpkg-deb and about 400 MB.
set -euo pipefail

root=${1:?the folder to make} suite=${2:-sid}
test ! -e "$root" || { echo "$root is there already" >&2; exit 1; }
mirror=$(apt-get indextargets --format '$(ORIGIN) $(SITE)' | awk '$1 == "Debian" && $2 !~ /security/ { print $2; exit }')
test -n "$mirror" || { echo "this machine's apt has no mirror of Debian" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work"/{state/lists/partial,cache/archives/partial,parts}
# Without any package in its list apt fetches the whole closure.
: > "$work/status"
key=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$key] $mirror $suite main" > "$work/sources.list"
apt=(apt-get -qq -o Dir::State="$work/state" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache"
  -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts="$work/parts")
"${apt[@]}" update
"${apt[@]}" install --download-only --yes --no-install-recommends mysql-server-core

# Before the packages: they all put their files below /usr.
mkdir -p "$root/usr/lib" "$root/usr/lib64"
ln -s usr/lib "$root/lib" && ln -s usr/lib64 "$root/lib64"
for package in "$work"/cache/archives/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar --extract --keep-directory-symlink --directory "$root"
done
chmod 755 "$root"
echo "$root"
