"""The same training steps in other frameworks, side by side with `thermoscope bench step`, in turns.

    pip install torch "transformer-lens<3"   # whichever is missing is skipped, and said so
    cargo build --release
    cargo build --release --manifest-path tools/peers/burn/Cargo.toml
    python3 tools/peers/peers.py [--workload grok] [--rounds 5] [--threads 2] [--json]

Prints PyTorch's rate in a large product, and one table a workload, or with --json one object a line: milliseconds of a step (median, least, most over rounds) and the ratio to PyTorch eager.
A peer's step is forward, cross-entropy, backward and AdamW on the shapes of src/bench/workloads. The panel is loss,
accuracy, attention entropies, and norms of every weight, gradient and update: what most of class F is. Full-grid
losses are those of all test pairs, of all pairs with nothing but five frequencies left in the logits, and of the
training pairs without them (Nanda et al. 2023), at every step; of each, thermoscope takes nine (for the key
frequencies, and for the one to eight strongest). All times are by the host's clock, queueing included. On a GPU they
are taken behind a synchronization, and CUDA graphs are one of the peers; build burn with `--features spirv` there.
VK_DRIVER_FILES decides which software driver burn takes; OMP_WAIT_POLICY=passive keeps PyTorch from spinning where
others use the machine's cores.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

try:
    import torch
except ImportError:
    torch = None
    print("PyTorch skipped: not installed", file=sys.stderr)

ROOT = pathlib.Path(__file__).resolve().parents[2]

# As in src/bench/workloads and src/cli/presets/grok.toml; `norm` means biases in attention and unembedding as well.
GROK = dict(layers=1, d=128, heads=4, mlp=512, norm=False, act="relu", vocab=114, t=3, batch=3830, last=True)
WORKLOADS = {
    "grok": GROK,
    "grok-minibatch": GROK | dict(batch=512),
    "induction": dict(layers=2, d=256, heads=8, mlp=0, norm=True, act="relu", vocab=512, t=128, batch=32, last=False),
    "small-lm": dict(layers=4, d=256, heads=8, mlp=1024, norm=True, act="gelu", vocab=4096, t=256, batch=16, last=False),
}


class Grid:
    """All pairs of addition modulo p, and losses over them."""

    def __init__(self, device, p=113, train=3830, keys=(14, 35, 41, 42, 52)):
        pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p)).to(device)
        self.p = p
        self.tokens = torch.cat([pairs, torch.full((p * p, 1), p, device=device)], 1)
        self.targets = pairs.sum(1) % p
        order = torch.randperm(p * p, generator=torch.Generator().manual_seed(0)).to(device)
        self.train, self.test = order[:train], order[train:]
        self.answers = torch.arange(p, device=device)
        angles = 2 * torch.pi / p * torch.outer(torch.tensor(keys, device=device), self.answers)
        # Of unit length over the answers.
        self.waves = torch.cat([angles.cos(), angles.sin()]) * (2 / p) ** 0.5

    def losses(self, logits):
        """Test, restricted and excluded loss of the logits of all pairs. Waves of a + b take one value for each
        answer, and each answer has p pairs: projecting sums over these is projecting the logits."""
        p, ce = self.p, torch.nn.functional.cross_entropy
        logits = logits[:, :p]
        sums = torch.zeros(p, p, device=logits.device).index_add_(0, self.targets, logits)
        kept = self.waves.T @ (self.waves @ sums) / p
        restricted = ce(kept + sums.sum(0) / p**2, self.answers)
        targets = self.targets[self.train]
        excluded = ce(logits[self.train] - kept[targets], targets)
        return [ce(logits[self.test], self.targets[self.test]), restricted, excluded]


def batch(c, device, grid):
    """Tokens and targets of a training batch."""
    if grid:
        rows = grid.train[: c["batch"]]
        return grid.tokens[rows], grid.targets[rows]
    shape = (c["batch"], c["t"])
    return torch.randint(0, c["vocab"], shape, device=device), torch.randint(0, c["vocab"], shape, device=device)


def optimizer(weights, capturable=False):
    return torch.optim.AdamW(weights, lr=1e-3, betas=(0.9, 0.98), weight_decay=1.0, capturable=capturable)


def stepper(c, weights, forward, data, panel=False, grid=None):
    """A training step; `forward(tokens, patterns)` gives logits and adds to the list `patterns` unless it is None.
    With `panel` or `grid` the step returns what was measured, on the device."""
    opt = optimizer(weights)
    tokens, targets = data

    def step():
        opt.zero_grad(set_to_none=True)
        patterns = [] if panel else None
        logits = forward(tokens, patterns)
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, c["vocab"]), targets.reshape(-1))
        loss.backward()
        row = []
        with torch.no_grad():
            if panel:
                row += [loss, (logits.argmax(-1) == targets).float().mean()]
                for pattern in patterns:
                    used = pattern[:, :, -1:] if c["last"] else pattern
                    row += (-torch.xlogy(used, used)).sum(-1).mean((0, 2))
                before = [w.clone() for w in weights]
                row += torch._foreach_norm(weights) + torch._foreach_norm([w.grad for w in weights])
            if grid:
                row += grid.losses(forward(grid.tokens, None))
        opt.step()
        with torch.no_grad():
            if panel:
                row += torch._foreach_norm(torch._foreach_sub(weights, before))
            return torch.stack(row) if row else None

    return step


def torch_peers(c, device, grid):
    """Step functions by name: PyTorch eager, with more measured, compiled, and as a CUDA graph."""
    import torch.nn.functional as F

    d, h, v, t = c["d"], c["heads"], c["vocab"], c["t"]
    k = d // h

    def weight(*shape):
        return torch.nn.Parameter(torch.randn(shape, device=device) / d**0.5)

    def build():
        params = {"W_E": weight(v, d), "W_pos": weight(t, d), "W_U": weight(d, v)}
        for layer in range(c["layers"]):
            for name in "QKVO":
                params[f"{layer}.W_{name}"] = weight(d, d)
                if c["norm"]:
                    params[f"{layer}.b_{name}"] = weight(d)
            if c["mlp"]:
                params |= {f"{layer}.W_in": weight(d, c["mlp"]), f"{layer}.b_in": weight(c["mlp"])}
                params |= {f"{layer}.W_out": weight(c["mlp"], d), f"{layer}.b_out": weight(d)}
            if c["norm"]:
                for name in ("ln1", "ln2") if c["mlp"] else ("ln1",):
                    params |= {f"{layer}.{name}.w": weight(d), f"{layer}.{name}.b": weight(d)}
        if c["norm"]:
            params |= {"ln_final.w": weight(d), "ln_final.b": weight(d), "b_U": weight(v)}
        return params

    data = batch(c, device, grid)
    mask = torch.ones(t, t, dtype=torch.bool, device=device).tril()

    def forward(p, tokens, patterns=None, fused=False):
        def norm(x, name):
            return F.layer_norm(x, (d,), p[name + ".w"], p[name + ".b"]) if c["norm"] else x

        def affine(x, name):
            w = p[name.format("W")]
            return x @ w + p[name.format("b")] if c["norm"] else x @ w

        x = p["W_E"][tokens] + p["W_pos"]
        for layer in range(c["layers"]):
            y = norm(x, f"{layer}.ln1")
            q, key, val = (affine(y, f"{layer}.{{}}_{name}").view(-1, t, h, k).transpose(1, 2) for name in "QKV")
            if fused:
                z = F.scaled_dot_product_attention(q, key, val, is_causal=True)
            else:
                scores = (q @ key.transpose(-1, -2) / k**0.5).masked_fill(~mask, float("-inf"))
                pattern = scores.softmax(-1)
                if patterns is not None:
                    patterns.append(pattern)
                z = pattern @ val
            z = z.transpose(1, 2).reshape(-1, t, d)
            x = x + affine(z, f"{layer}.{{}}_O")
            if c["mlp"]:
                y = norm(x, f"{layer}.ln2")
                hidden = y @ p[f"{layer}.W_in"] + p[f"{layer}.b_in"]
                x = x + F.__dict__[c["act"]](hidden) @ p[f"{layer}.W_out"] + p[f"{layer}.b_out"]
        x = norm(x[:, -1] if c["last"] else x, "ln_final")
        return affine(x, "{}_U")

    def peer(run=forward, **measured):
        p = build()
        return stepper(c, list(p.values()), lambda tokens, patterns: run(p, tokens, patterns), data, **measured)

    def with_fused_attention(*args):
        return forward(*args, fused=True)

    peers = {
        "PyTorch eager": peer(),
        "PyTorch eager, fused attention": peer(with_fused_attention),
        "PyTorch eager, panel": peer(panel=True),
    }
    if grid:
        peers["PyTorch eager, panel and full-grid losses"] = peer(panel=True, grid=grid)

    compiled = peer(torch.compile(forward))
    try:
        compiled()
        peers["torch.compile"] = compiled
    except Exception as error:  # No compiler on this machine, or an unsupported one.
        print(f"torch.compile skipped: {str(error).splitlines()[0][:100]}", file=sys.stderr)

    if device == "cuda":
        g = build()
        opt = optimizer(g.values(), capturable=True)
        tokens, targets = data

        def backward():
            F.cross_entropy(forward(g, tokens).reshape(-1, v), targets.reshape(-1)).backward()
            opt.step()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                opt.zero_grad(set_to_none=True)
                backward()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        opt.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            backward()
        peers["CUDA graph"] = graph.replay
    return peers


def lens_peers(c, device, grid):
    """TransformerLens: plain, keeping every activation, and measuring from what was kept."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=c["layers"], d_model=c["d"], n_ctx=c["t"], d_head=c["d"] // c["heads"], n_heads=c["heads"],
        d_mlp=c["mlp"] or None, attn_only=not c["mlp"], act_fn=c["act"] if c["mlp"] else None, d_vocab=c["vocab"],
        normalization_type="LN" if c["norm"] else None, device=device, seed=0,
    )
    data = batch(c, device, grid)

    def peer(cached=True, **measured):
        model = HookedTransformer(config)

        def forward(tokens, patterns):
            if cached and torch.is_grad_enabled():
                logits, cache = model.run_with_cache(tokens)
                if patterns is not None:
                    patterns += [cache["pattern", layer] for layer in range(c["layers"])]
            else:
                logits = model(tokens)
            return logits[:, -1] if c["last"] else logits

        return stepper(c, list(model.parameters()), forward, data, **measured)

    peers = {
        "TransformerLens": peer(cached=False),
        "TransformerLens, cache": peer(),
        "TransformerLens, cache and panel": peer(panel=True),
    }
    if grid:
        peers["TransformerLens, cache, panel and full-grid losses"] = peer(panel=True, grid=grid)
    return peers


