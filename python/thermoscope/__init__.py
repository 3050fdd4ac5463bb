"""Thermoscope from Python: start runs, and read what they measured.

>>> import thermoscope
>>> run = thermoscope.run("grok-quick", "runs/quick", optimizer={"weight_decay": 3.0})
>>> run = thermoscope.load_run("runs/quick")
>>> run.metrics("loss.test", step=(0, 1000))
>>> run.plot.loss()

The package needs nothing but its command. ``pip install 'thermoscope[notebook]'`` adds what reads tables, draws and shows
progress; ``thermoscope[models]`` what opens checkpoints in transformers and TransformerLens.
"""

from ._command import CommandError, ThermoscopeError, call, find_binary, fork, measure, resume, run, scan
from ._run import Card, Event, Run, load_run

__all__ = [
    "Card",
    "CommandError",
    "Event",
    "Run",
    "ThermoscopeError",
    "call",
    "find_binary",
    "fork",
    "load_run",
    "measure",
    "resume",
    "run",
    "scan",
]
