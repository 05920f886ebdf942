"""Fine-tune question-answering models on SLURM clusters and laptops: prepare, train, evaluate,
aggregate."""

__version__ = "0.1.0"
