"""Peak memory of exporting and verifying a 7B model, measured on a few of its layers.

    python benchmarks/export_memory.py [--layers 2] [--only rtn gptq reference] [--tokens 65536] [--threads 2]

A checkpoint with random weights of Mistral 7B's widths (4,096 and 14,336, 32,768 tokens) is written once, under
build/bench. The work goes on decoder layer by decoder layer, so that a few take the memory of all; what grows with
their number is files. Each measurement is a process of its own: `rtn` and `gptq` write int4 for the native engine,
`reference` computes base in float32 as `edgereason verify` does where memory is short, for 16 texts of 300 tokens.
Reported is the most anonymous memory (RssAnon, sampled every 5 ms), libraries included: pages of mapped files are not
in it, since the system takes them back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import string
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import children
import numpy as np
import report
from checkpoint import Shape, write_checkpoint
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
SHAPE = Shape(4096, 14336, 32, 32, 8, 32768, head_dim=128, tie_word_embeddings=False)
_TEXTS, _TOKENS, _NEW = 16, 300, 2


@contextmanager
def watched() -> Iterator[list[int]]:
    """A list that holds, when the block has ended, the most bytes of anonymous memory during it."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            peak[0] = max(peak[0], 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))))
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def write(checkpoint: Path, method: str, tokens: int) -> None:
    """What a child does for a way of rounding."""
    from edgereason.export.formats.stage_writers import write_model
    from edgereason.export.inputs.base_model import open_base
    from edgereason.export.inputs.merge import merge
    from edgereason.export.quantization.calibration import CalibrationText
    from edgereason.export.settings import Settings

    out = checkpoint.parent / "exported"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    letters = np.random.default_rng(0).choice(list(string.ascii_letters), tokens)
    (out / "text.txt").write_text("".join(letters))  # a token for each letter
    settings = Settings(method=method, calibration_text=out / "text.txt")
    calibration = CalibrationText({}, settings.calibration_text)
    write_model(merge(open_base(checkpoint)), out, out / "work", settings, calibration, lambda *step: None)
    shutil.rmtree(out)


def compute_reference(checkpoint: Path) -> None:
    """What a child does for the reference: each text is continued and read."""
    from edgereason.export.fidelity.distance import make_texts
    from edgereason.export.fidelity.layerwise_model import LayerwiseModel
    from edgereason.export.inputs.base_model import open_base
    from edgereason.export.inputs.merge import merge
    from edgereason.export.inputs.skeleton import placeholder_model

    weights = merge(open_base(checkpoint))
    witness = LayerwiseModel(placeholder_model(weights.config), weights.__getitem__)
    prompts = np.random.default_rng(0).integers(1, 200, (_TEXTS, _TOKENS)).tolist()
    for _ in witness.logits(make_texts(prompts, witness.continue_greedily(prompts, frozenset(), _NEW))):
        pass


def main() -> None:
    options = _parse()
    shape = replace(SHAPE, num_hidden_layers=options.layers)
    checkpoint = options.build / f"7b-{options.layers}-layers" / "checkpoint"
    if options.child:
        with watched() as peak:
            began = time.perf_counter()
            if options.child == "reference":
                compute_reference(checkpoint)
            else:
                write(checkpoint, options.child, options.tokens)
        print(json.dumps({"bytes": peak[0], "seconds": time.perf_counter() - began}))
        return
    report.say("writing the checkpoint")
    write_checkpoint(shape, checkpoint)
    sizes = {name: 4 * int(np.prod(size)) for name, size in shape.tensors()}
    layer = sum(size for name, size in sizes.items() if name.startswith("model.layers.0."))
    table = max(size for name, size in sizes.items() if ".layers." not in name)
    console = Console()
    console.print(f"In float32 a decoder layer has {layer / 1e9:.2f} GB, the largest table {table / 1e9:.2f} GB.")
    for what in options.only:
        report.say(what)
        command = [sys.executable, __file__, "--child", what, "--layers", str(options.layers)]
        command += ["--tokens", str(options.tokens), "--build", str(options.build)]
        found = children.run(command, options.threads)
        report.say("")
        peak, beyond = found["bytes"] / 1e9, (found["bytes"] - layer) / 1e9
        console.print(f"{what}: peak {peak:.2f} GB, {beyond:.2f} GB beyond a layer, {found['seconds']:.0f} s")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = ("rtn", "gptq", "reference")
    parser.add_argument("--layers", type=int, default=2, help="Decoder layers of the checkpoint.")
    parser.add_argument("--only", nargs="+", choices=choices, default=choices, help="Measurements to run.")
    parser.add_argument(
        "--tokens", type=int, default=65536, help="Tokens of calibration text; the default is the maximum."
    )
    parser.add_argument("--threads", type=int, default=2, help="Number of threads.")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "bench", help="Directory of the checkpoint.")
    parser.add_argument("--child", choices=choices, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
