# Read by each SLURM job before it starts Python; copied into the run at launch. Put here what your
# cluster's jobs need, e.g.
#   module load cuda/12.8
#   export NCCL_IB_HCA=mlx5
# Caches of compiled kernels belong on the node's own disk: a shared home is slow, and nodes would
# write to it at the same time. Where SLURM gives each job a folder of its own there:
#   export TRITON_CACHE_DIR=$SLURM_TMPDIR/triton TORCH_EXTENSIONS_DIR=$SLURM_TMPDIR/torch
