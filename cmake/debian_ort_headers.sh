#!/bin/sh
# Usage: debian_ort_headers.sh DEST SUITE
# Downloads libonnxruntime-dev (about 100 kB) of a suite of Debian and unpacks it under DEST, with Debian's usual
# chain of trust (keyring -> InRelease -> Packages -> .deb) and without touching the system: no
# root, no installation, and all of apt's state in a temporary directory.
set -eu

fail() { echo "$*" >&2; exit 1; }

dest=$1
suite=$2
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

cd "$tmp"
apt-get -c "$tmp/apt.conf" -qq update >&2 || fail "apt-get update failed for $mirror $suite"
apt-get -c "$tmp/apt.conf" -qq download libonnxruntime-dev >&2 ||
  fail "apt-get download libonnxruntime-dev failed for $mirror $suite"
mkdir -p "$dest"
dpkg-deb -x libonnxruntime-dev_*.deb "$dest"
