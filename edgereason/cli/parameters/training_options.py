"""Options that the commands of `edgereason train` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[Path, typer.Argument(help="Training data, JSON lines.")]
Base = Annotated[str, typer.Option(help="Base model: a Hugging Face directory, a GGUF file or a hub id.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a base model on the hub.")]
Out = Annotated[Path, typer.Option(help="Directory of the new adapter.")]
Epochs = Annotated[float, typer.Option(help="Number of epochs.")]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps, instead of --epochs.")]
BatchSize = Annotated[int, typer.Option(help="Examples per device and forward pass.")]
GradientAccumulation = Annotated[int, typer.Option(help="Batches per optimizer step.")]
LearningRate = Annotated[float, typer.Option(help="Peak learning rate.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
MaxLength = Annotated[
    int | None,
    typer.Option(help="Skip examples longer than this many tokens [default: the base's context]."),
]
Dtype = Annotated[
    str, typer.Option(help="dtype of the base model: auto (bfloat16 on CUDA, float32 on a CPU), float32 or bfloat16.")
]
GradientCheckpointing = Annotated[
    bool,
    typer.Option("--gradient-checkpointing", help="Recompute activations in the backward pass to save memory."),
]
SaveEvery = Annotated[int, typer.Option(help="Optimizer steps between checkpoints.")]
Rank = Annotated[int, typer.Option(help="LoRA rank.")]
Alpha = Annotated[
    float | None,
    typer.Option(help="LoRA alpha: the update is scaled by alpha / rank [default: twice the rank]."),
]
Dropout = Annotated[float, typer.Option(help="LoRA dropout.")]
Target = Annotated[
    list[str] | None,
    typer.Option(help="Target module, such as q_proj; repeatable [default: all linear layers]."),
]
LisaFlag = Annotated[
    bool, typer.Option("--lisa", help="Train all weights of a few layers at a time (LISA) instead of LoRA.")
]
LisaLayers = Annotated[int, typer.Option(help="LISA: layers trained at a time.")]
LisaPeriod = Annotated[int, typer.Option(help="LISA: steps until new layers are sampled.")]
LisaError = Annotated[float, typer.Option(help="LISA: maximum error of the adapter relative to the trained change.")]
Adapter = Annotated[Path, typer.Option(help="Answer adapter to start from; it stays unchanged.")]
Samples = Annotated[int, typer.Option(help="Sampled answers per question.")]
Temperature = Annotated[float, typer.Option(help="Sampling temperature.")]
TopP = Annotated[float, typer.Option(help="Sample from the smallest set of tokens with this probability.")]
MaxNewTokens = Annotated[int, typer.Option(help="Maximum tokens per sampled answer; longer ones count as wrong.")]
Pairs = Annotated[int, typer.Option(help="Maximum preference pairs per question.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume an interrupted training.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the adapter at --out, or an interrupted training there.")]
