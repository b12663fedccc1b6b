"""Train several networks of one shape at once: as one network with a dimension more.

A step of one small network is some hundred operations, each of which takes a GPU longer to start than to do.
Here a weight of all networks is one tensor, and a product of theirs is one batched product.
Loss, initial weights and optimizer are those of scivae and scvi-tools (a test compares them). What is drawn in
an epoch depends on the number of the epoch only, so that training that was interrupted goes on from its last
checkpoint.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import nn
from torch.nn import functional as F

import scivae
from scivae.module._likelihoods import MIN_SCALE

# Columns of the log: means over the images of an epoch.
TERMS = ("reconstruction", "KL", "cross-entropy", "accuracy", "MAE, %")
# Hidden units of the discriminator that is not linear.
HIDDEN = 64
# Seconds between two checkpoints.
BETWEEN_CHECKPOINTS = 120.0
# Of scvi-tools: batch normalization, the least variance of the encoder, and Adam.
MOMENTUM, BN_EPS, VAR_EPS = 0.01, 1e-3, 1e-4
ADAM_EPS, WEIGHT_DECAY = 0.01, 1e-6
N_LATENT = 20


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained.

    Attributes
    ----------
    beta, alpha
        Weights of the discriminator and of the KL term.
    n_layers, n_hidden
        Layers of the encoder, and of the decoder, and their units.
    dropout, decoder_dropout
        Rates of dropout after each of these layers.
    lr, epochs, batch_size
        Learning rate, epochs, images of a minibatch. The rest of an epoch is left out.
    warm_up, lr_decay
        Shares of the epochs: the first, in which alpha and beta rise, and the last, in which the learning
        rate falls to zero.
    thinning
        Largest share of the pixels of an image that the encoder does without.
    distorted
        Whether each image is turned, scaled, moved and bent at random each time it is seen.
    settle
        Share of the epochs, the last, without dropout and with images as they are.
    labels
        What the classes are; see ``_mnist_networks.py``.
    discriminator
        ``"linear"``; ``"hidden"`` for one hidden layer; ``"stopped"`` for a linear one whose gradient does
        not reach the encoder.
    """

    beta: float
    alpha: float = 1.0
    n_layers: int = 7
    n_hidden: int = 256
    dropout: float = 0.1
    decoder_dropout: float = 0.0
    lr: float = 1e-3
    epochs: int = 2000
    batch_size: int = 512
    warm_up: float = 0.1
    lr_decay: float = 0.5
    thinning: float = 0.0
    distorted: bool = False
    settle: float = 0.0
    labels: str = "digit"
    discriminator: str = "linear"

    @property
    def shape(self) -> tuple:
        """Networks with the same can be trained together."""
        curved = self.discriminator == "hidden"
        steps = self.epochs, self.batch_size, self.lr, self.settle
        return self.n_layers, self.n_hidden, *steps, curved


class Curved(nn.Sequential):
    """A discriminator with a hidden layer."""

    @property
    def weight(self) -> torch.Tensor:
        """Of the first layer: the package asks it for its device."""
        return self[0].weight


def build(recipe: Recipe, adata, seed: int) -> scivae.model.CIVAE:
    """The model of a recipe, not trained, on an AnnData that is set up."""
    model = scivae.model.CIVAE(
        adata,
        seed=seed,
        likelihood="laplace",
        sigmoid=True,
        n_latent=N_LATENT,
        discriminator_weight=recipe.beta,
        kl_weight=recipe.alpha,
        n_layers=recipe.n_layers,
        n_hidden=recipe.n_hidden,
        dropout_rate=recipe.dropout,
        class_weights="none",
    )
    if recipe.discriminator == "hidden":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.module.discriminator = Curved(
                nn.Linear(N_LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, model.module.n_classes)
            )
    return model


@dataclass
class Task:
    """A network to train.

    Attributes
    ----------
    name
        Of its file.
    recipe
        How it is trained.
    module
        The network of :func:`build`, on a CPU.
    codes
        Codes of the labels of all images; the number of classes for images without a label.
    train, validation
        Positions of images.
    seed
        Of what is drawn.
    """

    name: str
    recipe: Recipe
    module: nn.Module
    codes: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    seed: int


