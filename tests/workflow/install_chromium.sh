#!/bin/sh
# Install the Debian package in which tests/workflow/test_report_browser.py opens the report.
# Exits 0 where that is impossible (not root, no apt-get, no network), with the reason: the test then skips with its own.
set -u

say() { printf 'tests/workflow: %s\n' "$1" >&2; }

command -v chromium >/dev/null && { say "chromium is installed"; exit 0; }
[ "$(id -u)" -eq 0 ] || { say "not root: run 'sudo apt-get install chromium' yourself, or the browser's test is skipped"; exit 0; }
command -v apt-get >/dev/null || { say "no apt-get here: install chromium yourself, or the browser's test is skipped"; exit 0; }

say "installing chromium"
export DEBIAN_FRONTEND=noninteractive
if apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; then
    say "installed"
else
    say "apt-get could not install chromium (no network?): the browser's test is skipped"
fi