def products(device, wait, rounds):
    """GFLOP/s of PyTorch in a product of two n x n matrices, by the type of their numbers: median of the rounds."""
    n = 4096 if device == "cuda" else 1024
    torch.backends.cuda.matmul.allow_tf32 = False
    for dtype in (torch.float32, torch.float16) if device == "cuda" else (torch.float32,):
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        rates = []
        for _ in range(rounds + 1):
            began = time.perf_counter()
            for _ in range(10):
                a @ b
            wait()
            rates.append(10 * 2e-9 * n**3 / (time.perf_counter() - began))
        yield f"product {n}x{n}x{n}", str(dtype).removeprefix("torch."), statistics.median(rates[1:])


def last_words(done):
    """What a process that failed said last."""
    return (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]


def ours(workload, modes):
    """One line of `thermoscope bench step --json` for each of these modes, or for all; None where it is not built."""
    binary = ROOT / "target/release/thermoscope"
    if not binary.exists():
        print("thermoscope skipped: cargo build --release first", file=sys.stderr)
        return None
    command = [binary, "bench", "step", "--preset", workload, "--rounds", "1", "--json"]
    command += [word for mode in modes for word in ("--mode", mode)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print("thermoscope skipped:", last_words(done), file=sys.stderr)
        return None
    return [json.loads(line) for line in done.stdout.splitlines()]


def burn(workload, limit):
    """The line of tools/peers/burn, or None where it is not built or not done in ten times `limit` seconds."""
    binary = ROOT / "tools/peers/burn/target/release/burn-peer"
    if not binary.exists():
        print("burn skipped: cargo build --release --manifest-path tools/peers/burn/Cargo.toml first", file=sys.stderr)
        return None
    command = [binary, "--workload", workload, "--rounds", "1", "--limit", str(limit)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10 * limit)
    except subprocess.TimeoutExpired:
        print(f"burn skipped: {workload} was stopped after {10 * limit} s", file=sys.stderr)
        return None
    if done.returncode:
        print("burn skipped:", last_words(done), file=sys.stderr)
        return None
    return json.loads(done.stdout)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--workload", choices=WORKLOADS, action="append")
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--threads", type=int, default=0, help="of PyTorch on the CPU; 0 for its own choice")
    args.add_argument("--mode", action="append", default=[], help="of thermoscope; by default all")
    args.add_argument("--json", action="store_true", help="one JSON object a line")
    args.add_argument("--burn-limit", type=int, default=60, help="seconds after which burn begins no further step")
    args = args.parse_args()
    if torch and args.threads:
        torch.set_num_threads(args.threads)
    device = "cuda" if torch and torch.cuda.is_available() else "cpu"
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    for product, dtype, rate in products(device, wait, args.rounds) if torch else []:
        if args.json:
            print(json.dumps({"workload": product, "mode": f"PyTorch {dtype}", "adapter": device, "gflops": rate}))
        else:
            print(f"{product} in {dtype}: {rate:.0f} GFLOP/s ({device}, PyTorch)")
    for name in args.workload or WORKLOADS:
        c = WORKLOADS[name]
        peers = {}
        if torch:
            torch.manual_seed(0)
            grid = Grid(device) if c["last"] else None
            peers = torch_peers(c, device, grid)
            try:
                peers |= lens_peers(c, device, grid)
            except ImportError as error:
                print(f"TransformerLens skipped: {error}", file=sys.stderr)
        times = {peer: [] for peer in peers}
        counts = {}
        for peer, step in peers.items():
            step()
            wait()
            began = time.perf_counter()
            step()
            wait()
            counts[peer] = max(1, min(200, int(0.5 / (time.perf_counter() - began))))
        others = {}
        with_burn = True
        for _ in range(args.rounds):
            for peer, step in peers.items():
                began = time.perf_counter()
                for _ in range(counts[peer]):
                    step()
                wait()
                times[peer].append((time.perf_counter() - began) * 1e3 / counts[peer])
            lines = ours(name, args.mode) or []
            for line in lines:
                line["mode"] = f"thermoscope, {line['mode']}"
            line = burn(name, args.burn_limit) if with_burn else None
            # A step that fills the limit is not repeated.
            with_burn = line is not None and line["ms_per_step"] < args.burn_limit * 1e3
            for line in lines + ([line] if line else []):
                key = f"{line['mode']} ({line['adapter']})"
                others.setdefault(key, []).append(line.get("wall_ms_per_step", line["ms_per_step"]))
        base = statistics.median(times["PyTorch eager"]) if "PyTorch eager" in times else None
        version = torch.__version__ if torch else "no PyTorch"
        if not args.json:
            print(f"\n{name}: {device}, {version}, milliseconds a step")
        for peer, values in (times | others).items():
            median = statistics.median(values)
            if args.json:
                line = {"workload": name, "mode": peer, "peers_on": f"{device}, {version}", "ms_per_step": median}
                line |= {"min": min(values), "max": max(values), "to_pytorch_eager": median / base if base else None}
                print(json.dumps(line), flush=True)
                continue
            ratio = f"{median / base:8.2f}" if base else ""
            print(f"  {peer:80} {median:10.3f}  ({min(values):.3f} to {max(values):.3f}) {ratio}", flush=True)


if __name__ == "__main__":
    main()
