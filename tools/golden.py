"""Golden numbers for tests/whole/golden.rs: gradients and AdamW loss curves of two tiny models, in f64 by JAX.

    pip install jax
    python3 tools/golden.py tests/golden

Nothing here shares code with the Rust engine; weights are drawn by numpy and stored with the results.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)


def layer_norm(x, w, b, eps):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + eps) * w + b


def forward(config, weights, tokens):
    """Logits at every position, with TransformerLens's conventions."""
    c, w = config, weights
    t = tokens.shape[1]
    x = w["embed.W_E"][tokens] + w["pos_embed.W_pos"][:t]
    act = {"relu": jax.nn.relu, "gelu": lambda v: jax.nn.gelu(v, approximate=False)}[c["act_fn"]]
    norm = c["normalization_type"] == "LN"
    for layer in range(c["n_layers"]):
        n = f"blocks.{layer}."
        y = layer_norm(x, w[n + "ln1.w"], w[n + "ln1.b"], c["eps"]) if norm else x
        q, k, v = (
            jnp.einsum("btd,hdk->bthk", y, w[n + f"attn.W_{i}"]) + (w[n + f"attn.b_{i}"] if c["attn_biases"] else 0)
            for i in "QKV"
        )
        scores = jnp.einsum("bqhk,bthk->bhqt", q, k) / np.sqrt(c["d_head"])
        scores = jnp.where(jnp.tril(jnp.ones((t, t), bool)), scores, -jnp.inf)
        z = jnp.einsum("bhqt,bthk->bqhk", jax.nn.softmax(scores, -1), v)
        x = x + jnp.einsum("bqhk,hkd->bqd", z, w[n + "attn.W_O"]) + (w[n + "attn.b_O"] if c["attn_biases"] else 0)
        y = layer_norm(x, w[n + "ln2.w"], w[n + "ln2.b"], c["eps"]) if norm else x
        h = act(y @ w[n + "mlp.W_in"] + w[n + "mlp.b_in"])
        x = x + h @ w[n + "mlp.W_out"] + w[n + "mlp.b_out"]
    if norm:
        x = layer_norm(x, w["ln_final.w"], w["ln_final.b"], c["eps"])
    return x @ w["unembed.W_U"] + (w["unembed.b_U"] if c["unembed_bias"] else 0)


def loss(config, weights, tokens, targets):
    """Mean cross-entropy; targets hold -1 where nothing is asked."""
    logp = jax.nn.log_softmax(forward(config, weights, tokens), -1)
    picked = jnp.take_along_axis(logp, jnp.maximum(targets, 0)[..., None], -1)[..., 0]
    return -jnp.where(targets >= 0, picked, 0).sum() / (targets >= 0).sum()


def shapes(c):
    d, h, k, m = c["d_model"], c["n_heads"], c["d_head"], c["d_mlp"]
    out = {"embed.W_E": (c["d_vocab"], d), "pos_embed.W_pos": (c["n_ctx"], d)}
    for layer in range(c["n_layers"]):
        n = f"blocks.{layer}."
        if c["normalization_type"] == "LN":
            out |= {n + f"ln{i}.{p}": (d,) for i in (1, 2) for p in "wb"}
        out |= {n + f"attn.W_{i}": (h, d, k) for i in "QKV"} | {n + "attn.W_O": (h, k, d)}
        if c["attn_biases"]:
            out |= {n + f"attn.b_{i}": (h, k) for i in "QKV"} | {n + "attn.b_O": (d,)}
        out |= {n + "mlp.W_in": (d, m), n + "mlp.b_in": (m,), n + "mlp.W_out": (m, d), n + "mlp.b_out": (d,)}
    if c["normalization_type"] == "LN":
        out |= {"ln_final.w": (d,), "ln_final.b": (d,)}
    out["unembed.W_U"] = (d, c["d_vocab_out"])
    if c["unembed_bias"]:
        out["unembed.b_U"] = (c["d_vocab_out"],)
    return out


def golden(config, tokens, targets, optimizer, steps, seed):
    rng = np.random.default_rng(seed)
    # f32 values, so that both sides start from the same numbers; norm weights scatter around 1.
    draw = lambda name, shape: rng.standard_normal(shape) * 0.3 + (1.0 if name.endswith(".w") else 0.0)
    start = {n: np.float32(draw(n, s)).astype(np.float64) for n, s in shapes(config).items()}
    value_and_grad = jax.jit(jax.value_and_grad(lambda w: loss(config, w, tokens, targets)))
    first, grads = value_and_grad(start)
    w = dict(start)
    m = {n: np.zeros_like(x) for n, x in w.items()}
    v = {n: np.zeros_like(x) for n, x in w.items()}
    lr, decay, (b1, b2), eps = (optimizer[k] for k in ("learning_rate", "weight_decay", "betas", "eps"))
    curve = []
    for t in range(1, steps + 1):
        value, g = value_and_grad(w)
        curve.append(float(value))
        for n in w:
            m[n] = b1 * m[n] + (1 - b1) * g[n]
            v[n] = b2 * v[n] + (1 - b2) * g[n] * g[n]
            update = (m[n] / (1 - b1**t)) / (np.sqrt(v[n] / (1 - b2**t)) + eps)
            w[n] = w[n] * (1 - lr * decay) - lr * update
    listed = lambda d: {n: [float(x) for x in np.asarray(a).ravel()] for n, a in d.items()}
    return {
        "config": config,
        "optimizer": optimizer,
        "tokens": np.asarray(tokens).tolist(),
        "targets": np.asarray(targets).tolist(),
        "weights": listed(start),
        "loss": float(first),
        "gradients": listed(grads),
        "curve": curve,
    }


def main(folder):
    optimizer = {"learning_rate": 3e-3, "weight_decay": 0.5, "betas": [0.9, 0.98], "eps": 1e-8}
    base = {"eps": 1e-5, "attn_biases": False, "unembed_bias": False, "normalization_type": "none", "act_fn": "relu"}

    # One layer, ReLU, no norm: addition modulo 7, all pairs with a + b even, read out at "=".
    p = 7
    pairs = np.array([(a, b) for a in range(p) for b in range(p) if (a + b) % 2 == 0])
    tokens = np.concatenate([pairs, np.full((len(pairs), 1), p)], 1)
    targets = np.full_like(tokens, -1)
    targets[:, 2] = pairs.sum(1) % p
    relu = base | {"n_layers": 1, "d_model": 12, "n_heads": 2, "d_head": 6, "d_mlp": 20, "d_vocab": p + 1, "d_vocab_out": p + 1, "n_ctx": 3}

    # Two layers, LayerNorm in front, GELU, all biases: next tokens of random sequences.
    rng = np.random.default_rng(11)
    sequences = rng.integers(0, 9, (6, 8))
    gelu = base | {
        "n_layers": 2, "d_model": 10, "n_heads": 2, "d_head": 5, "d_mlp": 17, "d_vocab": 9, "d_vocab_out": 9, "n_ctx": 7,
        "attn_biases": True, "unembed_bias": True, "normalization_type": "LN", "act_fn": "gelu",
    }
    cases = {
        "relu_one_layer": golden(relu, jnp.array(tokens), jnp.array(targets), optimizer, 100, 1),
        "gelu_two_layers": golden(gelu, jnp.array(sequences[:, :-1]), jnp.array(sequences[:, 1:]), optimizer, 100, 2),
    }
    for name, case in cases.items():
        with open(f"{folder}/{name}.json", "w") as file:
            json.dump(case, file)
        print(name, case["loss"], "->", case["curve"][-1])


if __name__ == "__main__":
    main(sys.argv[1])
