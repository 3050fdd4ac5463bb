#!/bin/sh
# The scans behind README.md: studies/suppressors-smollm2/run.sh MODEL_DIR OUT
# MODEL_DIR is what tools/fetch-smollm2 writes. On two CPU cores without a GPU each takes a quarter of an hour to an hour.
set -eu
model=$1 out=$2
scan() {
    name=$1
    shift
    # What is there is finished, or goes on.
    if [ -e "$out/$name/run.json" ]; then
        thermoscope scan --resume --out "$out/$name"
    else
        thermoscope scan "$model" --first 24 --layers 4 "$@" --out "$out/$name"
    fi
}
scan facts-zero --probes probes/facts.jsonl
scan facts-mean --probes probes/facts.jsonl --null 0 --baseline mean
scan facts-resample --probes probes/facts.jsonl --null 0 --baseline resample
scan negation-zero --probes probes/negation.jsonl --null 0
scan ioi-zero --probes probes/ioi.jsonl --null 0
python3 "$(dirname "$0")/tables.py" "$out"
