"""Two jobs inside one allocation of several GPUs, as `salloc` gives, get different ones of its own."""

import subprocess
import sys


def test_jobs_in_one_allocation_get_different_gpus_of_it(cluster, tmp_path):
    leased = f"{sys.executable} -m justrl gpus --count 1 --"
    one = f"{leased} sh -c 'echo $CUDA_VISIBLE_DEVICES; sleep 5'"
    script = f"export JUSTRL_GPU_LOCKS={tmp_path}; echo $CUDA_VISIBLE_DEVICES; {one} & {one} & wait"
    request = ["srun", "--ntasks=1", "--gpus=2", "--cpus-per-task=2", "--mem=2G", "--time=5"]
    other = subprocess.Popen([*request, "sleep", "20"])
    try:
        done = subprocess.run([*request, "sh", "-c", script], capture_output=True, text=True, timeout=120, check=True)
        granted, *ours = done.stdout.split()
        assert sorted(ours) == sorted(granted.split(",")) and len(ours) == 2
        # More than the allocation has is refused, never taken from elsewhere.
        many = [*request, sys.executable, "-m", "justrl", "gpus", "--count", "3", "--", "true"]
        refused = subprocess.run(many, capture_output=True, text=True, timeout=120)
        assert refused.returncode != 0 and "3 GPUs requested, 2 visible" in refused.stderr
    finally:
        other.terminate()
        other.wait()