class Stack:
    """Networks in training.

    Parameters
    ----------
    tasks
        Their recipes have the same :attr:`Recipe.shape`.
    images
        Values in 0 to 255, ``(n, pixels)``, on the device.
    compiled
        Whether the step is compiled, which takes a minute.
    bfloat16
        Whether matrices are multiplied in bfloat16. Weights, normalization and losses stay in single
        precision.
    """

    def __init__(
        self,
        tasks: list[Task],
        images: torch.Tensor,
        compiled: bool = False,
        bfloat16: bool = False,
    ):
        device = images.device
        recipe = tasks[0].recipe
        if any(task.recipe.shape != recipe.shape for task in tasks):
            raise ValueError("networks that are trained together must have the same shape.")
        self.tasks, self.images, self.recipe = tasks, images, recipe
        self.device, self.k, self.bfloat16 = device, len(tasks), bfloat16
        self.names = _names(tasks[0].module, recipe)
        self.n_classes = max(task.module.n_classes for task in tasks)
        states = [self._padded(task.module) for task in tasks]
        # matrices as (networks, inputs, outputs)
        self.weights = {
            name: torch.stack([_turned(state[name]) for state in states]).to(device)
            for name in self.names
        }
        # Batch normalization takes away what the bias before it adds, so that its slope is zero.
        still = {name.removesuffix(".1") + ".0.bias" for name in _normalized(recipe)}
        self.trained = [w.requires_grad_() for name, w in self.weights.items() if name not in still]
        self.rate = torch.zeros((), device=device)
        self.optimizer = torch.optim.Adam(
            self.trained,
            lr=self.rate,
            eps=ADAM_EPS,
            weight_decay=WEIGHT_DECAY,
            fused=True,
            capturable=device.type == "cuda",
        )
        # running mean and variance of each layer: (2, layers, networks, units)
        shape = (2, 2 * recipe.n_layers, self.k, recipe.n_hidden)
        self.running = torch.zeros(shape, device=device)
        self.running[1] = 1
        self.codes = self._each(lambda t: t.codes, torch.long)
        self.train = self._each(lambda t: t.train, torch.long)
        self.validation = self._each(lambda t: t.validation, torch.long)
        self.classes = self._each(lambda t: t.module.n_classes, torch.long)[:, None]
        self.beta, self.alpha = (
            self._each(lambda t, of=of: getattr(t.recipe, of)) for of in ("beta", "alpha")
        )
        self.reaches = self._each(lambda t: t.recipe.discriminator != "stopped")[:, None, None]
        self.keep, self.decoder_keep, self.thinning = (
            self._each(lambda t, of=of: getattr(t.recipe, of))[:, None, None]
            for of in ("dropout", "decoder_dropout", "thinning")
        )
        self.keep, self.decoder_keep = 1 - self.keep, 1 - self.decoder_keep
        self.distort = self._each(lambda t: t.recipe.distorted).nonzero()[:, 0]
        self.drops = bool((self.keep < 1).any()), bool((self.decoder_keep < 1).any())
        self.thins = bool(self.thinning.any())
        self.n_batches = self.train.shape[1] // recipe.batch_size
        shape = (self.n_batches, self.k, recipe.batch_size)
        self.order = torch.zeros(shape, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.share = torch.zeros((), device=device)
        self.unsettled = torch.ones((), device=device)
        self.sums = torch.zeros(self.k, len(TERMS), device=device)
        self.log = np.zeros((recipe.epochs, self.k, len(TERMS)), np.float32)
        self.checks: list[tuple[int, list]] = []
        self.epoch, self.seconds = 0, 0.0
        maybe = torch.compile if compiled else lambda function: function
        self._loss, self._minibatch = maybe(self.loss), maybe(self.minibatch)

    def _each(self, of, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        values = np.array([of(task) for task in self.tasks])
        return torch.as_tensor(values, device=self.device).to(dtype)

    def _padded(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """Weights, with as many classes in each network."""
        state = {key: value.detach().cpu() for key, value in module.state_dict().items()}
        for name in self.names[-2:]:  # of the last layer of the discriminator
            missing = self.n_classes - len(state[name])
            state[name] = torch.cat([state[name], torch.zeros(missing, *state[name].shape[1:])])
        return state

    def loss(self, w, x, codes, share, running=None):
        """Losses of a minibatch of each network ``(networks, images, pixels)``, values in [0, 1].

        Parameters
        ----------
        w
            Weights by name, each ``(networks, ...)``.
        x, codes
            Images and codes of their labels.
        share
            Of alpha and beta.
        running
            Means and variances of evaluation; ``None`` in training.

        Returns
        -------
        Sum of the losses, terms ``(networks, terms)``, and the means and variances of training.
        """
        recipe, moments = self.recipe, []

        def linear(h, name):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                return torch.baddbmm(w[f"{name}.bias"][:, None], h, w[f"{name}.weight"]).float()

        def layer(h, name, i, keep, drops):
            h = linear(h, f"{name}.0")
            if running is None:
                variance, mean = torch.var_mean(h, 1, keepdim=True, correction=0)
                n = h.shape[1]
                moments.append(torch.stack([mean[:, 0], variance[:, 0] * (n / (n - 1))]).detach())
            else:
                mean, variance = running[0, i][:, None], running[1, i][:, None]
            h = (h - mean) * (variance + BN_EPS).rsqrt()
            h = torch.relu(h * w[f"{name}.1.weight"][:, None] + w[f"{name}.1.bias"][:, None])
            if drops and running is None:
                keep = 1 - (1 - keep) * self.unsettled
                h = h * (torch.rand_like(h) < keep) / keep
            return h

        h = x
        if self.thins and running is None:
            kept = 1 - self.thinning * torch.rand(self.k, x.shape[1], 1, device=x.device)
            h = x * (torch.rand_like(x) < kept)
        for i in range(recipe.n_layers):
            h = layer(h, f"z_encoder.encoder.fc_layers.Layer {i}", i, self.keep, self.drops[0])
        mean = linear(h, "z_encoder.mean_encoder")
        variance = linear(h, "z_encoder.var_encoder").exp() + VAR_EPS
        z = mean if running is not None else mean + variance.sqrt() * torch.randn_like(mean)
        h = z
        for i in range(recipe.n_layers):
            at = recipe.n_layers + i
            name = f"decoder.px_decoder.fc_layers.Layer {i}"
            h = layer(h, name, at, self.decoder_keep, self.drops[1])
        decoded = torch.sigmoid(linear(h, "decoder.px_scale_decoder.0"))
        scale = w["px_r"].exp().clamp_min(MIN_SCALE)[:, None]
        error = (x - decoded).abs()
        reconstruction = (error / scale + (2 * scale).log()).sum(-1).mean(-1)
        kl = 0.5 * (variance + mean.square() - 1 - variance.log()).sum(-1).mean(-1)
        h = z.detach() + self.reaches * (z - z.detach())
        if recipe.discriminator == "hidden":
            h = linear(torch.relu(linear(h, "discriminator.0")), "discriminator.2")
        else:
            h = linear(h, "discriminator")
        none = torch.arange(self.n_classes, device=x.device) >= self.classes[..., None]
        logits = h.masked_fill(none, -1e9)
        labeled = codes < self.classes
        y = torch.minimum(codes, self.classes - 1)
        entropy = -logits.log_softmax(-1).gather(-1, y[..., None])[..., 0] * labeled
        right = ((logits.argmax(-1) == y) & labeled).float()
        n_labeled = labeled.sum(-1).clamp(min=1)
        losses = reconstruction + share * (self.alpha * kl + self.beta * entropy.mean(-1))
        terms = torch.stack(
            [
                reconstruction,
                kl,
                entropy.sum(-1) / n_labeled,
                right.sum(-1) / n_labeled,
                100 * error.mean((1, 2)),
            ],
            -1,
        ).detach()
        return losses.sum(), terms, torch.stack(moments, 1) if moments else None

    def minibatch(self, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images ``(networks, images, pixels)`` and codes at positions ``(networks, images)``."""
        x = self.images.index_select(0, at.ravel()).view(*at.shape, -1).float() / 255
        return x, self.codes.gather(1, at)

    def step(self) -> None:
        """A step on the next minibatch of the epoch."""
        at = self.order.index_select(0, self.position)[0]
        self.position += 1
        x, codes = self._minibatch(at)
        if len(self.distort):
            some = x[self.distort]
            moved = distorted(some.reshape(-1, x.shape[-1]), self.unsettled)
            x[self.distort] = moved.view_as(some)
        loss, terms, moments = self._loss(self.weights, x, codes, self.share)
        slopes = torch.autograd.grad(loss, self.trained)
        for weight, slope in zip(self.trained, slopes, strict=True):
            weight.grad = slope.contiguous()  # the fused optimizer reads memory as it lies
        self.optimizer.step()
        with torch.no_grad():
            self.running.lerp_(moments, MOMENTUM)
            self.sums += terms

    def start_epoch(self) -> None:
        """Order of the images, weights and learning rate of an epoch."""
        recipe, done = self.recipe, self.epoch / self.recipe.epochs
        n = self.n_batches * recipe.batch_size
        for i, task in enumerate(self.tasks):
            generator = torch.Generator(self.device)
            generator.manual_seed(task.seed * 1_000_003 + self.epoch)
            shuffled = torch.randperm(self.train.shape[1], generator=generator, device=self.device)[
                :n
            ]
            self.order[:, i] = self.train[i, shuffled].view(self.n_batches, -1)
        self.position.zero_()
        self.sums.zero_()
        self.unsettled.fill_(float(self.epoch < round((1 - recipe.settle) * recipe.epochs)))
        self.share.fill_(min(1.0, done / recipe.warm_up) if recipe.warm_up else 1.0)
        left = (1 - done) / recipe.lr_decay if recipe.lr_decay else 1.0
        self.rate.fill_(recipe.lr * min(1.0, left))

    @torch.no_grad()
    def check(self) -> list[list[float]]:
        """Error in percent, accuracy and cross-entropy of each on validation images."""
        x, codes = self.minibatch(self.validation)
        _, terms, _ = self.loss(self.weights, x, codes, self.share, self.running)
        return terms[:, [4, 3, 2]].tolist()

    def state(self) -> dict:
        """What training goes on from."""
        return {
            "weights": {name: value.detach() for name, value in self.weights.items()},
            "optimizer": self.optimizer.state_dict(),
            "running": self.running,
            "log": torch.as_tensor(self.log),
            "checks": self.checks,
            "epoch": self.epoch,
            "seconds": self.seconds,
        }

    @torch.no_grad()
    def restore(self, state: dict) -> None:
        """Go on from there."""
        for name, value in state["weights"].items():
            self.weights[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0]["lr"] = self.rate
        self.running.copy_(state["running"])
        self.log, self.checks = state["log"].cpu().numpy(), state["checks"]
        self.epoch, self.seconds = state["epoch"], state["seconds"]

    def state_dict(self, i: int) -> dict[str, torch.Tensor]:
        """The weights of a network, as its module has them."""
        module = self.tasks[i].module
        found = {key: value.clone() for key, value in module.state_dict().items()}
        for name, value in self.weights.items():
            found[name] = _turned(value[i].detach().cpu())[: len(found[name])].clone()
        for at, name in enumerate(_normalized(self.recipe)):
            found[f"{name}.running_mean"] = self.running[0, at, i].cpu().clone()
            found[f"{name}.running_var"] = self.running[1, at, i].cpu().clone()
        return found

    def save(self, folder: Path, half: bool = False) -> None:
        """Write each trained network, what was logged, and how long all took together."""
        for i, task in enumerate(self.tasks):
            weights = self.state_dict(i)
            torch.save(
                {
                    "weights": {
                        k: v.half() if half and v.is_floating_point() else v
                        for k, v in weights.items()
                    },
                    "log": torch.as_tensor(self.log[:, i]),
                    "checks": torch.tensor([[epoch, *found[i]] for epoch, found in self.checks]),
                    "seconds": self.seconds,
                    "together": self.k,
                    "bfloat16": self.bfloat16,
                    "device": device_name(self.device),
                },
                folder / f"{task.name}.pt",
            )


def _normalized(recipe: Recipe) -> list[str]:
    return [
        f"{part}.fc_layers.Layer {i}.1"
        for part in ("z_encoder.encoder", "decoder.px_decoder")
        for i in range(recipe.n_layers)
    ]


def _names(module: nn.Module, recipe: Recipe) -> list[str]:
    """Weights that are trained, those of the discriminator last."""
    last = "discriminator.2" if recipe.discriminator == "hidden" else "discriminator"
    # what only other likelihoods use
    unused = ("decoder.px_r_decoder", "decoder.px_dropout_decoder", "l_encoder")
    names = [name for name, _ in module.named_parameters() if not name.startswith(unused)]
    ends = [f"{last}.weight", f"{last}.bias"]
    return [name for name in names if name not in ends] + ends


def _turned(weight: torch.Tensor) -> torch.Tensor:
    return weight.t().contiguous() if weight.dim() == 2 else weight


def device_name(device: torch.device) -> str:
    """Name of a GPU, or "CPU"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def load(model: scivae.model.CIVAE, path: Path) -> dict:
    """Give a model the weights of a file of :meth:`Stack.save`; returns the rest of the file."""
    saved = torch.load(path, weights_only=True, map_location="cpu")
    weights = {k: v.float() if v.is_floating_point() else v for k, v in saved["weights"].items()}
    model.module.load_state_dict(weights)
    model.module.eval()
    model.is_trained_ = True
    return saved


def train_together(
    stack: Stack, folder: Path, *, n_checks: int = 40, limit: float = np.inf
) -> bool:
    """Train networks; whether all epochs were done in the time.

    Parameters
    ----------
    stack
        It goes on from its checkpoint in ``folder``, where there is one.
    folder
        Of the checkpoint.
    n_checks
        How often validation images are looked at.
    limit
        Seconds after which training stops, with a checkpoint.
    """
    start, epochs = time.perf_counter(), stack.recipe.epochs
    checkpoint = folder / f"{stack.tasks[0].name}_and_{stack.k}.ckpt"
    if checkpoint.exists():
        stack.restore(torch.load(checkpoint, weights_only=True, map_location=stack.device))
    step = _Recorded(stack) if stack.device.type == "cuda" else stack.step
    every, saved, before = max(1, epochs // n_checks), start, stack.seconds
    while stack.epoch < epochs:
        torch.manual_seed(stack.tasks[0].seed * 1_000_003 + stack.epoch)
        stack.start_epoch()
        for _ in range(stack.n_batches):
            step()
        stack.log[stack.epoch] = (stack.sums / stack.n_batches).cpu().numpy()
        now = time.perf_counter()
        stack.epoch += 1
        stack.seconds = before + now - start
        if stack.epoch % every == 0 or stack.epoch == epochs:
            stack.checks.append((stack.epoch, stack.check()))
            print(
                f"epoch {stack.epoch} of {epochs}, {stack.k} networks: {stack.seconds:.0f} s",
                flush=True,
            )
        late = now - start > limit
        if late or now - saved > BETWEEN_CHECKPOINTS:
            torch.save(stack.state(), checkpoint)
            saved = now
        if late and stack.epoch < epochs:
            return False
    checkpoint.unlink(missing_ok=True)
    return True


class _Recorded:
    """A step, as a CUDA graph.

    Steps before the recording change nothing: all that they change is put back.
    """

    def __init__(self, stack: Stack):
        self.stack = stack
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self.graph is None:
            self._record()
        self.graph.replay()

    def _record(self) -> None:
        stack = self.stack
        changed = [*stack.trained, stack.running, stack.position, stack.sums]
        before = [value.detach().clone() for value in changed]
        moments = [
            {key: value.clone() for key, value in stack.optimizer.state[weight].items()}
            for weight in stack.trained
        ]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                stack.step()
        torch.cuda.current_stream().wait_stream(aside)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            stack.step()
        with torch.no_grad():
            for value, old in zip(changed, before, strict=True):
                value.copy_(old)
            for weight, old in zip(stack.trained, moments, strict=True):
                for key, value in stack.optimizer.state[weight].items():
                    value.copy_(old[key]) if old else value.zero_()


@lru_cache
def _between(n: int, side: int, device: torch.device) -> torch.Tensor:
    """Weights ``(side, n)`` of n points of a line at each of its pixels: cubic, and each sums to one."""
    weights = CubicSpline(np.linspace(0, side - 1, n), np.eye(n))(np.arange(side))
    return torch.as_tensor(weights, dtype=torch.float32, device=device)


def distorted(x: torch.Tensor, strength: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Images ``(n, side²)`` turned by up to 15°, scaled by up to 15 %, moved by up to 2 pixels, and bent.

    All of it times ``strength``: with 0, images as they are.
    """
    n, side = len(x), round(x.shape[1] ** 0.5)

    def drawn(*shape):
        return (2 * torch.rand(*shape, device=x.device) - 1) * strength

    angle, scale = drawn(n) * 0.26, 1 + 0.15 * drawn(n, 2)
    shear, moved = 0.15 * drawn(n), drawn(n, 2) * 4 / side
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack(
        [
            torch.stack([cos * scale[:, 0], shear - sin * scale[:, 1], moved[:, 0]], -1),
            torch.stack([sin * scale[:, 0], cos * scale[:, 1], moved[:, 1]], -1),
        ],
        1,
    )
    grid = F.affine_grid(turn, [n, 1, side, side], align_corners=False)
    # a displacement of five by five points, smooth in between
    between = _between(5, side, x.device)
    bend = between @ (0.09 * drawn(n, 2, 5, 5)) @ between.T
    grid = grid + bend.permute(0, 2, 3, 1)
    return F.grid_sample(x.view(n, 1, side, side), grid, align_corners=False).view(n, -1)
