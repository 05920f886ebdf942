"""What this machine gives to a run: cores, GPUs, ranks, how many array elements at once. No torch:
asked by a submit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

from qa_dist.cluster.submit import Place, gpu_names
from qa_dist.profile import Profile
from qa_dist.recipe import Recipe
from qa_dist.records import InputError

_USUAL_PARALLEL = 32
"""How many array elements a cluster may run at once where the profile doesn't say."""


def find_place(profile: Profile) -> Place:
    """Return what a profile takes of this machine, or asks of a cluster. Raises InputError if it
    asks for more than this machine has."""
    if profile.where == "slurm":
        ranks = profile.nodes * (profile.ranks_per_node or max(1, profile.gpus_per_node))
        parallel = profile.max_parallel or _USUAL_PARALLEL
        gpus = profile.nodes * profile.gpus_per_node
        return Place(ranks, gpus, parallel, profile.cpus_per_task or 1, profile.timeout_min)
    num_cores = len(os.sched_getaffinity(0))
    num_there = count_gpus()
    num_gpus = num_there if profile.gpus_per_node < 0 else profile.gpus_per_node
    if num_gpus > num_there:
        raise InputError(
            f"gpus_per_node={num_gpus}: this machine shows {num_there} GPUs (nvidia-smi -L); give "
            f"gpus_per_node={num_there}"
        )
    num_ranks = profile.ranks_per_node or max(1, num_gpus)
    if profile.where == "process":
        num_ranks, num_gpus = 1, min(num_gpus, 1)
    if num_gpus and num_ranks != num_gpus:
        raise InputError(
            f"ranks_per_node={num_ranks} with gpus_per_node={num_gpus}: each rank takes one GPU; "
            "give equal numbers, or gpus_per_node=0 to train on the CPU"
        )
    parallel = profile.max_parallel or num_cores
    return Place(num_ranks, num_gpus, parallel, num_cores, profile.timeout_min)


def check_ranks(recipe: Recipe, num_ranks: int) -> None:
    """Raise InputError if so many ranks can't share a recipe's steps, or if its engine isn't
    there."""
    train = recipe.train
    most = max(1, train.min_micro_batches_per_step)
    if num_ranks > most:
        raise InputError(
            f"train.min_micro_batches_per_step={most}: {num_ranks} ranks can't share a step "
            "that is cut into fewer micro-batches; give "
            f"train.min_micro_batches_per_step={num_ranks} (or fewer ranks)"
        )
    if num_ranks > 1 and train.engine.startswith("zero") and find_spec("deepspeed") is None:
        raise InputError(
            f"train.engine={train.engine}: needs the package deepspeed, which this Python "
            f"({sys.executable}) doesn't have; `pip install -c constraints.txt -e '.[deepspeed]'`, "
            "or give train.engine=fsdp, which needs nothing more"
        )


def count_gpus() -> int:
    """Return how many NVIDIA GPUs this process may use, without loading torch."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return len(gpu_names())
    if shutil.which("nvidia-smi") is None:
        return 0
    answer = subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False
    )
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())
