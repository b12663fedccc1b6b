"""Checks of the arguments of ``train``: known names, allowed values, and values that go together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import Timer
from scvi.dataloaders import AnnDataLoader, DataSplitter
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.train import Trainer, TrainingPlan, merge_kwargs
from torch.utils.data import DataLoader

from .._errors import got, near_matches, shown
from .._validate.arguments import check_bool, check_choice, check_integer, check_number, check_type
from .engines import n_devices

# Arguments of other libraries and of scvi-tools before 1.0, and what to pass instead.
RENAMED = {
    "callback": "callbacks=[…]",
    "classification_ratio": "CIVAE(…, discriminator_weight=…) when you make the model",
    "cuda": "accelerator='gpu'",
    "device": "accelerator='gpu' (or 'cpu'), and devices=… to choose among several",
    "early_stopping_kwargs": "early_stopping_patience=… and the like by name",
    "epoch": "max_epochs=…",
    "epochs": "max_epochs=…",
    "frequency": "check_val_every_n_epoch=…",
    "gpu": "accelerator='gpu'",
    "gpus": "accelerator='gpu', and devices=… for how many or which",
    "lr_decay_rate": "plan_kwargs={'lr_decay': …}",
    "learning_rate": "plan_kwargs={'lr': …}",
    "n_epochs": "max_epochs=…",
    "max_unsupervised_epochs": "max_epochs=…; labeled and unlabeled cells are trained together",
    "n_epochs_kl": "plan_kwargs={'n_epochs_kl_warmup': …}",
    "n_samples_per_label": "CIVAE(…, class_weights='balanced'), the default, which weighs all classes alike",
    "num_epochs": "max_epochs=…",
    "n_workers": "datasplitter_kwargs={'num_workers': …}",
    "patience": "early_stopping_patience=…",
    "progress_bar": "enable_progress_bar=…",
    "random_seed": "seed=…",
    "random_state": "seed=…",
    "show_progress": "enable_progress_bar=…",
    "test_size": "train_size=… and validation_size=…; the test part is what they leave",
    "use_cuda": "accelerator='gpu'",
    "use_gpu": "accelerator='gpu' (or 'cpu'), and devices=… to choose among several",
    "val_size": "validation_size=…",
    "validation_split": "validation_size=…",
    "verbose": "enable_progress_bar=…",
    "warmup": "plan_kwargs={'n_epochs_kl_warmup': …}",
    "wd": "plan_kwargs={'weight_decay': …}",
}
# Arguments that ``train`` sets, so a user cannot pass them to the splitter.
_OF_SPLITTER_ITSELF = {
    "adata_manager",
    "batch_sampler",
    "data_and_attributes",
    "dataset",
    "distributed_sampler",
    "indices",
    "iter_ndarray",
    "minibatch_size",
    "sampler",
    "shuffle",
}
# Terms that the training plan logs, for training and for held-out cells.
METRICS = (
    "elbo",
    "reconstruction_loss",
    "kl_local",
    "kl_global",
    "classification_loss",
    "accuracy",
)
MONITORS = frozenset(
    {f"{name}_{part}" for name in METRICS for part in ("train", "validation")}
    | {"train_loss", "validation_loss", "kl_weight"}
)
PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed", "32", "64", "16", "bf16")


def _parameters(*takers: Callable[..., Any]) -> set[str]:
    """Names of the parameters of functions or classes, without ``*args`` and ``**kwargs``."""
    return {
        name
        for taker in takers
        for name, p in inspect.signature(taker).parameters.items()
        if name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


class Arguments:
    """The argument names that ``train`` knows, and the argument or dict that each belongs to.

    Parameters
    ----------
    train
        The method ``train``.
    plan
        The class of its training plan.
    """

    def __init__(self, train: Callable[..., Any], plan: type):
        own = _parameters(train, UnsupervisedTrainingMixin.train) | {"ckpt_path"}
        of_trainer = _parameters(Trainer.__init__, LightningTrainer.__init__)
        self.known = {
            "": own | of_trainer,
            "plan_kwargs": _parameters(plan, TrainingPlan) - {"module"},
            "datasplitter_kwargs": _parameters(DataSplitter, AnnDataLoader, DataLoader.__init__)
            - _OF_SPLITTER_ITSELF
            - own,
            "trainer_config": of_trainer,
        }

    def check(self, where: str, names: Iterable[str]) -> None:
        """Raise a TypeError for the first unknown name; the error says what to pass instead.

        Parameters
        ----------
        where
            The dict argument of ``train`` that holds the names, or ``""`` for ``train`` itself.
        names
            The names that the user passed.
        """
        for name in names:
            if name in self.known[where]:
                continue
            what = f"train() has no argument {name!r}" if not where else f"{where} has no {name!r}"
            raise TypeError(f"{what}{self._cure(where, str(name))}")

    def _cure(self, where: str, name: str) -> str:
        for other, known in self.known.items():
            if name in known:
                return f"; pass {_spelled(other, name)}."
        if name in RENAMED and where and _where(RENAMED[name]) == where:
            key = RENAMED[name].partition("{'")[2].partition("'")[0]
            return f". Did you mean {key!r}?"
        if name in RENAMED:
            return f"; pass {RENAMED[name]}."
        if hint := near_matches(name, self.known[where], n=1):
            return f".{hint}"
        for other, known in self.known.items():
            if hint := near_matches(name, known, n=1):
                return f"; did you mean {_spelled(other, hint.split(chr(39))[1])}?"
        return f"; it takes {shown(sorted(self.known[where]), 40)}." if where else "."


def _where(spelled: str) -> str:
    return spelled.partition("={'")[0] if "={'" in spelled else ""


def _spelled(where: str, name: str) -> str:
    return f"{where}={{{name!r}: …}}" if where else f"{name}=…"


def settings(name: str, config: Any) -> dict[str, Any]:
    """The settings in a dict or in a configuration object of scvi-tools, as a dict.

    Parameters
    ----------
    name
        Name of the argument, for the error.
    config
        Mapping of names to values, an object with ``to_kwargs``, or ``None``.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if config is None or isinstance(config, Mapping):
        return dict(config or {})
    if not callable(getattr(config, "to_kwargs", None)):
        raise TypeError(
            f"{name} must be a dict of arguments, got {got(config)}; write {{argument: value}}."
        )
    # A config object lists all settings; ``None`` means that a setting was not given.
    return {k: v for k, v in merge_kwargs(config, None, name=name).items() if v is not None}


