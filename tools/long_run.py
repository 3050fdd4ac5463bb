"""How long `load_run(...).metrics("loss.test")` takes, and how much memory, of a run of thirty million rows:

    pip install 'thermoscope[notebook]'
    python3 tools/long_run.py            makes the table in a temporary folder, and asks for one metric in a fresh process
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEGMENT = 1 << 20


def places():
    """What is measured at a step: two layers of eight heads, four replicas, as many numbers as a run with its panel has."""
    for replica in range(4):
        for metric in ("loss.train", "loss.test", "accuracy.train", "accuracy.test"):
            yield replica, metric, "", -1, -1, -1
        for layer, head in itertools.product(range(2), range(8)):
            for metric in ("attention_entropy", "z_norm", "previous_token_score", "prefix_matching_score"):
                yield replica, metric, f"blocks.{layer}.attn.hook_pattern", layer, head, -1
        for tensor in range(30):
            for metric in ("weight_norm", "grad_norm", "update_norm", "weight_decay_share"):
                yield replica, metric, f"blocks.{tensor % 2}.tensor{tensor}", tensor % 2, -1, -1
        for index in range(57):
            yield replica, "fourier_norm", "embed.W_E", -1, -1, index


def make(run, rows):
    """Writes the table as `record/segments.rs` does: segments of 2^20 rows, dictionaries but for the values, snappy."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    step = list(places())
    names = ["replica", "metric", "site", "layer", "head", "index"]
    columns = dict(zip(names, zip(*step)))
    draw = np.random.default_rng(0)
    (run / "metrics").mkdir(parents=True)
    cards = {metric: {} for metric in set(columns["metric"])}
    (run / "metrics.json").write_text(json.dumps({"metrics": cards}))
    (run / "run.json").write_text(json.dumps({"status": "finished", "steps_done": rows // len(step), "config": {"replicas": 4}}))
    for part, first in enumerate(range(0, rows, SEGMENT)):
        at = np.arange(first, min(first + SEGMENT, rows))
        table = {"step": pa.array(at // len(step), pa.int64())}
        for name in names:
            kind = pa.string() if name in ("metric", "site") else pa.int32()
            words, codes = np.unique(np.array(columns[name]), return_inverse=True)
            table[name] = pa.DictionaryArray.from_arrays(codes[at % len(step)].astype(np.int32), words.tolist()).cast(kind)
        table["value"] = pa.array(draw.standard_normal(len(at), np.float32))
        schema = pa.schema([pa.field(name, column.type, nullable=False) for name, column in table.items()])
        pq.write_table(pa.table(table, schema=schema), run / f"metrics/part-{part:06}.parquet", compression="snappy",
                       row_group_size=SEGMENT, use_dictionary=["step", *names], store_schema=False)


def ask(run):
    import polars  # noqa: F401  what it takes to load is no part of a query
    import thermoscope

    began = time.perf_counter()
    found = thermoscope.load_run(run).metrics("loss.test")
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(f"{len(found)} rows of one metric in {seconds:.2f} s; the process had {peak // 1024} MB at most", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=30_000_000)
    parser.add_argument("--ask", metavar="RUN", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ask:
        ask(args.ask)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder, "run")
            make(run, args.rows)
            size = sum(part.stat().st_size for part in (run / "metrics").iterdir())
            print(f"{args.rows} rows, {size / 1e6:.0f} MB in {len(list((run / 'metrics').iterdir()))} segments", flush=True)
            for _ in range(3):
                subprocess.run([sys.executable, __file__, "--ask", run], check=True)
