#!/bin/sh
# Ask an advisory database about every pin of the locks, by pip-audit: `make audit`.
# Exit status: 0 nothing is known against them, 1 something is, 2 they could not be checked.
set -u
cd "$(dirname "$0")" || exit 2

audit() { uv tool run pip-audit --progress-spinner off --strict --disable-pip "$@" 2>&1; }

# An index without advisories knows nothing against any pin. This one has been known as vulnerable since 2021.
known=$(mktemp) && trap 'rm -f "$known"' EXIT
echo "jinja2==2.11.2" >"$known"
said=$(audit --no-deps -r "$known")
case $said in
*"known vulnerabilit"*"jinja2"*) ;;
*)
    echo "error: no pin was checked, since pip-audit reaches no advisory database here: $(echo "$said" | tail -n 1)" >&2
    exit 2
    ;;
esac
status=0
for lock in mini trackio trl verl-cpu gpu gpu-cu12 gpu-verl smollm2 r1-tokenizer; do
    echo "envs/$lock.txt:"
    audit --require-hashes -r "$lock.txt" || status=1
done
exit $status
