# Read by each SLURM job before it starts Python; copied into the run at launch. Put here what your
# cluster's jobs need, e.g.
#   module load cuda/12.8
#   export NCCL_IB_HCA=mlx5
