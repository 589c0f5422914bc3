"""Fixtures every room's tests share."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from aoi.engine.work import Needs

ROOT = Path(__file__).resolve().parents[1]


def _shared(name: str) -> Path:
    folder = Path(os.environ.get("AOI_SHARED", ROOT.parent / "shared")) / name
    if not folder.is_dir():
        pytest.skip(f"needs the shared {name} folder (set AOI_SHARED to the folder that holds {name}/)")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real inspection images; the test is skipped where it is absent."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """The folder of real pretrained files; the test is skipped where it is absent."""
    return _shared("weights")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny_inpainting(tmp_path_factory) -> Path:
    """A random inpainting pipeline in the stock folder layout, 64 px, one latent for 2×2 pixels; paints nonsense in a moment."""
    import json

    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = tmp_path_factory.mktemp("letters")
    names = [chr(code) for code in range(33, 127)]
    names = [*names, *(f"{name}</w>" for name in names), "<|startoftext|>", "<|endoftext|>"]
    (letters / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (letters / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(str(letters), model_max_length=77)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=32, in_channels=9, out_channels=4, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8, norm_num_groups=32,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=[32, 64], in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=32, sample_size=64,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, vocab_size=len(names),
            bos_token_id=len(names) - 2, eos_token_id=len(names) - 1, pad_token_id=len(names) - 1,
        )
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    folder = tmp_path_factory.mktemp("inpainting") / "model"
    StableDiffusionInpaintPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def tiny_inpainting_xl(tiny_inpainting, tmp_path_factory) -> Path:
    """The same with the two text encoders and the extra conditions of Stable Diffusion XL."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(tiny_inpainting / "tokenizer"))
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=32, in_channels=9, out_channels=4, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=64,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), norm_num_groups=32, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=80,
    )  # fmt: skip
    config = CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, vocab_size=len(tokenizer), projection_dim=32,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("inpainting-xl") / "model"
    StableDiffusionXLInpaintPipeline(
        vae=AutoencoderKL.from_pretrained(tiny_inpainting / "vae"), unet=unet, tokenizer=tokenizer, tokenizer_2=tokenizer,
        text_encoder=CLIPTextModel(config), text_encoder_2=CLIPTextModelWithProjection(config),
        scheduler=DDIMScheduler.from_pretrained(tiny_inpainting / "scheduler"), add_watermarker=False,
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
    return folder


class Elsewhere:
    """An engine in this process that does tasks in an order of its own, with as many states as workers, and some of them twice.

    Args:
        seed: of the order.
        workers: each begins by itself.
    """

    is_remote = True

    def __init__(self, seed: int = 0, workers: int = 2) -> None:
        self.order, self.workers = random.Random(seed), workers
        self.names: list[str] = []

    def run(self, work, tasks, *, needs=Needs(), tick=lambda: None):
        assert all(path.exists() for path in needs.paths)
        states, waiting, done = [work.start() for _ in range(self.workers)], list(tasks), set()
        while waiting:
            task = self.order.choice([task for task in waiting if done.issuperset(task.after)])
            waiting.remove(task)
            for _ in range(self.order.randint(1, 2)):
                result = work.perform(self.order.choice(states), task.argument)
            tick()
            done.add(task.name)
            self.names.append(task.name)
            yield task.name, result


@pytest.fixture
def elsewhere() -> type[Elsewhere]:
    """An engine whose workers might be anywhere."""
    return Elsewhere


@pytest.fixture
def once():
    """Does something in a thread, once it can, while the test goes on; returns a list that then holds what came of it."""
    stop, threads = threading.Event(), []

    def watch(act, found: list[int]) -> None:
        while not found and not stop.wait(0.02):
            if (result := act()) is not None:
                found.append(result)

    def start(act) -> list[int]:
        found: list[int] = []
        threads.append(threading.Thread(target=watch, args=(act, found)))
        threads[-1].start()
        return found

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def busy_worker(root: int) -> int | None:
    """A Ray worker that is performing a task, among the descendants of a process."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(root).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("ray::_perform"):
                    return process.pid
    return None


@pytest.fixture
def kill_a_worker(once):
    """Kills a Ray worker that is performing a task, once a condition holds, while the test goes on; returns who died."""

    def kill(when) -> int | None:
        if when() and (pid := busy_worker(os.getpid())) is not None:
            os.kill(pid, signal.SIGKILL)
            return pid
        return None

    return lambda when: once(lambda: kill(when))


@pytest.fixture
def lose_a_node(once):
    """A Ray cluster of two nodes with a core each, this process connected to the first.

    Takes the second away without a farewell, in the midst of a task of its own, once a condition holds; returns which worker that ended.
    """
    import ray
    from ray.cluster_utils import Cluster

    quiet = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
    seconds = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 5}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": seconds, **quiet})
    second = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False)
    raylet = second.all_processes["raylet"][0].process.pid

    def lose(when) -> int | None:
        if when() and (pid := busy_worker(raylet)) is not None:
            cluster.remove_node(second, allow_graceful=False)
            return pid
        return None

    yield lambda when: once(lambda: lose(when))
    ray.shutdown()
    cluster.shutdown()
