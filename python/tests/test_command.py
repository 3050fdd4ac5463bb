"""Calling the command."""

import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import thermoscope
from conftest import SMALL
from thermoscope import CommandError, Run, _toml


def test_configurations_come_back_as_they_were() -> None:
    table: dict[str, Any] = {
        "steps": 20,
        "name": 'a "quoted" \\ name\nin two lines, ü 🌡',
        "rate": 1e-5,
        "on": True,
        "list": [1, 2.5, "x"],
        "task": {"kind": "modular", "key with.dots": {"a": -1}},
        "replica": [{"name": "a"}, {"name": "b", "seed": 7}],
    }
    assert tomllib.loads(_toml.document(table)) == table
    assert tomllib.loads("".join(f"{line}\n" for line in _toml.settings(table))) == table
    assert tomllib.loads(_toml.document({"a": np.float32(0.5), "b": np.arange(2), "c": Path("x/y"), "d": 2**64 - 1})) == {
        "a": 0.5, "b": [0, 1], "c": "x/y", "d": str(2**64 - 1)}  # fmt: skip
    with pytest.raises(TypeError, match="None is no value"):
        _toml.document({"a": None})


def test_what_the_command_prints_is_returned_and_flags_are_words() -> None:
    assert "[task]" in thermoscope.call("presets", "grok")
    assert "formula" in thermoscope.call("instruments", "loss.test")
    assert thermoscope.call("--version").startswith("thermoscope ")


def test_what_the_command_says_is_the_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="neither a preset") as told:
        thermoscope.run("no-such-preset", tmp_path / "out")
    assert told.value.code == 2
    with pytest.raises(CommandError, match="unknown field `weight_decai`"):
        thermoscope.run(SMALL, tmp_path / "out", optimizer={"weight_decai": 1})
    assert not (tmp_path / "out").exists()


def test_a_run_shows_how_far_it_has_come(small: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = thermoscope.run(SMALL, tmp_path / "out", steps=400, checkpoint={"every": 10_000})
    said = capfd.readouterr()
    assert "400 steps done" in said.out and "report: " in said.out
    shown = {line.split("steps: ")[1].split("/400")[0] for line in said.err.split("\r") if "steps: " in line}
    assert len(shown) > 3 and all(number.isdigit() for number in shown), said.err
    assert run.status == "finished" and run.checkpoints == [400]


def test_ctrl_c_saves_and_the_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def interrupt() -> None:
        while not (out / "checkpoints/step-000010").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        thermoscope.run(SMALL, out, steps=100_000, checkpoint={"every": 10, "keep": 2})
    stopped = thermoscope.load_run(out)
    done = stopped.manifest["steps_done"]
    assert stopped.status == "interrupted" and 10 <= done < 100_000 and stopped.checkpoints[-1] == done
    with pytest.raises(CommandError, match="can only add to them"):
        thermoscope.resume(out, steps=done)


def test_a_fork_begins_with_the_weights_of_its_trunk(small: Run, tmp_path: Path) -> None:
    arms = [{"name": "no decay", "intervene": [{"what": "weight_decay", "factor": 0, "from": 0}]}]
    forked = thermoscope.fork(small, 100, arms, tmp_path / "forked", replica=1)
    assert forked.manifest["fork"]["step"] == 100 and "no decay" in forked.replicas
    trunk = small.weights(100, 1)
    for name, value in forked.weights(100, 0).items():
        np.testing.assert_array_equal(value, trunk[name])
    # The arm that nothing is done to is the trunk to the end.
    sham = forked.weights(120, forked.replicas.index("sham"))
    for name, value in small.weights(120, 1).items():
        np.testing.assert_array_equal(value, sham[name])


def test_a_checkpoint_is_measured_and_scanned(small: Run, tmp_path: Path) -> None:
    measured = thermoscope.measure(small.checkpoint(120), tmp_path / "measured")
    assert measured.kind == "measurement"
    both = [run.metrics("loss.test", replica=0, step=step)["value"] for run, step in ((small, 120), (measured, 0))]
    assert both[0].to_list() == pytest.approx(both[1].to_list(), rel=1e-5)


def test_the_base_installation_needs_nothing_but_python(small: Run) -> None:
    # No module beside the standard library's, and what needs one says which extra brings it.
    code = f"""
import sys, thermoscope
run = thermoscope.load_run({str(small.path)!r})
run.config, run.cards, run.events, run.checkpoints, repr(run)
foreign = {{name.split('.')[0] for name in sys.modules}} & {{'numpy', 'polars', 'pandas', 'altair', 'duckdb', 'tqdm'}}
assert not foreign, foreign
for name in ('polars', 'duckdb', 'altair', 'safetensors'):
    sys.modules[name] = None
for what, extra in ((run.metrics, 'data'), (run.weights, 'data'), (lambda: run.sql('select 1'), 'notebook'), (lambda: run.plot, 'notebook')):
    try:
        what()
        raise SystemExit('no error')
    except thermoscope.ThermoscopeError as error:
        assert f"pip install 'thermoscope[{{extra}}]'" in str(error), error
"""
    subprocess.run([sys.executable, "-c", code], check=True)
