#!/bin/sh
# The rows of one CUDA device: each prints its JSON line, or a line that says why not.
#
#   benchmarks/gpu.sh [python]            default: python3
#   DEVICE=cpu SHAPE=tiny benchmarks/gpu.sh .venv/bin/python       a rehearsal without a GPU
#
# The machine needs torch, transformers, accelerate, peft and what reading a recipe needs (omegaconf, pyyaml,
# tokenizers, safetensors), no internet, no datasets, deepspeed, submitit or tensorboard. Where something pure Python is
# missing, `pip install --target=FOLDER omegaconf pytorch-crf` elsewhere, copy FOLDER and give PYTHONPATH=FOLDER.
# QA_DIST_TEST_DATA names a folder with SQuAD; without it the text is made up. A row that fails doesn't stop the
# others; the exit status is 1 if one did.
cd "$(dirname "$0")/.." || exit 2
PYTHON=${1:-python3}
DEVICE=${DEVICE:-cuda}
SHAPE=${SHAPE:-base}
if [ "$DEVICE" = cpu ]; then
  BATCH=12; QUESTIONS=200; RUNS=2; LM=tiny; LM_BATCH=4
else
  BATCH=128; QUESTIONS=10000; RUNS=5; LM=3b; LM_BATCH=8
fi
failed=0

row() { # script, settings: its rows
  script=$1; shift
  [ -f "benchmarks/$script.py" ] || { echo "$script: not in this checkout"; failed=1; return; }
  log=$(mktemp)
  HF_HUB_OFFLINE=1 timeout "${LIMIT_S:-420}" "$PYTHON" "benchmarks/$script.py" "$@" --json 2>"$log"
  status=$?
  if [ $status -ne 0 ]; then
    failed=1
    echo "$script $*: status $status: $(grep -v '^ *$' "$log" | tail -n 1)"
  fi
  rm -f "$log"
}

row crf device="$DEVICE" runs=$RUNS
row crf_step device="$DEVICE" shape="$SHAPE" batch=16
row training device="$DEVICE" shape="$SHAPE" batch=$BATCH runs=$RUNS
row gpu_mfu device="$DEVICE" shape="$SHAPE" batch=$BATCH runs=$RUNS
row gpu_evaluation device="$DEVICE" shape="$SHAPE" questions=$QUESTIONS
row checkpointing device="$DEVICE" shape="$SHAPE"
row gpu_qlora device="$DEVICE" shape=$LM batch=$LM_BATCH runs=$RUNS
exit $failed
