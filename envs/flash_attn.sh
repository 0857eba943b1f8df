#!/bin/sh
# flash-attn, compiled for the GPU that is here against the torch of a virtual environment.
#   sh envs/flash_attn.sh check          for which GPU, and for how long? Refuses where nobody can know.
#   sh envs/flash_attn.sh fetch FOLDER   its source, by its hash: needs a network, neither GPU nor compiler
#   sh envs/flash_attn.sh build FOLDER   needs no network; an interrupted one goes on with the files that are missing
# GPU_ARCH   compute capability of the GPUs to come (90 or 9.0); default: those of this machine
# MAX_JOBS   files compiled at once; default: from cores and memory
# CUDA_HOME  the CUDA toolkit; default: the environment's own, else the one of the nvcc on PATH, else /usr/local/cuda
set -eu
task=$1 folder=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
# One file for one architecture, measured: up to 161 s of a processor, 4.9 GB.
files=73 seconds=161 megabytes=4900

fail() { echo "flash-attn: $*" >&2; exit 1; }

architectures() {
    capabilities=${GPU_ARCH:-}
    [ -n "$capabilities" ] || capabilities=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>&1) || \
        fail "no GPU is here ($capabilities), so it is not known for which one to compile, and this may be a" \
        "login node, where hours of compiling are not welcome. On a GPU node: srun --gpus=1 --cpus-per-task=16 --mem=96G" \
        "--time=2:00:00 make gpu-env; here all the same, for example for H100: make gpu-env GPU_ARCH=90; without" \
        "flash-attn, with hardware.attention: sdpa in the configuration: make gpu-env ATTENTION=sdpa"
    archs=
    for capability in $(echo "$capabilities" | tr -d '.' | tr ',;' '  '); do
        case $capability in
            8?) archs="$archs 80" ;;
            90) archs="$archs 90" ;;
            10?) archs="$archs 100" ;;
            12?) archs="$archs 120" ;;
            *) fail "compute capability $capability: version $version is for 8.x, 9.0, 10.x and 12.x alone; go without it:" \
                "make gpu-env ATTENTION=sdpa, and hardware.attention: sdpa in the configuration" ;;
        esac
    done
    printf '%s\n' $archs | sort -nu | paste -sd ';'
}

# The least of what is free, what Slurm granted and what the control group allows, in MB.
memory() {
    group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/memory.max
    {
        awk '/^MemAvailable/ {print int($2 / 1024)}' /proc/meminfo
        echo "${SLURM_MEM_PER_NODE:-}"
        echo "$((${SLURM_MEM_PER_CPU:-0} * ${SLURM_CPUS_ON_NODE:-0}))"
        [ ! -r "$group" ] || awk '/^[0-9]/ {print int($1 / 1048576)}' "$group"
    } | awk '$1 > 0' | sort -n | head -n 1
}

plan() {
    cores=$(nproc)
    fitting=$(($(memory) / megabytes))
    jobs=${MAX_JOBS:-$((cores < fitting ? cores : fitting))}
    [ "$jobs" -ge 1 ] || fail "$(memory) MB of memory are to be had, one file takes $megabytes: ask for --mem=96G"
    total=$((files * seconds * $(echo "$1" | tr ';' '\n' | wc -l)))
    echo "flash-attn $version for compute capability $1: $files files, at most $((total / 3600)) h $((total % 3600 / 60)) min" \
        "of processor time; $jobs at once ($cores cores, $(memory) MB): about $((total / jobs / 60 + 1)) minutes."
}

fetch() {
    [ ! -d "$tree" ] || return 0
    # pip asks the package for its name, for which it imports torch and nothing is compiled.
    PATH=$folder/bin:$PATH FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE "$folder/bin/python" -m pip download --quiet --no-deps \
        --no-binary :all: --no-build-isolation --require-hashes --dest "$folder/src" -r "$here/flash-attn.txt"
    rm -rf "$folder/src/unpacking" && mkdir "$folder/src/unpacking"
    tar -xzf "$folder/src/flash_attn-$version.tar.gz" -C "$folder/src/unpacking"
    mv "$folder/src/unpacking/flash_attn-$version" "$tree" && rmdir "$folder/src/unpacking"
}

# torch refuses a compiler of another major version than its own CUDA, after a minute and with a traceback.
toolkit() {
    own=$("$folder/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")/nvidia/cu13
    found=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
    [ ! -x "$own/bin/nvcc" ] || found=$own/bin/nvcc
    CUDA_HOME=${CUDA_HOME:-${found%/bin/nvcc}}
    wanted=$("$folder/bin/python" -c "import torch; print(torch.version.cuda or '')")
    [ -n "$wanted" ] || fail "torch in $folder is a CPU build: make the environment anew without PIP_FIND_LINKS"
    said=$("$CUDA_HOME/bin/nvcc" --version 2>&1) || fail "$CUDA_HOME/bin/nvcc does not run ($said): load the cluster's" \
        "module (module load cuda/$wanted) or set CUDA_HOME"
    nvcc=$(printf '%s\n' "$said" | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
    [ "${nvcc%%.*}" = "${wanted%%.*}" ] || fail "torch is built for CUDA $wanted and $CUDA_HOME/bin/nvcc is ${nvcc:-not" \
        "known by its version}: load the cluster's module (module load cuda/$wanted) or set CUDA_HOME"
    command -v "${CXX:-g++}" >/dev/null || fail "no C++ compiler (g++): install one, or load the cluster's module"
    export CUDA_HOME
    # The linker looks for the name without a version, which the registry's CUDA lacks.
    mkdir -p "$folder/src/lib"
    for library in "$CUDA_HOME"/lib/libcudart.so.*; do
        [ ! -e "$library" ] || ln -sf "$library" "$folder/src/lib/libcudart.so"
    done
    export LIBRARY_PATH="$folder/src/lib${LIBRARY_PATH:+:$LIBRARY_PATH}"
}

build() {
    fetch
    toolkit
    # ninja, which goes on where it was, is found on PATH alone; FORCE_BUILD: else a wheel is fetched past any hash.
    PATH=$folder/bin:$PATH FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS=$1 MAX_JOBS=$jobs NVCC_THREADS=1 \
        "$folder/bin/python" -m pip wheel --quiet --no-deps --no-index --no-build-isolation \
        --wheel-dir "$folder/src" "$tree"
    "$folder/bin/python" -m pip install --quiet --no-deps --no-index "$folder"/src/flash_attn-"$version"-*.whl
    "$folder/bin/python" -c "import flash_attn"
}

version=$(sed -n 's/^flash-attn==\([^ ]*\).*/\1/p' "$here/flash-attn.txt")
[ -z "$folder" ] || folder=$(cd "$folder" && pwd)
tree=$folder/src/flash_attn-$version
case $task in
    fetch) fetch ;;
    check) archs=$(architectures) && plan "$archs" ;;
    build) archs=$(architectures) && plan "$archs" && build "$archs" ;;
    *) fail "no such task: $task" ;;
esac
