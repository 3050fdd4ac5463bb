"""The same training steps in other frameworks, side by side with `thermoscope bench step`, in turns.

    pip install torch "transformer-lens<3"   # whichever is missing is skipped, and said so
    cargo build --release
    python3 tools/peers/peers.py [--workload grok] [--rounds 5] [--threads 2]

Prints one table: milliseconds of a step (median, least, most over rounds) and the ratio to PyTorch eager. A
peer's step is forward, cross-entropy, backward and AdamW on the shapes of src/bench/workloads; the panel is what
class F measures: loss, accuracy, attention entropies, and norms of every weight, gradient and update. On a GPU the
peers' times are taken behind a synchronization, and CUDA graphs are one of them.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]

# As in src/bench/workloads and src/cli/presets/grok.toml.
WORKLOADS = {
    "grok": dict(layers=1, d=128, heads=4, mlp=512, norm=False, act="relu", vocab=114, t=3, batch=3830, last=True),
    "grok-minibatch": dict(layers=1, d=128, heads=4, mlp=512, norm=False, act="relu", vocab=114, t=3, batch=512, last=True),
    "induction": dict(layers=2, d=256, heads=8, mlp=0, norm=True, act="relu", vocab=512, t=128, batch=32, last=False),
    "small-lm": dict(layers=4, d=256, heads=8, mlp=1024, norm=True, act="gelu", vocab=4096, t=256, batch=16, last=False),
}


def torch_peers(c, device):
    """Step functions by name: PyTorch eager, with the panel, compiled, and as a CUDA graph."""
    import torch
    import torch.nn.functional as F

    torch.manual_seed(0)
    d, h, v, t = c["d"], c["heads"], c["vocab"], c["t"]
    k = d // h

    def weight(*shape):
        return torch.nn.Parameter(torch.randn(shape, device=device) / d**0.5)

    def build():
        params = {"W_E": weight(v, d), "W_pos": weight(t, d), "W_U": weight(d, v)}
        for layer in range(c["layers"]):
            for name in ("W_Q", "W_K", "W_V", "W_O"):
                params[f"{layer}.{name}"] = weight(d, d)
            if c["mlp"]:
                params |= {f"{layer}.W_in": weight(d, c["mlp"]), f"{layer}.b_in": weight(c["mlp"])}
                params |= {f"{layer}.W_out": weight(c["mlp"], d), f"{layer}.b_out": weight(d)}
            if c["norm"]:
                for name in ("ln1", "ln2") if c["mlp"] else ("ln1",):
                    params |= {f"{layer}.{name}.w": weight(d), f"{layer}.{name}.b": weight(d)}
        if c["norm"]:
            params |= {"ln_final.w": weight(d), "ln_final.b": weight(d)}
        return params

    tokens = torch.randint(0, v, (c["batch"], t), device=device)
    targets = torch.randint(0, v, (c["batch"],) if c["last"] else (c["batch"], t), device=device)
    mask = torch.ones(t, t, dtype=torch.bool, device=device).tril()

    def forward(p, patterns=None):
        def norm(x, name):
            return F.layer_norm(x, (d,), p[name + ".w"], p[name + ".b"]) if c["norm"] else x

        x = p["W_E"][tokens] + p["W_pos"]
        for layer in range(c["layers"]):
            y = norm(x, f"{layer}.ln1")
            q, key, val = (
                (y @ p[f"{layer}.{name}"]).view(-1, t, h, k).transpose(1, 2) for name in ("W_Q", "W_K", "W_V")
            )
            scores = (q @ key.transpose(-1, -2) / k**0.5).masked_fill(~mask, float("-inf"))
            pattern = scores.softmax(-1)
            if patterns is not None:
                patterns.append(pattern)
            z = (pattern @ val).transpose(1, 2).reshape(-1, t, d)
            x = x + z @ p[f"{layer}.W_O"]
            if c["mlp"]:
                y = norm(x, f"{layer}.ln2")
                hidden = y @ p[f"{layer}.W_in"] + p[f"{layer}.b_in"]
                x = x + F.__dict__[c["act"]](hidden) @ p[f"{layer}.W_out"] + p[f"{layer}.b_out"]
        x = norm(x[:, -1] if c["last"] else x, "ln_final")
        return x @ p["W_U"]

    def loss_of(logits):
        return F.cross_entropy(logits.reshape(-1, v), targets.reshape(-1))

    def optimizer(p, capturable=False):
        return torch.optim.AdamW(p.values(), lr=1e-3, betas=(0.9, 0.98), weight_decay=1.0, capturable=capturable)

    def stepper(model, p, opt):
        def step():
            opt.zero_grad(set_to_none=True)
            loss_of(model(p)).backward()
            opt.step()

        return step

    p = build()
    peers = {"PyTorch eager": stepper(forward, p, optimizer(p))}

    q = build()
    panel_opt = optimizer(q)

    def with_panel():
        panel_opt.zero_grad(set_to_none=True)
        patterns = []
        logits = forward(q, patterns)
        loss = loss_of(logits)
        loss.backward()
        with torch.no_grad():
            row = [loss, (logits.argmax(-1) == targets).float().mean()]
            for pattern in patterns:
                used = pattern[:, :, -1] if c["last"] else pattern
                row.append(-(used * used.clamp_min(1e-37).log()).sum(-1).flatten(2 if not c["last"] else 1).mean())
            before = [w.detach().clone() for w in q.values()]
            row += [w.norm() for w in q.values()] + [w.grad.norm() for w in q.values()]
        panel_opt.step()
        with torch.no_grad():
            row += [(w - b).norm() for w, b in zip(q.values(), before)]
            return torch.stack([x.reshape(()) for x in row])

    peers["PyTorch eager, class F panel"] = with_panel

    r = build()
    compiled = stepper(torch.compile(forward), r, optimizer(r))
    try:
        compiled()
        peers["torch.compile"] = compiled
    except Exception as error:  # No compiler on this machine, or an unsupported one.
        print(f"torch.compile skipped: {str(error).splitlines()[0][:100]}")

    if device == "cuda":
        g = build()
        opt = optimizer(g, capturable=True)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                stepper(forward, g, opt)()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        opt.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            loss_of(forward(g)).backward()
            opt.step()
        peers["CUDA graph"] = graph.replay
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    return peers, wait


def lens_peers(c, device):
    """TransformerLens: plain, and keeping every activation."""
    import torch
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=c["layers"], d_model=c["d"], n_ctx=c["t"], d_head=c["d"] // c["heads"], n_heads=c["heads"],
        d_mlp=c["mlp"] or None, attn_only=not c["mlp"], act_fn=c["act"] if c["mlp"] else None, d_vocab=c["vocab"],
        normalization_type="LN" if c["norm"] else None, device=device, seed=0,
    )
    model = HookedTransformer(config)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=1.0)
    tokens = torch.randint(0, c["vocab"], (c["batch"], c["t"]), device=device)
    targets = torch.randint(0, c["vocab"], (c["batch"],) if c["last"] else (c["batch"], c["t"]), device=device)

    def step(cached):
        opt.zero_grad(set_to_none=True)
        logits = model.run_with_cache(tokens)[0] if cached else model(tokens)
        logits = logits[:, -1] if c["last"] else logits
        torch.nn.functional.cross_entropy(logits.reshape(-1, c["vocab"]), targets.reshape(-1)).backward()
        opt.step()

    return {"TransformerLens": lambda: step(False), "TransformerLens, cache": lambda: step(True)}


def ours(workload, rounds):
    """One line of `thermoscope bench step --json` for each mode, or None where it is not built."""
    binary = ROOT / "target/release/thermoscope"
    if not binary.exists():
        print("thermoscope skipped: cargo build --release first")
        return None
    command = [binary, "bench", "step", "--preset", workload, "--rounds", str(rounds), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print("thermoscope skipped:", done.stderr.strip().splitlines()[-1])
        return None
    return [json.loads(line) for line in done.stdout.splitlines()]


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--workload", choices=WORKLOADS, action="append")
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--threads", type=int, default=0)
    args = args.parse_args()
    try:
        import torch
    except ImportError:
        torch = None
        print("PyTorch skipped: not installed")
    if torch and args.threads:
        torch.set_num_threads(args.threads)
    device = "cuda" if torch and torch.cuda.is_available() else "cpu"
    for name in args.workload or WORKLOADS:
        peers, wait = torch_peers(WORKLOADS[name], device) if torch else ({}, None)
        try:
            peers |= lens_peers(WORKLOADS[name], device) if torch else {}
        except ImportError as error:
            print(f"TransformerLens skipped: {error}")
        times = {peer: [] for peer in peers}
        counts = {}
        for peer, step in peers.items():
            step()
            wait()
            began = time.perf_counter()
            step()
            wait()
            counts[peer] = max(1, min(200, int(0.5 / (time.perf_counter() - began))))
        engine = {}
        for _ in range(args.rounds):
            for peer, step in peers.items():
                began = time.perf_counter()
                for _ in range(counts[peer]):
                    step()
                wait()
                times[peer].append((time.perf_counter() - began) * 1e3 / counts[peer])
            for line in ours(name, 1) or []:
                key = f"thermoscope, {line['mode']} ({line['adapter']}, {line['timing']})"
                engine.setdefault(key, []).append(line["ms_per_step"])
        base = statistics.median(times["PyTorch eager"]) if "PyTorch eager" in times else None
        print(f"\n{name}: {device}, {torch.__version__ if torch else 'no PyTorch'}, milliseconds a step")
        for peer, values in (times | engine).items():
            median = statistics.median(values)
            ratio = f"{median / base:8.2f}" if base else ""
            print(f"  {peer:72} {median:10.3f}  ({min(values):.3f} to {max(values):.3f}) {ratio}")


if __name__ == "__main__":
    main()
