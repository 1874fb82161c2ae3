"""Reads with the real tensorboard what `cargo run -p rootstock-train --example events FOLDER` wrote.

    scripts/verify-tensorboard.py FOLDER        (tensorboard 2.21)
"""

import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

accumulator = EventAccumulator(sys.argv[1]).Reload()
tags = set(accumulator.Tags()["scalars"])
expected = {"train/epoch", "train/loss", "train/learning_rate", "train/grad_norm", "eval/loss"}
assert tags == expected, tags
loss = [(event.step, event.value) for event in accumulator.Scalars("train/loss")]
assert loss == [(step, 4.0 if step <= 10 else 2.0) for step in range(1, 16)], loss
rates = [event.value for event in accumulator.Scalars("train/learning_rate")]
assert all(abs(rate * step - 1e-3) < 1e-9 for step, rate in enumerate(rates, 1)), rates
evaluations = [(event.step, event.value) for event in accumulator.Scalars("eval/loss")]
assert evaluations == [(5, 4.25), (10, 4.25), (15, 2.25)], evaluations
print(f"tensorboard reads {len(loss)} steps of {len(tags)} scalars")
