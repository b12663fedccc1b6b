"""Trains on a file by several processes; run by test_distributed.py.

    python distributed.py FILE DEVICES BATCH_SIZE BATCH_NORM ENGINE OUT

ENGINE is "compiled", "superbatch" (of steps with autograd) or "step by step".

Nothing is drawn in training, so that the losses depend on the minibatches alone.
"""

import json
import sys
import warnings

from lightning.pytorch import Callback

from scivae.model import CIVAE, BlockDataModule
from scivae.train import steps


class Stop(Callback):
    """Ends the training in its third epoch, in all processes."""

    def on_train_epoch_start(self, trainer, plan):
        if trainer.current_epoch == 2:
            raise InterruptedError("stopped on purpose")


def main(path: str, devices: int, batch_size: int, batch_norm: str, engine: str, out: str) -> None:
    if engine == "superbatch":
        steps.can_compile = lambda *args: False
    unlabeled = {"unlabeled_category": "unknown"} if "few" in path else {}
    data = BlockDataModule(
        path, batch_size=batch_size, block_size=7, pool_size=40, train_size=0.8, **unlabeled
    )
    model = CIVAE(
        registry=data.registry,
        n_latent=4,
        n_hidden=16,
        dropout_rate=0.0,
        sample_latent=False,
        use_batch_norm=batch_norm,
    )
    # scvi-tools' own networks have parameters that their loss does not use.
    spread = {"strategy": "ddp_find_unused_parameters_true"} if devices > 1 else {}
    model.train(
        datamodule=data,
        max_epochs=3,
        accelerator="cpu",
        devices=devices,
        plan_kwargs={
            "lr": 0.01,
            "thinning": 0.0,
            **({"minibatch_size": None} if engine == "step by step" else {}),
        },
        enable_progress_bar=False,
        checkpoint_dir="checkpoints" if devices > 1 else None,
        callbacks=[Stop()] if "stop" in out else [],
        **spread,
    )
    if devices > 1:
        model.annotate(data, parts="parts")
    if model.trainer.is_global_zero:
        history = {k: v.to_numpy(float).ravel().tolist() for k, v in model.history.items()}
        weights = {k: v.double().ravel().tolist() for k, v in model.module.state_dict().items()}
        with open(out, "w") as file:
            json.dump({"history": history, "weights": weights, "engine": model.engine}, file)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
