"""A small run with two replicas that the command makes, once for all tests."""

from typing import Any

import pandas
import pytest

import thermoscope

SMALL: dict[str, Any] = {
    "name": "small",
    "steps": 120,
    "task": {"kind": "modular", "p": 13},
    "model": {"d_model": 16, "n_heads": 2},
    "optimizer": {"learning_rate": 0.01},
    "checkpoint": {"every": 50, "keep": 0},
    "measure": {"budget": 1e9, "every": {"ablation": 20}, "probe": {"size": 16, "draws": 80}},
    "replica": [{"name": "main"}, {"name": "shuffled", "shuffle_labels": True, "control_of": "main"}],
}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> thermoscope.Run:
    out = tmp_path_factory.mktemp("runs") / "small"
    return thermoscope.run(SMALL, out, seed=3, measure={"every": {"loss.test": 5}})


@pytest.fixture(scope="session")
def whole(small: thermoscope.Run) -> pandas.DataFrame:
    """Its table, as pandas reads it by itself."""
    return pandas.read_parquet(small.path / "metrics")
