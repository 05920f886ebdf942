"""Make one shard of a run's prepared data, or all that are missing.

python jobs/prepare.py run=runs/tiny_coqa/main
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(sys.path.pop(0))  # this folder last: its tensorboard.py is no package
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

gc.disable()  # while libraries are loaded: see quick_start
from qa_dist.cluster.pipeline import run_stage_here  # noqa: E402

gc.enable()


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0 done, 2 bad input, 75 stopped in order."""
    return run_stage_here("prepare", argv, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