def _unless_none(check: Callable[..., Any], **bounds: Any) -> Callable[[str, Any], None]:
    """A check with these bounds that accepts ``None``, which stands for the default."""

    def checked(name: str, value: Any) -> None:
        if value is not None:
            check(name, value, **bounds)

    return checked


def _check_precision(name: str, precision: Any) -> None:
    """Raise unless training supports this precision."""
    if str(precision) not in PRECISIONS:
        raise ValueError(
            f"{name} must be one of {shown(PRECISIONS[:4])}, got {precision!r}; weights of half "
            "precision cannot hold counts and their gradients."
        )


def _check_limit(name: str, value: Any) -> None:
    """Raise for a limit that leaves nothing to train on; -1 and ``None`` are none."""
    if value == 0 or (name == "max_time" and value and Timer(value).time_remaining() == 0):
        raise ValueError(f"{name} must be above 0, got {value!r}; leave it out for no limit.")


_not_negative = partial(check_number, minimum=0)
# Arguments of the training plan and of the trainer, each with its check.
_OF_PLAN: dict[str, Callable[[str, Any], Any]] = {
    "lr": _not_negative,
    "lr_decay": _not_negative,
    "thinning": _not_negative,
    "weight_decay": _not_negative,
    "eps": _not_negative,
    "n_epochs_kl_warmup": _unless_none(check_integer, minimum=0),
    "n_steps_kl_warmup": _unless_none(check_integer, minimum=0),
    "minibatch_size": _unless_none(check_integer, minimum=2),
    "reduce_lr_on_plateau": check_bool,
    "optimizer": partial(check_choice, choices=("Adam", "AdamW", "Custom")),
}
_OF_TRAINER: dict[str, Callable[[str, Any], Any]] = {
    "early_stopping": check_bool,
    "enable_progress_bar": check_bool,
    "simple_progress_bar": check_bool,
    "early_stopping_patience": partial(check_integer, minimum=0),
    "early_stopping_min_delta": check_number,
    "early_stopping_mode": partial(check_choice, choices=("min", "max")),
    "precision": _unless_none(_check_precision),
    "limit_train_batches": _check_limit,
    "max_steps": _check_limit,
    "max_time": _check_limit,
}


def check_plan(options: Mapping[str, Any]) -> None:
    """Raise if a value of ``plan_kwargs`` is out of range."""
    for name in (name for name in _OF_PLAN if name in options):
        _OF_PLAN[name](f"plan_kwargs[{name!r}]", options[name])


def check_trainer(options: dict[str, Any]) -> None:
    """Raise for invalid arguments of the trainer; set in place what follows from others."""
    for name in (name for name in _OF_TRAINER if name in options):
        _OF_TRAINER[name](name, options[name])
    monitor = str(options.get("early_stopping_monitor"))
    if options.get("early_stopping") and monitor.startswith("accuracy"):
        options.setdefault("early_stopping_mode", "max")  # greater is better
    _check_device(options.get("accelerator", "auto"), options.get("devices", "auto"))
    # Lightning's own choice refuses weights that no loss uses, which scvi-tools' networks have.
    if options.get("devices", "auto") != "auto" and n_devices(options) > 1:
        options.setdefault("strategy", "ddp_find_unused_parameters_true")


