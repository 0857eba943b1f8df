#!/bin/sh
# Write the locks again from their .in files; what is pinned in them stays as it is unless a file asks otherwise.
# PIP_FIND_LINKS must name a folder with torch's CPU build, or mini, verl-cpu and trl get CUDA's packages, which torch's
# other build asks for. torch itself is in no lock but in files of its own, each build by its hashes (install.sh says which when).
set -eu
cd "$(dirname "$0")"
: "${PIP_FIND_LINKS:?a folder with the CPU build of torch}"

lock() {
    name=$1
    shift
    uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-emit-package torch \
        --no-emit-find-links --output-file "$name.txt" "$name.in" "$@" >/dev/null
}

lock mini --find-links "$PIP_FIND_LINKS"
lock trackio
# Only what no other lock has: it is added to an environment that there is.
lock tasks --no-deps
# With what mini has, so that the two engines of the bench differ in themselves alone.
lock trl --find-links "$PIP_FIND_LINKS" --constraint mini.txt
lock verl-cpu --find-links "$PIP_FIND_LINKS" --override overrides.txt
lock gpu --override overrides-gpu.txt --python-platform x86_64-manylinux_2_28
lock gpu-verl --override overrides-gpu-verl.txt --python-platform x86_64-manylinux_2_28
lock gpu-cu12 --override overrides-gpu-cu12.txt --python-platform x86_64-manylinux_2_28

pins() { echo "torch==$1" | uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-deps -; }

version=$(sed -n 's/^torch==//p' mini.in)
{
    echo "# torch's CPU build for CPython 3.11 on x86-64 Linux."
    pip hash "$PIP_FIND_LINKS/torch-$version+cpu-cp311-cp311-"*x86_64.whl | sed -n "s/^--hash/torch==$version \\\\\n    --hash/p"
} >torch-cpu.txt
{
    echo "# torch as the registry has it: for Linux its CUDA builds, for other systems CPU builds."
    pins "$version"
} >torch.txt
for name in gpu-cu12 gpu-verl; do
    {
        echo "# torch for $name.txt, as the registry has it."
        pins "$(sed -n 's/^torch==//p' "$name.in")"
    } >"torch-$name.txt"
done
