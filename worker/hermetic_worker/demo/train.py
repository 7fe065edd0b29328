"""The program that makes the embedded models: `python -m hermetic_worker.demo.train all`.

Each stage reads what earlier ones left in the work folder and can be stopped and run again.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel

from . import dataset, export, tokenizer, unet, vae
from .fitting import Plan
from .shapes import Style

EXAMPLES = 10_000
"""How many scenes a denoiser learns from, less those of two shapes; the autoencoder uses all."""


@dataclass(frozen=True)
class Work:
    """The work folder and the seed; what each stage reads and leaves there."""

    folder: Path
    seed: int

    def data(self, style: Style) -> dataset.Dataset:
        """The drawn pictures of one style."""
        return dataset.load(self.folder / f"data-{style}.pt")

    def checkpoint(self, stage: str) -> Path:
        """The file from which a stage resumes."""
        return self.folder / f"{stage}.ckpt"

    def examples(self, style: Style) -> unet.Examples:
        """What the denoisers learn from: encoded pictures and captions."""
        data = self.data(style).first(EXAMPLES).singles()
        encoder: Any = AutoencoderTiny.from_pretrained(self.folder / "vae")
        words = tokenizer.build()
        padded: dict[str, Any] = {"padding": "max_length", "return_tensors": "pt"}
        ids = words([*data.captions, ""], **padded).input_ids
        latents = vae.encode(encoder, data) * encoder.config.scaling_factor
        return unet.Examples(latents, ids[:-1], ids[-1])


def draw_data(work: Work, _plan: Plan) -> None:
    """Draw the pictures of both styles."""
    for style in dataset.SCENES:
        dataset.save(dataset.make(style, work.seed), work.folder / f"data-{style}.pt")


def train_vae(work: Work, plan: Plan) -> None:
    """Train the autoencoder and note the scale of its latents."""
    data = work.data("flat")
    model = vae.train_both(data, plan, work.seed, work.checkpoint("vae"))
    spread = vae.encode(model, data.first(1000)).std()
    model.register_to_config(scaling_factor=round(1 / float(spread), 4))
    model.save_pretrained(work.folder / "vae")
    _tell_sharpness(model, data)


def train_decoder(work: Work, plan: Plan) -> None:
    """Train the decoder further; may run beside the denoisers."""
    model = AutoencoderTiny.from_pretrained(work.folder / "vae")
    trained = vae.train_decoder(
        model, work.data("flat"), plan, work.seed, work.checkpoint("decoder")
    )
    trained.save_pretrained(work.folder / "decoder")
    _tell_sharpness(trained, work.data("flat"))


def _tell_sharpness(model: AutoencoderTiny, data: dataset.Dataset) -> None:
    decibels = vae.sharpness(model, data.first(500))
    sys.stdout.write(f"pictures survive the autoencoder at {decibels:.1f} dB\n")


def train_sd15(work: Work, plan: Plan) -> None:
    """Train the SD1.5 denoiser on flat shapes."""
    model = unet.build("sd15")
    examples = work.examples("flat")
    trained = unet.train(model, examples, plan, work.seed, work.checkpoint("unet-sd15"))
    trained.save_pretrained(work.folder / "unet-sd15")


def train_sdxl(work: Work, plan: Plan) -> None:
    """Turn the SD1.5 denoiser into SDXL's layout and train it on bold shapes."""
    model = unet.to_sdxl(UNet2DConditionModel.from_pretrained(work.folder / "unet-sd15"))
    examples = work.examples("bold")
    trained = unet.train(model, examples, plan, work.seed, work.checkpoint("unet-sdxl"))
    trained.save_pretrained(work.folder / "unet-sdxl")


def write_models(work: Work, _plan: Plan) -> None:
    """Assemble the two model folders."""
    for layout in ("sd15", "sdxl"):
        export.write(layout, work.folder, work.folder / "models" / f"demo-{layout}")


STAGES: dict[str, tuple[Callable[[Work, Plan], None], Plan]] = {
    "data": (draw_data, Plan(0, 0)),
    "vae": (train_vae, Plan(2400, 3e-3, 30, decay=1e-4, averaging=0.99)),
    "decoder": (train_decoder, Plan(1500, 2e-3, 30, decay=1e-4, averaging=0.99)),
    "unet-sd15": (train_sd15, Plan(4000, 1e-3, averaging=0.998)),
    "unet-sdxl": (train_sdxl, Plan(1200, 5e-4, averaging=0.998)),
    "export": (write_models, Plan(0, 0)),
}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hermetic_worker.demo.train",
        description="Train the embedded models. Stages: " + ", ".join(STAGES),
    )
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--work", type=Path, required=True, help="folder for data and checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="steps of a training stage, to try it out")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = Work(arguments.work, arguments.seed)
    for stage in STAGES if arguments.stage == "all" else [arguments.stage]:
        run, plan = STAGES[stage]
        # Fresh weights are drawn from the global generator: the same ones whatever ran before.
        torch.manual_seed(arguments.seed)
        run(work, replace(plan, steps=arguments.steps) if arguments.steps else plan)


if __name__ == "__main__":
    main()
