"""The prompted generator: a sentence is painted into a place by an inpainting checkpoint, and nothing else of the picture changes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch

from aoi.captions.spec import DefectSpec
from aoi.errors import AoiError
from aoi.synth.blend import compose
from aoi.synth.change import refined_mask
from aoi.synth.diffusion.crop import Square, fade, repaint_mask, square_around
from aoi.synth.diffusion.guidance import set_guidance_mask, step_done
from aoi.synth.diffusion.injection import MaskGuidedInjection
from aoi.synth.diffusion.pipeline import Inpainter, lora_and_weight, open_inpainter
from aoi.synth.diffusion.prompts import encode_prompts, perturbed
from aoi.synth.diffusion.settings import DiffusionSettings, strength_of
from aoi.synth.region import Region
from aoi.synth.registry import GeneratorSettings, register
from aoi.synth.shape import Shape
from aoi.synth.types import Job, Provenance, SynthDefect


@dataclass(frozen=True, slots=True, eq=False)
class _Canvas:
    """One job as the model sees it."""

    job: Job
    asked: np.ndarray
    """HW bool: the outline to fill."""
    square: Square
    clean: np.ndarray
    """R×R×3 uint8."""
    repainted: np.ndarray
    """R×R bool, whole latents."""
    prompt: str
    strength: float
    seeds: tuple[int, ...]
    """One for each candidate."""


@register("diffusion")
class DiffusionGenerator:
    """Paints with any Stable Diffusion inpainting checkpoint in diffusers' layout; see `DiffusionSettings`."""

    def __init__(self, settings: GeneratorSettings) -> None:
        self.settings = settings.diffusion or DiffusionSettings()
        self.mm_per_pixel = settings.mm_per_pixel

    @property
    def batch_size(self) -> int:
        """Jobs that are painted at once."""
        return self.settings.batch_size

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done for lack of memory, and the like; of an opened checkpoint."""
        return self.inpainter.notes if "inpainter" in vars(self) else ()

    @cached_property
    def inpainter(self) -> Inpainter:
        """The checkpoint, opened when it is first needed."""
        return open_inpainter(self.settings)

    @cached_property
    def lpips(self) -> Any:
        """LPIPS for ranking candidates; None where its weights are not at hand."""
        from aoi.metrics.lpips import Lpips

        try:
            return Lpips.load()
        except AoiError:
            return None

    def generate(
        self, image: np.ndarray, region: Region, spec: DefectSpec, rng: np.random.Generator, shape: Shape | None = None
    ) -> SynthDefect:
        """Invent one defect; see `aoi.synth.types.Generator`."""
        return self.generate_batch([Job(image, region, spec, rng, shape)])[0]

    def generate_batch(self, jobs: Sequence[Job]) -> list[SynthDefect]:
        """Invent one defect for each job, in their order.

        The pictures of jobs of one strength are painted together; each depends on its own job alone, up to the rounding of the arithmetic.
        """
        canvases = [self._canvas(job) for job in jobs]
        found: dict[int, SynthDefect] = {}
        for strength in dict.fromkeys(canvas.strength for canvas in canvases):
            chosen = [i for i, canvas in enumerate(canvases) if canvas.strength == strength]
            pictures, blocked = self._paint([canvases[i] for i in chosen], strength)
            for i, candidates, stopped in zip(chosen, pictures, blocked, strict=True):
                found[i] = self._finish(canvases[i], candidates, stopped)
        return [found[i] for i in range(len(jobs))]

    def _canvas(self, job: Job) -> _Canvas:
        settings, grid = self.settings, self.inpainter.grid
        asked = self._outline(job)
        resolution = settings.resolution or self.inpainter.resolution
        square = square_around(asked, context=settings.context, resolution=resolution, grid=grid)
        widen = max(1, round(settings.feather))
        repainted = repaint_mask(square.cut(asked), widen=widen, grid=grid)
        strength = settings.strength if settings.strength is not None else strength_of(job.spec.severity)
        seeds = tuple(int(seed) for seed in job.rng.integers(2**62, size=settings.candidates))
        return _Canvas(job, asked, square, square.cut(job.image), repainted, sentence(job.spec), strength, seeds)

    def _outline(self, job: Job) -> np.ndarray:
        shape: Shape
        if job.shape is None:
            from aoi.synth.outline import draw_shape

            shape = draw_shape(job.region, job.spec, job.rng, mm_per_pixel=self.mm_per_pixel)
        else:
            shape = job.shape
        whole = np.zeros(job.image.shape[:2], bool)
        whole[shape.window.slices] = shape.mask
        return whole

    @torch.inference_mode()
    def _paint(self, canvases: Sequence[_Canvas], strength: float) -> tuple[list[np.ndarray], list[list[bool]]]:
        """Candidates of every canvas, K×R×R×3 uint8 each, and which of them the safety checker withheld."""
        settings, inpainter = self.settings, self.inpainter
        pipeline, each = inpainter.pipeline, settings.candidates
        seeds = [seed for canvas in canvases for seed in canvas.seeds]
        own = [torch.Generator().manual_seed(seed) for seed in seeds]
        extra = [torch.Generator().manual_seed(seed ^ 0x5EED) for seed in seeds]
        guided = inpainter.guidance > 1
        words = encode_prompts(
            pipeline, [canvas.prompt for canvas in canvases for _ in range(each)], settings.negative_prompt, guided=guided
        )
        words["prompt_embeds"] = perturbed(words["prompt_embeds"], settings.gpp, extra)
        images = np.repeat(np.stack([canvas.clean for canvas in canvases]), each, axis=0)
        masks = np.repeat(np.stack([canvas.repainted for canvas in canvases]), each, axis=0)
        steps = max(inpainter.steps, int(np.ceil(1 / strength)))
        taken = max(1, min(int(steps * strength), steps))
        self._prepare_guidance(masks, taken)
        on_step = self._on_step(own, extra, seeds, taken)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = pipeline(
                image=torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1,
                mask_image=torch.from_numpy(masks)[:, None].float(),
                **words,
                height=images.shape[1],
                width=images.shape[2],
                strength=strength,
                num_inference_steps=steps,
                guidance_scale=inpainter.guidance,
                generator=own,
                output_type="np",
                callback_on_step_end=on_step,
                callback_on_step_end_tensor_inputs=["latents", "mask"],
            )
        painted = np.clip(np.rint(np.asarray(result.images) * 255), 0, 255).astype(np.uint8)
        stopped = getattr(result, "nsfw_content_detected", None) or [False] * len(painted)
        groups = [slice(i * each, (i + 1) * each) for i in range(len(canvases))]
        return [painted[group] for group in groups], [[bool(flag) for flag in stopped[group]] for group in groups]

    def _prepare_guidance(self, masks: np.ndarray, steps: int) -> None:
        grid, settings = self.inpainter.grid, self.settings
        cells = torch.from_numpy(masks[:, None, ::grid, ::grid].copy()).to(self.inpainter.pipeline._execution_device)
        set_guidance_mask(self.inpainter.pipeline, cells if settings.sag else None, steps, settings.sag_inside)

    def _on_step(self, own: list[torch.Generator], extra: list[torch.Generator], seeds: list[int], steps: int) -> Any:
        injection = None
        if self.settings.mgni != "off":
            injection = MaskGuidedInjection(self.settings, extra, [np.random.default_rng(seed) for seed in seeds], steps)

        def on_step(pipeline: Any, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            step_done(pipeline, step)
            return {} if injection is None else injection(pipeline, step, int(timestep), tensors)

        return on_step

    def _finish(self, canvas: _Canvas, candidates: np.ndarray, stopped: list[bool]) -> SynthDefect:
        """The best candidate, faded into the image; what really changed is the mask."""
        job = canvas.job
        drawn = self._told(canvas)
        if all(stopped):
            drawn["blocked"] = "the checkpoint's safety checker withheld the picture"
            nothing = np.zeros(canvas.asked.shape, bool)
            return SynthDefect(job.image, nothing, Provenance("diffusion", job.spec.kind, job.region.place.name, drawn), canvas.asked)
        scores, measure = self._scores(canvas, candidates)
        scores = np.where(stopped, -np.inf, scores)
        best = int(np.argmax(scores))
        if len(candidates) > 1:
            drawn |= {"candidate": best, "scores": [round(float(s), 5) if np.isfinite(s) else None for s in scores], "ranked_by": measure}
        image, repainted = self._composed(canvas, candidates[best])
        mask = refined_mask(job.image, image, canvas.asked, allowed=repainted)
        return SynthDefect(image, mask, Provenance("diffusion", job.spec.kind, job.region.place.name, drawn), canvas.asked, repainted)

    def _told(self, canvas: _Canvas) -> dict[str, Any]:
        """What the picture was made with, JSON-ready."""
        settings, inpainter, shape = self.settings, self.inpainter, canvas.job.shape
        model: dict[str, Any] = {
            "model": inpainter.name,
            "model_fingerprint": inpainter.fingerprint,
            "prompt_sent": canvas.prompt,
        }
        if settings.loras:
            model["adapters"] = [str(lora_and_weight(given)[0]) for given in settings.loras]
        drawn = {"strength": round(canvas.strength, 4), "crop": canvas.square.as_list(), "seeds": list(canvas.seeds)}
        told = {"steps": inpainter.steps, "guidance": inpainter.guidance, "gpp": settings.gpp, "mgni": settings.mgni, "sag": settings.sag}
        return {**model, **drawn, **told, "outline": None if shape is None else shape.family}

    def _scores(self, canvas: _Canvas, candidates: np.ndarray) -> tuple[np.ndarray, str]:
        """How far each candidate is from the clean square inside the mask, and by which measure."""
        if len(candidates) == 1:
            return np.zeros(1), "none"
        clean = np.repeat(canvas.clean[None], len(candidates), axis=0)
        if self.lpips is not None:
            return self.lpips.masked(clean, candidates, np.repeat(canvas.repainted[None], len(candidates), axis=0)), "masked LPIPS"
        change = np.abs(clean.astype(np.float32) - candidates).mean(axis=-1)
        return np.asarray([one[canvas.repainted].mean() for one in change]), "masked colour change"

    def _composed(self, canvas: _Canvas, painted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The image with the painted square faded in, and every pixel that could change."""
        shape = canvas.job.image.shape[0], canvas.job.image.shape[1]
        opacity = canvas.square.put(fade(canvas.repainted, self.settings.feather, canvas.square.open_sides(shape)), shape)
        opacity *= canvas.job.region.foreground
        opacity[opacity < 1 / 512] = 0
        toned = same_tone(canvas.clean, painted, canvas.repainted)
        if _is_grey(canvas.clean):
            toned = np.repeat(toned.mean(axis=-1, keepdims=True), 3, axis=-1)
        whole = canvas.square.put(toned, shape)
        if self.settings.grain and canvas.square.side > canvas.square.resolution:
            whole += lost_grain(canvas.job.image, canvas.square.put(canvas.clean.astype(np.float32), shape), whole, canvas.square)
        return compose(canvas.job.image, whole, opacity), opacity > 0


