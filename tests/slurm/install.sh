#!/bin/sh
# Install the Debian packages that the Slurm tests start by hand; nothing is enabled or left running.
# Exits 0 where that is impossible (not root, no apt-get, no network), with the reason: the tests then skip with theirs.
set -u
packages="slurmctld slurmd slurm-client munge slurmdbd mariadb-server-core"

say() { printf 'tests/slurm: %s\n' "$1" >&2; }

missing=""
for package in $packages; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -z "$missing" ] && { say "Slurm is installed"; exit 0; }
[ "$(id -u)" -eq 0 ] || { say "not root: run 'sudo apt-get install$missing' yourself, or the Slurm tests are skipped"; exit 0; }
command -v apt-get >/dev/null || { say "no apt-get here: install$missing yourself, or the Slurm tests are skipped"; exit 0; }

say "installing$missing"
# The packages' own services must not start: the tests run their own daemons with their own state.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
if apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null; then
    say "installed"
else
    say "apt-get could not install$missing (no network?): the Slurm tests are skipped"
fi
