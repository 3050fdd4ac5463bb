#!/usr/bin/env python3
"""Model folders of every architecture, written by transformers and read by Thermoscope, and back.

    python3 tools/formats.py golden            tiny folders with their f64 logits, into tests/golden/formats
    python3 tools/formats.py check             compares every hook, and what is exported and read by transformers again
    python3 tools/formats.py check --model DIR the same of a model from elsewhere, beside the random ones
    python3 tools/formats.py lens              opens what was exported with the TransformerLens that is installed: 2.x loads
                                               state dicts, 4.x boots Hugging Face's folders
    python3 tools/formats.py document          writes docs/formats.md from what the last two found

Needs torch, transformers 5, numpy and safetensors; `check` also `cargo build --bins --example hooks` (or --build release).
Weights are random, with norms and biases that are far from what they start at, so that nothing that is mixed up goes unseen.
"""
import argparse
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
LLAMA3 = {"rope_type": "llama3", "rope_theta": 50_000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def cases(layers, width, heads, mlp, vocab, context):
    """Name -> configuration, what becomes of its config.json, and how it is saved."""
    from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, MistralConfig, Qwen2Config

    common = dict(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=mlp,
                  vocab_size=vocab, max_position_embeddings=context, bos_token_id=0, eos_token_id=0)
    shared = dict(common, num_key_value_heads=heads // 2)
    neox = dict(common, num_attention_heads=heads // 2)
    gpt2 = dict(n_layer=layers, n_embd=width, n_head=heads, vocab_size=vocab, n_positions=context, bos_token_id=0,
                eos_token_id=0)
    llama3 = dict(LLAMA3, original_max_position_embeddings=context * 5 // 6)

    def old_neox(config):
        # As transformers 4 wrote it.
        rope = config.pop("rope_parameters")
        config.update(rotary_pct=rope["partial_rotary_factor"], rotary_emb_base=rope["rope_theta"], rope_scaling=None)
        config["torch_dtype"] = config.pop("dtype", "float32")

    def old_llama(config):
        rope = config.pop("rope_parameters")
        config.update(rope_theta=rope["rope_theta"], rope_scaling={"type": "linear", "factor": rope["factor"]})

    return {
        "gpt2": (GPT2Config(**gpt2), None, {}),
        "gpt2-untied": (GPT2Config(**gpt2, n_inner=mlp, activation_function="relu", scale_attn_weights=False,
                                   tie_word_embeddings=False), None, {"bare": True}),
        "neox": (GPTNeoXConfig(**neox), None, {}),
        "neox-sequential": (GPTNeoXConfig(**neox, use_parallel_residual=False, attention_bias=False,
                                          tie_word_embeddings=True, hidden_act="gelu_new", rope_parameters={
                                              "rope_type": "default", "rope_theta": 500.0,
                                              "partial_rotary_factor": 0.5}), old_neox, {}),
        "llama": (LlamaConfig(**shared, rope_parameters={"rope_type": "default", "rope_theta": 500_000.0}), None, {}),
        "llama3": (LlamaConfig(**shared, head_dim=2 * width // heads, attention_bias=True, tie_word_embeddings=True,
                               rms_norm_eps=1e-5, rope_parameters=llama3), None, {}),
        "llama-linear": (LlamaConfig(**shared, mlp_bias=True, rope_parameters={"rope_type": "linear", "factor": 2.0,
                                                                               "rope_theta": 10_000.0}), old_llama,
                         {"dtype": torch.bfloat16, "shards": True}),
        "mistral": (MistralConfig(**shared, sliding_window=context - 2), None, {"dtype": torch.float16}),
        "qwen2": (Qwen2Config(**shared, tie_word_embeddings=True), None, {}),
    }


def write(path, config, change, how, seed):
    """Writes a folder with random weights and returns the model, in f64."""
    from transformers import AutoModelForCausalLM

    shutil.rmtree(path, ignore_errors=True)
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            one = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            size = 0.3 if parameter.ndim == 1 else 1.2 / parameter.shape[1] ** 0.5
            parameter.copy_((one + size * noise).to(how.get("dtype", torch.float32)).float())
    stored = model.to(how.get("dtype", torch.float32))
    stored.save_pretrained(path, max_shard_size=int(6e3) if how.get("shards") else "5GB")
    (path / "generation_config.json").unlink(missing_ok=True)
    if how.get("bare"):
        # As the Hub's oldest files: no prefix, and buffers beside the weights.
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path / "model.safetensors").items()}
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
    if change:
        keys = json.loads((path / "config.json").read_text())
        change(keys)
        (path / "config.json").write_text(json.dumps(keys, indent=2) + "\n")
    return model


def in_f64(path):
    """The model of a folder as transformers computes it, in f64 but for what it always computes in f32 (RMSNorm, angles)."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64, attn_implementation="eager").eval()


def tokens_of(vocab, shape, seed):
    return np.random.default_rng(seed).integers(0, vocab, shape)


def golden():
    place = ROOT / "tests/golden/formats"
    shutil.rmtree(place, ignore_errors=True)
    for seed, (name, (config, change, how)) in enumerate(cases(2, 16, 4, 12, 19, 12).items()):
        path = place / name
        write(path, config, change, how, seed)
        tokens = tokens_of(19, (2, 9), seed)
        with torch.no_grad():
            logits = in_f64(path)(torch.tensor(tokens)).logits
        expected = {"tokens": tokens.tolist(), "logits": logits.tolist()}
        (path / "expected.json").write_text(json.dumps(expected))
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    print(f"{place}: {size} bytes")


def theirs(model, tokens):
    """What transformers computes at our hooks: name -> array."""
    kind, config = model.config.model_type, model.config
    heads = config.num_attention_heads
    found, handles = {}, []

    def heads_of(x, count=heads):
        return x.reshape(*x.shape[:2], count, -1)

    def after(module, take):
        handles.append(module.register_forward_hook(lambda _m, _i, out: take(out[0] if isinstance(out, tuple) else out)))

    def before(module, take):
        handles.append(module.register_forward_pre_hook(lambda _m, inputs: take(inputs[0])))

    def keep(name):
        return lambda x: found.__setitem__(name, x.detach())

    body = model.base_model
    layers = body.h if kind == "gpt2" else body.layers
    for at, layer in enumerate(layers):
        def key(name, at=at):
            return f"blocks.{at}.{name}"

        def split(x, key=key):
            if kind == "gpt2":
                parts = [heads_of(part) for part in x.chunk(3, dim=-1)]
            else:
                parts = heads_of(x).chunk(3, dim=-1)
            for which, part in zip("qkv", parts):
                found[key(f"attn.hook_{which}")] = part.detach()

        if kind == "gpt2":
            norms, attention, out = (layer.ln_1, layer.ln_2), layer.attn, layer.attn.c_proj
            first, last = layer.mlp.c_fc, layer.mlp.c_proj
            after(layer.attn.c_attn, split)
        elif kind == "gpt_neox":
            norms, attention = (layer.input_layernorm, layer.post_attention_layernorm), layer.attention
            out, first, last = attention.dense, layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h
            after(attention.query_key_value, split)
        else:
            norms, attention = (layer.input_layernorm, layer.post_attention_layernorm), layer.self_attn
            out, first, last = attention.o_proj, layer.mlp.gate_proj, layer.mlp.down_proj
            after(attention.q_proj, lambda x, key=key: found.__setitem__(key("attn.hook_q"), heads_of(x)))
            for which, module in (("k", attention.k_proj), ("v", attention.v_proj)):
                name = key(f"attn.hook_{which}")
                after(module, lambda x, name=name: found.__setitem__(name, heads_of(x, config.num_key_value_heads)))
            after(layer.mlp.up_proj, keep(key("mlp.hook_pre_linear")))
        after(norms[0], keep(key("ln1.hook_normalized")))
        after(norms[1], keep(key("ln2.hook_normalized")))
        before(out, lambda x, key=key: found.__setitem__(key("attn.hook_z"), heads_of(x)))
        after(attention, keep(key("hook_attn_out")))
        after(first, keep(key("mlp.hook_pre")))
        before(last, keep(key("mlp.hook_post")))
        after(layer.mlp, keep(key("hook_mlp_out")))
        before(layer, keep(key("hook_resid_pre")))
        after(layer, keep(key("hook_resid_post")))
    final = body.ln_f if kind == "gpt2" else body.final_layer_norm if kind == "gpt_neox" else body.norm
    after(final, keep("ln_final.hook_normalized"))
    with torch.no_grad():
        out = model(torch.tensor(tokens), output_attentions=True)
    for handle in handles:
        handle.remove()
    for at, pattern in enumerate(out.attentions):
        found[f"blocks.{at}.attn.hook_pattern"] = pattern
    found["logits"] = out.logits
    return {name: value.double().numpy() for name, value in found.items()}


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")


def relative(ours, exact):
    return float(np.linalg.norm(ours.reshape(exact.shape) - exact) / np.linalg.norm(exact))


HOOKS = ["hook_resid_pre", "ln1.hook_normalized", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_pattern",
         "attn.hook_z", "hook_attn_out", "ln2.hook_normalized", "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post",
         "hook_mlp_out", "hook_resid_post"]


def check(args):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    work = args.work
    work.mkdir(parents=True, exist_ok=True)
    binaries = ROOT / "target" / args.build
    models = {}
    for seed, (name, (config, change, how)) in enumerate(cases(6, 64, 4, 96, 101, 96).items()):
        write(work / name, config, change, how, seed)
        words = {f"w{at}": at for at in range(101)}
        Tokenizer(WordLevel(words, unk_token="w0")).save(str(work / name / "tokenizer.json"))
        models[name] = work / name
    for path in args.model:
        models[path.name] = path
    rows, ends = [], []
    for name, path in models.items():
        model = in_f64(path)
        tokens = tokens_of(model.config.vocab_size, (2, 80), 7)
        exact = theirs(model, tokens)
        (work / "tokens.json").write_text(json.dumps(tokens.tolist()))
        run(binaries / "examples/hooks", path, work / "tokens.json", work / "hooks.safetensors")
        ours = {key: value.double().numpy() for key, value in load_file(work / "hooks.safetensors").items()}
        layers = model.config.num_hidden_layers
        for word, layer in (("early", 0), ("middle", layers // 2), ("late", layers - 1)):
            errors = [(ours.get(f"blocks.{layer}.{hook}"), exact.get(f"blocks.{layer}.{hook}")) for hook in HOOKS]
            rows.append((name, f"{word}, {layer}", [None if b is None else relative(a, b) for a, b in errors]))
        logits, last = (relative(ours[key], exact[key]) for key in ("logits", "ln_final.hook_normalized"))

        exported = work / f"{name}-exported"
        shutil.rmtree(exported, ignore_errors=True)
        for to, folder in (("hf", "hf"), ("transformer-lens", "lens")):
            run(binaries / "thermoscope", "export", path, "--out", exported / folder, "--to", to)
        with torch.no_grad():
            again = in_f64(exported / "hf")(torch.tensor(tokens)).logits.numpy()
        save_file({"tokens": torch.tensor(tokens), "logits": torch.tensor(exact["logits"])}, exported / "expected.safetensors")
        ends.append((name, model.config.model_type, last, logits, relative(again, exact["logits"])))
        print(f"{name:18} logits {logits:.1e}  exported {ends[-1][-1]:.1e}  "
              f"worst hook {max(e for row in rows if row[0] == name for e in row[2] if e is not None):.1e}", flush=True)
    import transformers
    found = {"transformers": transformers.__version__, "rows": rows, "ends": ends}
    (work / "check.json").write_text(json.dumps(found))


def document(work):
    def number(x):
        return "" if x is None else "0" if x == 0 else f"{x:.0e}".replace("e-0", "e-")

    found = json.loads((work / "check.json").read_text())
    lenses = {major: json.loads((work / f"lens-{major}.json").read_text()) for major in "24" if (work / f"lens-{major}.json").exists()}
    versions = [f"TransformerLens {lens['version']}" for lens in lenses.values()]
    lines = [
        "# Model folders against other libraries", "",
        "What `tools/formats.py` measured: random models of six layers (the script has their configurations) and SmolLM2-135M-Instruct",
        "(`tools/fetch-smollm2`), 2 x 80 tokens, f32 on Mesa's lavapipe against",
        f"transformers {found['transformers']} in f64, which takes norms of the Llama family and rotary angles in f32 even so. Errors are norms of",
        "differences relative to norms of values. *Exported* is what transformers, in f64 too, and TransformerLens, in f32, compute from what",
        "`thermoscope export` wrote; a dash where TransformerLens does not compute such a model.", "",
        "| model | `model_type` | behind the last norm | logits | exported | " + " | ".join(versions) + " |",
        "|---" * (5 + len(versions)) + "|",
    ]
    for name, kind, last, logits, again in found["ends"]:
        by = [lens["errors"].get(name) for lens in lenses.values()]
        cells = [name, f"`{kind}`", number(last), number(logits), number(again), *(number(x) or "-" for x in by)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "", "TransformerLens 4 takes no notice of `scale_attn_weights: false` (gpt2-untied) and has no GPT-NeoX without biases of attention;",
        "TransformerLens 2 has no linear scaling of rotary positions, and adds one bias of gated MLPs behind the gate.",
        "", "At the hooks of an early, a middle and a late layer (behind `blocks.{layer}.`):", "",
    ]
    lines += ["| model | layer | " + " | ".join(f"`{hook.replace('hook_', '')}`" for hook in HOOKS) + " |", "|---" * (len(HOOKS) + 2) + "|"]
    lines += [f"| {name} | {layer} | " + " | ".join(map(number, errors)) + " |" for name, layer, errors in found["rows"]]
    (ROOT / "docs/formats.md").write_text("\n".join(lines) + "\n")


def lens(work):
    """Exported folders in TransformerLens."""
    import importlib.metadata

    version = importlib.metadata.version("transformer_lens")
    errors = {}
    for folder in sorted(work.glob("*-exported")):
        expected = load_file(folder / "expected.safetensors")
        try:
            if version.startswith("2"):
                model = of_hooked(folder / "lens")
            else:
                from transformer_lens.model_bridge import TransformerBridge

                model = TransformerBridge.boot_transformers(str(folder / "hf"), device="cpu", dtype=torch.float32)
        except (AssertionError, NotImplementedError) as error:
            print(f"{folder.name:28} TransformerLens {version} does not compute it: {error!r}")
            continue
        with torch.no_grad():
            error = relative(model(expected["tokens"]).double().numpy(), expected["logits"].numpy())
        errors[folder.name.removesuffix("-exported")] = error
        print(f"{folder.name:28} TransformerLens {version} logits {error:.1e}", flush=True)
    (work / f"lens-{version[0]}.json").write_text(json.dumps({"version": version, "errors": errors}))


def of_hooked(folder):
    """A HookedTransformer with the weights of a folder. It has every bias, and those that are not there are zero."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    keys = json.loads((folder / "config.json").read_text())
    known = HookedTransformerConfig.__dataclass_fields__
    scaling = keys.pop("rotary_scaling")
    config = {key: value for key, value in keys.items() if key in known and key not in ("init_mode",)}
    config["rotary_base"] = int(config["rotary_base"])
    if config["positional_embedding_type"] != "rotary":
        config.pop("rotary_dim")
    if config["n_key_value_heads"] == config["n_heads"]:
        config["n_key_value_heads"] = None
    if keys["gate_biases"] or "linear" in scaling:
        raise NotImplementedError(f"rotary_scaling = {scaling}, gate_biases = {keys['gate_biases']}")
    if "llama3" in scaling:
        llama3 = scaling["llama3"]
        config.update(use_NTK_by_parts_rope=True, NTK_by_parts_factor=llama3["factor"],
                      NTK_by_parts_low_freq_factor=llama3["low_freq_factor"],
                      NTK_by_parts_high_freq_factor=llama3["high_freq_factor"],
                      NTK_original_ctx_len=llama3["original_n_ctx"])
    model = HookedTransformer(HookedTransformerConfig(**config, device="cpu"))
    state = load_file(folder / "model.safetensors")
    if keys["tied_embeddings"]:
        state["unembed.W_U"] = state["embed.W_E"].T.contiguous()
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = [name for name in missing if not name.split(".")[-1].lstrip("_").startswith(("b_", "mask", "IGNORE", "rotary"))]
    assert not wrong and not unexpected, (wrong, unexpected)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["golden", "check", "lens", "document"])
    parser.add_argument("--build", default="debug", help="folder of the binaries under target/")
    parser.add_argument("--work", type=Path, default=Path("/tmp/formats"), help="where models are written")
    parser.add_argument("--model", type=Path, action="append", default=[], help="a folder of a model from elsewhere")
    args = parser.parse_args()
    if args.command == "golden":
        golden()
    elif args.command == "check":
        check(args)
    elif args.command == "lens":
        lens(args.work)
    else:
        document(args.work)