def same_tone(clean: np.ndarray, painted: np.ndarray, repainted: np.ndarray, reach: int = 8) -> np.ndarray:
    """`painted` without the autoencoder's shift of tone, read off the pixels around what was repainted.

    Args:
        clean, painted: R×R×3 uint8.
        repainted: R×R bool.
        reach: pixels around it that are compared.

    Returns:
        R×R×3 float32.
    """
    around = (cv2.dilate(repainted.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0) & ~repainted
    if around.sum() < 16:
        return painted.astype(np.float32)
    shift = (clean.astype(np.float32) - painted.astype(np.float32))[around].mean(axis=0)
    return np.asarray(painted.astype(np.float32) + shift, np.float32)


def lost_grain(image: np.ndarray, seen: np.ndarray, painted: np.ndarray, square: Square) -> np.ndarray:
    """The fine texture of `image` that the model could not see, since its picture of the square is smaller than the square.

    Where the painted surface is darker or brighter than the old one, the texture is fainter or stronger by as much, at most by half.

    Args:
        image: HWC uint8, the good image.
        seen: HWC float32, what is left of it at the model's resolution, back at its place; 0 outside the square.
        painted: HWC float32, what the model painted; 0 outside the square.
        square: where.

    Returns:
        HWC float32, 0 outside the square.
    """
    reach = 4 * square.side / square.resolution
    old, new = (cv2.GaussianBlur(each.mean(axis=-1), (0, 0), reach) for each in (seen, painted))
    gain = np.clip((new + 1) / (old + 1), 0, 1.5)[..., None]
    inside = square.put(np.ones((square.resolution,) * 2, np.float32), (image.shape[0], image.shape[1]))[..., None] > 0.5
    return np.asarray(np.where(inside, (image.astype(np.float32) - seen) * gain, 0), np.float32)


def sentence(spec: DefectSpec) -> str:
    """What the text encoder reads: the spec's English prompt, or its kind."""
    return spec.prompt or (spec.text if spec.text.isascii() and spec.text else spec.kind)


def _is_grey(image: np.ndarray) -> bool:
    return bool((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all())