def _check_device(accelerator: Any, devices: Any) -> None:
    """Raise unless this is an available device in Lightning's notation, not torch's."""
    for name, value in (("accelerator", accelerator), ("devices", devices)):
        text = str(value)
        kind, colon, number = text.partition(":")
        if isinstance(value, torch.device) or (isinstance(value, str) and colon and kind.isalpha()):
            at = int(number) if number.isdigit() else 0
            pass_on = "'cpu'" if kind == "cpu" else f"'gpu', devices=[{at}]"
            raise ValueError(
                f"{name} must not be a device of torch, got {text!r}; pass accelerator={pass_on}."
            )
    if isinstance(devices, str) and devices.isalpha() and devices != "auto":
        raise ValueError(
            f"devices must say how many or which devices to use, or be 'auto', got {devices!r}; "
            f"pass accelerator={devices!r}."
        )
    if accelerator == "cpu" and isinstance(devices, list | tuple):
        raise ValueError(
            f"devices must be a number of processes with accelerator='cpu', got {devices!r}; pass "
            "devices=1."
        )
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    there["gpu"] = any(there.values())
    if isinstance(accelerator, str) and not there.get(accelerator, True):
        raise ValueError(
            f"accelerator={accelerator!r} needs a GPU, but torch finds no GPU; pass "
            "accelerator='auto', which uses a GPU if there is one."
        )


def as_callbacks(callbacks: Any) -> list[Callback]:
    """A new list of the callbacks; a single callback becomes a list of one."""
    found = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    for callback in found:
        check_type("callbacks", callback, Callback, "callbacks of lightning.pytorch")
    return found


def check_monitored(
    held_out: bool, trainer: Mapping[str, Any], plan: Mapping[str, Any], callbacks: Sequence[Any]
) -> None:
    """Raise if an argument monitors a metric that training will not log.

    Parameters
    ----------
    held_out
        Whether there are held-out cells.
    trainer
        Arguments of the trainer.
    plan
        Arguments of the training plan.
    callbacks
        Callbacks of the user, which may log further metrics.
    """
    for what, argument, default, options in (
        ("early_stopping", "early_stopping_monitor", "elbo_validation", trainer),
        ("enable_checkpointing", "checkpointing_monitor", "validation_loss", trainer),
        ("reduce_lr_on_plateau", "lr_scheduler_metric", "elbo_validation", plan),
    ):
        if not options.get(what):
            continue
        metric = options.get(argument, default)
        if metric not in MONITORS and not callbacks:
            raise ValueError(
                f"{argument} must be a number that training logs, got {metric!r}; available: "
                f"{shown(sorted(MONITORS), 20)}.{near_matches(metric, MONITORS)}"
            )
        if not held_out and "validation" in str(metric):
            on_training = str(metric).replace("validation_loss", "train_loss")
            on_training = on_training.replace("_validation", "_train")
            raise ValueError(
                f"{what}=True monitors {metric!r}, but no cells are held out; lower train_size (0.9 "
                f"holds out a tenth), or pass {argument}={on_training!r}."
            )


def split_of(external: Any, n_obs: int) -> list[np.ndarray]:
    """Positions of the training, validation and test cells of a split that the user gave.

    Parameters
    ----------
    external
        ``[train, validation, test]``, each with positions of cells or a mask over all cells. The last
        two can be missing or ``None``.
    n_obs
        Number of cells.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If a position is out of range, or a cell is in two parts or in none.
    """
    rule = "external_indexing must be [train, validation, test], each with positions of cells or a mask"
    if isinstance(external, np.ndarray) and external.ndim == 1 and external.dtype != object:
        raise TypeError(
            f"{rule}, got one array of {len(external)}; pass [train] or [train, validation]."
        )
    if not isinstance(external, list | tuple) or not 1 <= len(external) <= 3:
        raise TypeError(f"{rule}, got {got(external)}; pass one to three arrays in a list.")
    parts = []
    for name, part in zip(("train", "validation", "test"), external, strict=False):
        values = np.asarray([] if part is None else part)
        if values.dtype == bool:
            if values.shape != (n_obs,):
                raise ValueError(
                    f"a mask of external_indexing must have one value for each of {n_obs} cells, "
                    f"got shape {values.shape} for {name}; make it from the AnnData of the model."
                )
            values = np.flatnonzero(values)
        if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
            raise TypeError(
                f"{rule}, got {got(part)} for {name}; convert it with np.flatnonzero or .astype(int)."
            )
        if values.size and not (values.min() >= 0 and values.max() < n_obs):
            wrong = values[(values < 0) | (values >= n_obs)][0]
            raise ValueError(
                f"external_indexing must hold positions from 0 to {n_obs - 1}, got {wrong} for "
                f"{name}; use positions in the AnnData of the model."
            )
        parts.append(values.astype(np.int64))
    parts += [np.array([], dtype=np.int64)] * (3 - len(parts))
    times = np.bincount(np.concatenate(parts), minlength=n_obs)
    if (times > 1).any():
        raise ValueError(
            f"external_indexing must hold each cell once, but cell {int(times.argmax())} appears "
            f"{times.max()} times; {int((times > 1).sum())} cells appear more than once."
        )
    if len(parts[0]) > 1 and not times.all():
        raise ValueError(
            f"external_indexing must hold every cell, but {int((times == 0).sum())} of {n_obs} are "
            "in none of the parts; put unused cells into the third part, the test cells."
        )
    return parts
