#!/bin/sh
# Usage: debian_packages.sh [--root ARCHITECTURE] DEST SUITE PACKAGE...
# Downloads packages of a suite of Debian and unpacks them under DEST, with Debian's usual chain of trust
# (keyring -> InRelease -> Packages -> .deb) and without touching the system: no root rights, no installation, and
# all of apt's state in a temporary directory.  With --root they are those of another architecture, together with
# all that they depend on, so that an emulator can run their programs with DEST as its root.
set -eu

fail() { echo "$*" >&2; exit 1; }

architecture=
if [ "$1" = --root ]; then
  architecture=$2
  shift 2
fi
dest=$1
suite=$2
shift 2
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

for tool in apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || fail "not a Debian system ($tool is missing)"
done
# The Release files of Debian 13 and of the suite after it are signed with Debian 12's archive key too, so
# the keyring of any of them will do.
[ -r "$keyring" ] || fail "$keyring is missing; install debian-archive-keyring"

# The mirror this machine already uses. apt parses its own configuration, whatever its format
# (sources.list or deb822 .sources) and lists what it would fetch; this downloads nothing. The
# entry we want is the one of the running release itself, because its siblings (security,
# third-party repositories) do not carry other suites.
codename=$(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-sid}") ||
  fail "not a Debian system (ID in /etc/os-release)"
mirror=$(apt-get update --print-uris 2>/dev/null |
  sed -n "s|^'\(.*\)/dists/$codename/InRelease' .*|\1|p" | head -n 1)
[ -n "$mirror" ] || fail "apt has no source for Debian $codename on this machine"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/state/lists/partial" "$tmp/cache/archives/partial"
echo "deb [signed-by=$keyring target=Packages] $mirror $suite main" >"$tmp/sources.list"

# Read after the system's configuration, whose proxy and authentication settings stay in force.
cat >"$tmp/apt.conf" <<EOF
Dir::State "$tmp/state";
Dir::State::status "/dev/null";
Dir::Cache "$tmp/cache";
Dir::Etc::SourceList "$tmp/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
# Hooks of the system would act on the system's caches.
#clear APT::Update;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
Acquire::AllowInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
APT::Get::AllowUnauthenticated "false";
# apt's own download user cannot write to a temporary directory that belongs to us.
APT::Sandbox::User "";
EOF
if [ -n "$architecture" ]; then
  cat >>"$tmp/apt.conf" <<EOF
APT::Architecture "$architecture";
#clear APT::Architectures;
APT::Architectures { "$architecture"; };
APT::Install-Recommends "false";
EOF
fi

cd "$tmp"
apt-get -c "$tmp/apt.conf" -qq update >&2 || fail "apt-get update failed for $mirror $suite"
if [ -n "$architecture" ]; then
  apt-get -c "$tmp/apt.conf" -qq -y --download-only install "$@" >&2 ||
    fail "apt-get install $* failed for $mirror $suite on $architecture"
  mv cache/archives/*.deb .
else
  apt-get -c "$tmp/apt.conf" -qq download "$@" >&2 || fail "apt-get download $* failed for $mirror $suite"
fi
mkdir -p "$dest"
for package in *.deb; do
  dpkg-deb -x "$package" "$dest"
done
