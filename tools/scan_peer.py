"""A scan beside the plain loop of hooks that people write with transformers: the same effects, and the time of each.

    thermoscope scan MODEL_DIR --probes FILE.jsonl --first 64 --out SCAN
    python tools/scan_peer.py MODEL_DIR FILE.jsonl SCAN [--heads 0.0,15.4,29.8] [--repeat 1]

Needs torch, transformers and pyarrow. Takes the prompts that the scan took; zero ablation. Every head is a hook that sets what it
brings to the output projection to zero, and a pass over all prompts at once, padded on the right.
"""

import argparse
import json
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def projections(model):
    """The output projection of each layer's attention."""
    for name in ("model.layers", "transformer.h", "gpt_neox.layers"):
        try:
            layers = model.get_submodule(name)
        except AttributeError:
            continue
        kinds = ("self_attn.o_proj", "attn.c_proj", "attention.dense")
        return [next(layer.get_submodule(kind) for kind in kinds if has(layer, kind)) for layer in layers]
    raise SystemExit("none of the layouts that this script knows")


def has(module, name):
    try:
        return module.get_submodule(name) is not None
    except AttributeError:
        return False


def table(run):
    """Logit differences by (layer, head) and prompt, and of the clean pass under (-1, -1)."""
    found = {}
    for part in sorted(Path(run, "probes").glob("part-*.parquet")):
        rows = pq.read_table(part).to_pydict()
        for metric, layer, head, at, value in zip(*(rows[c] for c in ("metric", "layer", "head", "index", "value"))):
            if metric in ("clean.logit_difference", "ablated.logit_difference") and (head >= 0 or layer < 0):
                found.setdefault((layer, head), {})[at] = value
    return found


def main():
    args = argparse.ArgumentParser()
    args.add_argument("model")
    args.add_argument("probes")
    args.add_argument("scan")
    args.add_argument("--heads", default="")
    args.add_argument("--repeat", type=int, default=1)
    args = args.parse_args()
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    ours = table(args.scan)
    count = len(ours[-1, -1])
    prompts = [json.loads(line) for line in Path(args.probes).read_text().splitlines()][:count]
    ids = [tokenizer(prompt["prompt"], add_special_tokens=False)["input_ids"] for prompt in prompts]
    longest = max(map(len, ids))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    last = torch.tensor([len(row) - 1 for row in ids])
    single = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"][0]
    target, foil = (torch.tensor([single(prompt[key]) for prompt in prompts]) for key in ("target", "foil"))
    every = torch.arange(count)

    def difference():
        logits = model(tokens, use_cache=False).logits[every, last]
        return logits[every, target] - logits[every, foil]

    config, outs = model.config, projections(model)
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    chosen = [tuple(map(int, head.split("."))) for head in args.heads.split(",") if head]
    chosen = chosen or [(layer, (7 * layer + 1) % heads) for layer in sorted({0, layers // 3, 2 * layers // 3, layers - 1})]
    clean = difference()
    gap = max(abs(clean[at].item() - ours[-1, -1][at]) for at in range(count))
    print(f"{count} prompts of at most {longest} tokens; clean logit differences agree to {gap:.1e}")
    seconds = []
    for layer, head in chosen:
        width = outs[layer].weight.shape[1 if hasattr(outs[layer], "out_features") else 0] // heads

        def hook(_, inputs):
            z = inputs[0].clone()
            z[..., head * width : (head + 1) * width] = 0
            return (z,)

        handle = outs[layer].register_forward_pre_hook(hook)
        began = time.perf_counter()
        for _ in range(args.repeat):
            ablated = difference()
        seconds.append((time.perf_counter() - began) / args.repeat)
        handle.remove()
        theirs, found = (ablated - clean).mean().item(), ours[layer, head]
        own = sum(found[at] - ours[-1, -1][at] for at in range(count)) / count
        gap = max(abs(ablated[at].item() - found[at]) for at in range(count))
        print(f"L{layer}H{head}: {own:+.5f} and {theirs:+.5f} logits; prompts agree to {gap:.1e}; {seconds[-1]:.2f} s")
    mean = sum(seconds) / len(seconds)
    ran = json.loads(Path(args.scan, "run.json").read_text())["seconds"]
    print(f"transformers: {mean:.2f} s a head, {mean * layers * heads:.0f} s for {layers * heads}; the scan ran {ran:.0f} s, all it was asked for")


if __name__ == "__main__":
    main()
