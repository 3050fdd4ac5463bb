"""Checkpoints in transformers and TransformerLens, whichever is installed, beside a forward pass by hand in f64."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import thermoscope
from thermoscope import CommandError, Run

SMALL: dict[str, Any] = {
    "steps": 20,
    "task": {"kind": "repeated", "d_vocab": 13, "seq": 6},
    "model": {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_mlp": 24, "normalization_type": "none"},
    "batch": {"size": 4},
    "optimizer": {"learning_rate": 0.01},
    "checkpoint": {"every": 10},
    "measure": {"only": ["train"]},
    "replica": [{"seed": 1}, {"seed": 2}],
}
NORMED = {"normalization_type": "LN", "act_fn": "gelu_new", "unembed_bias": False}
ATTENTION = {"attn_only": True, "attn_biases": False}


def logits(weights: dict[str, Any], config: dict[str, Any], tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Logits [B, T, V] of a model with learned positions, by the formulas."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def norm(x: Any, name: str) -> Any:
        if config["normalization_type"] == "none":
            return x
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["eps"]) * w[f"{name}.w"] + w[f"{name}.b"]

    def gelu(x: Any) -> Any:
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    act = gelu if config["act_fn"] == "gelu_new" else lambda x: np.maximum(x, 0)
    length = tokens.shape[1]
    x = w["embed.W_E"][tokens] + w["pos_embed.W_pos"][:length]
    for at in range(config["n_layers"]):
        block = f"blocks.{at}"
        y = norm(x, f"{block}.ln1")

        def project(name: str, y: Any = y, block: str = block) -> Any:
            bias = w.get(f"{block}.attn.b_{name}", np.zeros(1))
            return np.einsum("btd,hdk->bhtk", y, w[f"{block}.attn.W_{name}"]) + (bias[:, None] if bias.ndim == 2 else 0)

        scores = project("Q") @ project("K").swapaxes(2, 3) / np.sqrt(config["d_head"])
        scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
        pattern = np.exp(scores - scores.max(-1, keepdims=True))
        pattern /= pattern.sum(-1, keepdims=True)
        x = x + np.einsum("bhtk,hkd->btd", pattern @ project("V"), w[f"{block}.attn.W_O"]) + w.get(f"{block}.attn.b_O", 0)
        if not config["attn_only"]:
            y = act(norm(x, f"{block}.ln2") @ w[f"{block}.mlp.W_in"] + w[f"{block}.mlp.b_in"])
            x = x + y @ w[f"{block}.mlp.W_out"] + w[f"{block}.mlp.b_out"]
    return norm(x, "ln_final") @ w["unembed.W_U"] + w.get("unembed.b_U", 0)


def trained(tmp_path: Path, **model: Any) -> Run:
    return thermoscope.run(SMALL, tmp_path / "run", model=model)


def agree(model: Any, run: Run, replica: int) -> None:
    tokens = np.random.default_rng(0).integers(0, 13, (5, 6))
    with torch.no_grad():
        found = model(torch.tensor(tokens))
    found = getattr(found, "logits", found).double().numpy()
    wanted = logits(run.weights(20, replica), run.config["model"], tokens)
    # f32 of a few dozen terms.
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    other = logits(run.weights(20, 1 - replica), run.config["model"], tokens)
    assert np.abs(found - other).max() > 1e-2 * np.abs(wanted).max()


def test_a_model_with_norms_is_one_of_transformers_and_of_transformer_lens(tmp_path: Path) -> None:
    run = trained(tmp_path, **NORMED)
    for replica in (0, 1):
        agree(run.to_hf(20, replica), run, replica)
        agree(run.to_transformer_lens(20, replica), run, replica)


@pytest.mark.parametrize("change", [{}, ATTENTION], ids=["mlp", "attn_only"])
def test_a_model_without_norms_is_one_of_transformer_lens(tmp_path: Path, change: dict[str, Any]) -> None:
    run = trained(tmp_path, **change)
    model = run.to_transformer_lens(replica=1)
    agree(model, run, 1)
    _, cache = model.run_with_cache(torch.tensor([[1, 2, 3]]))
    assert cache["blocks.1.attn.hook_pattern"].shape == (1, 2, 3, 3)
    with pytest.raises(CommandError, match="norm"):
        run.to_hf()
