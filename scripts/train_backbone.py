"""Trains `aoi-small`, the embedded backbone, to imitate ResNet-18's layer1, layer2 and layer3.

    python scripts/train_backbone.py --teacher resnet18.safetensors --textures TEXTURES --work WORK --steps 6000 --out detect/weights

The teacher is torchvision's ResNet-18 (IMAGENET1K_V1, BSD-3). Images are procedural scenes, the CC0 textures given with `--textures` and
photographs bundled with scikit-image that are CC0 or public domain; nothing else is ever seen, and the checkpoint is judged on held-out
scenes and photographs only. The learning rate stays level and falls to zero over the last `--decay` steps, so a run can be cut
short or made longer: start it again with other `--steps`, and it goes on from its checkpoint in `--work`.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from backbone_export import export
from backbone_images import HELD_OUT_PHOTOS, TRAINING_PHOTOS, Batches, bundled_photos, read_photos, render_pool
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from aoi.detect.embedded import CHANNELS, AoiSmall

SIDES = (128, 192, 192, 256, 256)
RECIPE = ("seed", "steps", "decay", "batch", "lr", "average", "pool", "photo_share")
LAYER_WEIGHTS = (0.25, 1.0, 1.5)
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 255
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) * 255


class TrainedBlock(nn.Module):
    """3×3 convolution, batch norm, a skip where the shapes allow it, ReLU: folds into one convolution with bias."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.skip = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return F.relu(y + x if self.skip else y, inplace=True)


class Teacher:
    """ResNet-18 up to layer3, batch norm folded, bfloat16, and the statistics of its channels on training images."""

    def __init__(self, weights: Path) -> None:
        import timm
        from safetensors.torch import load_file
        from torch.nn.utils.fusion import fuse_conv_bn_eval

        net = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3)).eval()
        net.load_state_dict(load_file(weights), strict=True)
        for module in list(net.modules()):
            children = dict(module.named_children())
            for conv, norm in (("conv1", "bn1"), ("conv2", "bn2"), ("0", "1")):
                if isinstance(children.get(norm), nn.BatchNorm2d):
                    setattr(module, conv, fuse_conv_bn_eval(children[conv], children[norm]))
                    setattr(module, norm, nn.Identity())
        self.net = net.bfloat16().to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[Tensor]:
        return list(self.net(images.bfloat16()))

    def statistics(self, batches: Iterable[np.ndarray]) -> tuple[list[Tensor], list[Tensor]]:
        """Mean and variance of every channel, by layer."""
        sums, squares, count = [torch.zeros(c) for c in CHANNELS], [torch.zeros(c) for c in CHANNELS], 0
        for batch in batches:
            for i, features in enumerate(self(prepared(batch))):
                sums[i] += features.float().mean((0, 2, 3))
                squares[i] += features.float().square().mean((0, 2, 3))
            count += 1
        means = [s / count for s in sums]
        return means, [q / count - m * m for q, m in zip(squares, means, strict=True)]


def prepared(batch: np.ndarray | Tensor) -> Tensor:
    """N×H×W×3 uint8 → N×3×H×W float32, ImageNet-normalised, channels last in memory."""
    return (torch.as_tensor(batch).permute(0, 3, 1, 2).float() - MEAN) / STD


def residual(student: Tensor, teacher: Tensor) -> Tensor:
    """What is left to learn of rectified features: zero where both are inactive (partial L2, Heo et al. 2019).

    Equal to `relu(student) - teacher` wherever the student is active, but it still pulls an inactive student up.
    """
    return torch.where((student <= 0) & (teacher <= 0), 0.0, student - teacher)


