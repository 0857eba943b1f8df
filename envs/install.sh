#!/bin/sh
# Make a virtual environment: torch, then everything of a lock, then this project.
#   sh envs/install.sh FOLDER LOCK [PROJECT...]
# PYTHON  the Python that makes it, 3.11 or 3.12 (default: python3.11)
# TORCH   another torch than that of torch.txt (of torch-gpu-cu12.txt for that lock), whose hashes are not checked then.
#         It is installed first and apart from the lock: its CPU and CUDA builds carry one version and different hashes.
# UV      the uv to install with; empty: pip. Unset: the one on PATH, else the one that the lock names, by pip.
# Modules are compiled when they are first imported: most never are.
set -eu
unset PYTHONDONTWRITEBYTECODE
folder=$1 lock=$2
shift 2
python=$folder/bin/python
pins=envs/torch-$(basename "$lock")
[ -f "$pins" ] || pins=envs/torch.txt

pip() { "$python" -m pip install --quiet --disable-pip-version-check --no-compile "$@"; }

bootstrap_uv() {
    sed -n '/^uv==/,/# via/p' "$lock" >"$folder/uv.txt"
    pip --require-hashes --no-deps -r "$folder/uv.txt" >&2 && echo "$folder/bin/uv"
}

# uv knows nothing of pip's settings (a mirror, a proxy's certificates): what it cannot get, pip may.
install() { { [ -n "$uv" ] && "$uv" pip install --quiet --python "$python" "$@"; } || pip "$@"; }

say() { echo "envs/install.sh: $1" >&2; }

maker=${PYTHON:-python3.11}
wanted="install Python 3.11 or 3.12 and name it, as in \`make mini PYTHON=python3.12\`"
version=$("$maker" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version=
case $version in
    3.11 | 3.12) ;;
    "") say "$maker is not here, or does not start: $wanted" && exit 2 ;;
    *) say "$maker is Python $version, for which the locked packages are not made: $wanted" && exit 2 ;;
esac

"$maker" -m venv "$folder"
uv=${UV-$(command -v uv || bootstrap_uv)}
# A folder with the CPU build, where there is one, is what is meant: pip would rather take a file that has its hash in the
# registry. By pip: uv knows no hash of a version with a local part ("+cpu"). Of other Pythons' builds no hash is known.
configured=$("$python" -m pip config list)
tag=cp$(echo "$version" | tr -d .)
for folder_of_wheels in ${PIP_FIND_LINKS:-$(echo "$configured" | sed -n "s/^[a-z]*\.find-links='\(.*\)'$/\1/p")}; do
    case $lock in *gpu*) continue ;; esac
    for wheel in "$folder_of_wheels"/torch-*+cpu-"$tag"-*.whl; do
        [ -f "$wheel" ] || continue
        if grep -q "sha256:$(sha256sum "$wheel" | cut -c 1-64)\$" envs/torch-cpu.txt; then pins=envs/torch-cpu.txt; fi
    done
    if [ "$pins" != envs/torch-cpu.txt ] && ls "$folder_of_wheels"/torch-*+cpu-*.whl >/dev/null 2>&1; then
        say "no torch in $folder_of_wheels is the CPU build for Python $version in envs/torch-cpu.txt: $pins is installed"
    fi
done
# PyTorch's own index of CPU builds, whose address uv knows. The version names the local part here: uv looks for its hash.
cpu_build() {
    [ -n "$uv" ] && [ "$tag" = cp311 ] && [ "$(uname -sm)" = "Linux x86_64" ] || return 1
    sed 's/^torch==[^ ]*/&+cpu/' envs/torch-cpu.txt >"$folder/torch.txt"
    "$uv" pip install --quiet --python "$python" --torch-backend=cpu --require-hashes --no-deps -r "$folder/torch.txt" \
        2>/dev/null
}
registry_build() {
    case $lock:$pins in
        *gpu*) ;;
        *:envs/torch.txt) say "torch comes from the package registry: on Linux its CUDA build, about 3 GB to download" ;;
    esac
    pip --require-hashes --no-deps -r "$pins"
}
if [ -n "${TORCH:-}" ]; then
    pip --no-deps "$TORCH"
else
    case $lock:$pins in
        *gpu* | *:envs/torch-cpu.txt) registry_build ;;
        *) cpu_build || registry_build ;;
    esac
fi
install --require-hashes --no-deps -r "$lock"
# CUDA's libraries, which torch's CUDA build asks for and the locks for a CPU lack: by the versions that torch names.
pip "torch==$("$python" -c 'from importlib.metadata import version; print(version("torch"))')"
for project in "$@"; do install --no-deps --no-build-isolation "$project"; done
install --no-deps --no-build-isolation --editable .
# What nearly every job imports is compiled now, by importing it, side by side.
"$python" -c "import transformers.models.qwen2.modeling_qwen2" &
if grep -q '^snakemake==' "$lock"; then
    "$python" -c "import snakemake.cli, pandas, pyarrow.parquet, matplotlib.pyplot, scipy.stats"
fi
wait $!
