"""Models in TransformerLens, which is another library from version to version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ._command import ThermoscopeError, need


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and weights of a folder in TransformerLens's layout."""
    load: Any = need("safetensors.torch", "models")
    keys: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    state = load.load_file(folder / "model.safetensors")
    if keys["tied_embeddings"]:
        state["unembed.W_U"] = state["embed.W_E"].T.contiguous()
    if keys["n_key_value_heads"] == keys["n_heads"]:
        keys["n_key_value_heads"] = None
    return keys, state


def hooked(folder: Path) -> Any:
    """A ``HookedTransformer`` of TransformerLens 2.x or 3.x. It has every bias, and those that are not there are zero."""
    lens: Any = need("transformer_lens", "models")
    keys, state = _read(folder)
    scaling = keys["rotary_scaling"]
    if keys["gate_biases"] or "linear" in scaling:
        raise ThermoscopeError(
            "TransformerLens 2 and 3 compute no model with linear scaling of rotary positions or biases of gates; "
            "4 does: pip install 'transformer-lens>=4'"
        )
    known = lens.HookedTransformerConfig.__dataclass_fields__
    config = {key: value for key, value in keys.items() if key in known and key not in ("init_mode", "rotary_base")}
    config["rotary_base"] = int(keys["rotary_base"])
    if config["positional_embedding_type"] != "rotary":
        config.pop("rotary_dim")
    if "llama3" in scaling:
        llama3 = scaling["llama3"]
        config.update(
            use_NTK_by_parts_rope=True,
            NTK_by_parts_factor=llama3["factor"],
            NTK_by_parts_low_freq_factor=llama3["low_freq_factor"],
            NTK_by_parts_high_freq_factor=llama3["high_freq_factor"],
            NTK_original_ctx_len=llama3["original_n_ctx"],
        )
    model = lens.HookedTransformer(lens.HookedTransformerConfig(**config, device="cpu"))
    missing, unexpected = model.load_state_dict(state, strict=False)
    zero = ("b_", "mask", "IGNORE", "rotary")
    wrong = [name for name in missing if not name.split(".")[-1].lstrip("_").startswith(zero)]
    if wrong or unexpected:
        raise ThermoscopeError(f"TransformerLens has no place for {unexpected}, or misses {wrong}")
    return model


def bridge(folder: Path) -> Any:
    """A ``TransformerBridge`` of TransformerLens 4.x, around the architecture of transformers that the folder is of."""
    module: Any = need("transformer_lens.model_bridge", "models")
    torch: Any = need("torch", "models")
    return module.TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)


def native(folder: Path) -> Any:
    """A ``TransformerBridge`` of TransformerLens 4.x of a model that no architecture of transformers fits: without norms,
    without MLPs, or with a bias of logits."""
    module: Any = need("transformer_lens.model_bridge", "models")
    convert: Any = need("transformer_lens.utilities.tl_checkpoint_conversion", "models")
    torch: Any = need("torch", "models")
    keys, state = _read(folder)
    rotary = keys["positional_embedding_type"] == "rotary"
    if rotary or keys["parallel_attn_mlp"]:
        what = "parallel blocks" if keys["parallel_attn_mlp"] else "rotary positions, which it turns in other pairs,"
        raise ThermoscopeError(
            f"TransformerLens 4 has no such model: of those with {what} it has those of transformers alone, and this is none"
        )
    names = ("n_layers", "d_model", "n_heads", "d_head", "n_key_value_heads", "d_mlp", "attn_only", "act_fn", "gated_mlp",
             "normalization_type", "final_rms", "d_vocab", "d_vocab_out", "n_ctx", "eps", "attn_scale")  # fmt: skip
    config = {name: keys[name] for name in names}
    if config["attn_only"]:
        config.update(d_mlp=None, act_fn=None)
    model = module.TransformerBridge.boot_native(config)
    # It has every bias, and those that are not there are zero.
    own = model.state_dict()
    converted = convert.convert_tl_checkpoint(state, model.cfg)
    biases = {name: torch.zeros_like(own[name]) for name in own if name.endswith("bias") and name not in converted}
    model.load_state_dict({**biases, **converted}, strict=True)
    return model