def layer_loss(student: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    """Squared error of one layer, in the teacher's scale and standardised by channel, absolute and relative to each image's own spread.

    Nearest neighbours are found by Euclidean distance in the teacher's scale and on 3×3 averages, hence both; the part relative to the
    image's spread keeps faint surfaces (a grey tile, a plain part) from drowning among contrasty ones.
    """
    weight = (0.5 / variance.mean() + 0.5 / variance.clamp_min(0.05 * variance.mean())).view(1, -1, 1, 1).sqrt()
    target = teacher.float()
    left = residual(student.float(), target) * weight
    pooled = F.avg_pool2d(left, 3, 1)
    error = left.square().mean((1, 2, 3)) + pooled.square().mean((1, 2, 3))
    spread = ((target - target.mean((2, 3), keepdim=True)) * weight).square().mean((1, 2, 3))
    return 0.5 * error.mean() + 0.5 * (error / (spread + 0.05)).mean()


class Lessons(Dataset[tuple[Tensor, list[Tensor], tuple[int, int]]]):
    """Batch `i` of images with the teacher's features, made in a worker so that teacher and student run side by side.

    layer1, the largest map, is kept on one of its four sub-grids, whose offset `(y, x)` comes with it.
    """

    def __init__(self, batches: Batches, teacher: Path) -> None:
        self.batches, self.weights = batches, teacher

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher, loaded by whichever process asks it, on one thread."""
        torch.set_num_threads(1)
        return Teacher(self.weights)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Tensor, list[Tensor], tuple[int, int]]:
        batch = self.batches[index]
        y, x = (int(v) for v in np.random.default_rng((self.batches.seed, self.batches.first + index, 1)).integers(2, size=2))
        features = self.teacher(prepared(batch))
        return torch.from_numpy(batch), [features[0][:, :, y::2, x::2].clone(), *features[1:]], (y, x)


def distillation_loss(student: AoiSmall, images: Tensor, targets: list[Tensor], grid: tuple[int, int], variances: list[Tensor]) -> Tensor:
    """Sum over the layers of `layer_loss`."""
    with torch.autocast("cpu", torch.bfloat16):
        trunk = student.trunk(images)
        trunk[0] = trunk[0][:, :, grid[0] :: 2, grid[1] :: 2]
        outputs = [head(t) for head, t in zip(student.heads, trunk, strict=True)]
    losses = [layer_loss(o, t, v) for o, t, v in zip(outputs, targets, variances, strict=True)]
    return sum((w * loss for w, loss in zip(LAYER_WEIGHTS, losses, strict=True)), torch.zeros(()))


@torch.inference_mode()
def held_out_error(student: AoiSmall, held_out: list[tuple[np.ndarray, list[Tensor]]], variances: list[Tensor]) -> dict[str, float]:
    """Unexplained share of the teacher's variance: over all images (`layer2`), and of the median image's own (`layer2_local`), by layer."""
    totals: dict[str, list[float]] = {}
    for batch, targets in held_out:
        outputs = student(prepared(batch))
        for (name, output), target, variance in zip(outputs.items(), targets, variances, strict=True):
            target = target.float()
            error = (output - target).square().mean((1, 2, 3))
            spread = (target - target.mean((2, 3), keepdim=True)).square().mean((1, 2, 3))
            totals.setdefault(name, []).append(float(error.mean() / variance.mean()))
            totals.setdefault(f"{name}_local", []).append(float((error / (spread + 1e-6)).median()))
    return {name: round(float(np.mean(values)), 4) for name, values in totals.items()}


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Linear warm-up, level, then a linear fall to zero over the last `--decay` steps."""
    return float(args.lr * min(1.0, (step + 1) / 200) * min(1.0, max(0.0, (args.steps - step) / args.decay)))


def new_student(means: list[Tensor]) -> AoiSmall:
    """A fresh network whose heads start at the teacher's mean features."""
    student = AoiSmall(TrainedBlock)
    for module in student.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    for head, mean in zip(student.heads, means, strict=True):
        nn.init.normal_(head.weight, std=0.01)
        with torch.no_grad():
            head.bias.copy_(mean)
    return student.to(memory_format=torch.channels_last)


class Run:
    """The state of one training run: student, its moving average, optimiser and step, kept in `--work/checkpoint.pt`."""

    def __init__(self, args: argparse.Namespace, means: list[Tensor]) -> None:
        torch.manual_seed(args.seed)
        self.path, self.step = args.work / "checkpoint.pt", 0
        self.student = new_student(means)
        self.average = copy.deepcopy(self.student)
        decayed = [p for p in self.student.parameters() if p.ndim > 1]
        plain = [p for p in self.student.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=args.lr, fused=True)
        self.stages: list[dict[str, float]] = []
        self.recipe = {key: getattr(args, key) for key in RECIPE}
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.stages, self.step = state["stages"][:-1], state["step"]
            self.student.load_state_dict(state["student"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average.load_state_dict(state["average"])
        elif args.start is not None:  # the average is the best that run knew
            state = torch.load(args.start, weights_only=True)
            self.stages = state["stages"]
            known = self.student.state_dict()  # of a deeper network, the blocks this one has; the others were added to an identity
            kept = {name: value for name, value in state["average"].items() if name in known}
            self.student.load_state_dict(kept)
            self.average.load_state_dict(kept)

    def history(self) -> list[dict[str, float]]:
        """The recipe of every stage so far, with the number of images it saw."""
        return [*self.stages, {**self.recipe, "images_seen": self.step * self.recipe["batch"]}]

    def save(self) -> None:
        """Write the checkpoint beside its place and rename it."""
        state = {"student": self.student.state_dict(), "average": self.average.state_dict()}
        part = self.path.with_suffix(".part")
        torch.save({**state, "optimiser": self.optimiser.state_dict(), "step": self.step, "stages": self.history()}, part)
        part.replace(self.path)

    @torch.no_grad()
    def advance(self, loss: Tensor, rate: float, keep: float) -> None:
        """One optimiser step and one step of the moving average, whose memory is short at first."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.enable_grad():
            loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        keep = min(keep, self.step / (self.step + 10))
        mine, theirs = self.average.state_dict(), self.student.state_dict()
        for name, value in theirs.items():
            if value.is_floating_point():
                mine[name].lerp_(value, 1 - keep)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="ResNet-18 conv1 to layer3, safetensors")
    parser.add_argument("--textures", type=Path, required=True, help="folder of CC0 texture photographs")
    parser.add_argument("--work", type=Path, required=True, help="pool, checkpoint and log go here; resumes from it")
    parser.add_argument("--out", type=Path, required=True, help="folder for aoi-small.safetensors and aoi-small.json")
    parser.add_argument("--start", type=Path, help="begin from the weights of another run's checkpoint.pt, as a further stage")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--decay", type=int, default=2000, help="last steps over which the learning rate falls to zero")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--average", type=float, default=0.998, help="memory of the moving average of the weights")
    parser.add_argument("--pool", type=int, default=4000, help="scenes rendered once; training images are variations of them")
    parser.add_argument("--photo-share", type=float, default=0.2, help="share of the scenes that are photographs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="threads of the student; each worker adds one for the teacher")
    parser.add_argument("--check-every", type=int, default=500)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    photos = bundled_photos(TRAINING_PHOTOS) + read_photos(args.textures)
    pool, unseen = args.work / f"pool-{args.pool}-{args.seed}.npy", args.work / "held-out.npy"
    render_pool(pool, args.pool, args.seed, photos, args.photo_share, 2)
    render_pool(unseen, 128, 1_000_003, bundled_photos(HELD_OUT_PHOTOS), 0.2, 2)
    teacher = Teacher(args.teacher)
    means, variances = teacher.statistics(Batches(pool, 16, (256,), args.seed + 1, 0, 16)[i] for i in range(16))
    unseen_batches = (Batches(unseen, 16, (256,), 2, 0, 8)[i] for i in range(8))
    held_out = [(batch, teacher(prepared(batch))) for batch in unseen_batches]
    del teacher  # from here on it lives in the workers
    run = Run(args, means)
    lessons = Lessons(Batches(pool, args.batch, SIDES, args.seed, run.step, args.steps), args.teacher)
    ahead = {"num_workers": args.workers, "prefetch_factor": 4, "multiprocessing_context": "spawn"} if args.workers else {}
    loader = DataLoader(lessons, batch_size=None, **ahead)
    began, recent = time.perf_counter(), []
    with (args.work / "log.jsonl").open("a", encoding="utf-8") as log:
        for batch, targets, grid in loader:
            loss = distillation_loss(run.student, prepared(batch), targets, grid, variances)
            run.advance(loss, learning_rate(run.step, args), args.average)
            recent.append(float(loss.detach()))
            if run.step % args.check_every == 0 or run.step == args.steps:
                errors = held_out_error(run.average.eval(), held_out, variances)
                row = {"step": run.step, "loss": round(float(np.mean(recent)), 4), "seconds": round(time.perf_counter() - began), **errors}
                recent = []
                print(json.dumps(row), file=log, flush=True)
                print(json.dumps(row), flush=True)
                run.save()
                export(run.average, args, errors, run.history())


if __name__ == "__main__":
    main()
