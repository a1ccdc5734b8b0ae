"""Fine-tuning by TRL and PEFT: an NF4 base, adapters on all linear layers, loss on the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainer.recipe import Recipe
from trainer.rows import Row, to_example

CHECKPOINTS = 12
"""Checkpoints in a run, about: what is lost when it is killed is one part in so many."""

Note = Callable[[int, int, float | None], None]
"""Told after each step: steps done, steps in all, the latest loss."""


def fit(
    model: Path, rows: Sequence[Row], recipe: Recipe, work: Path, threads: int | None, note: Note
) -> Any:
    """Fine-tune and return the PEFT model, going on from the last checkpoint in `work`.

    `threads` is torch's; None leaves it to torch. Without a GPU all is float32: bfloat16 is many
    times slower on a CPU.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, set_seed
    from transformers.trainer_utils import get_last_checkpoint
    from trl import SFTTrainer

    if threads is not None:
        torch.set_num_threads(threads)
    set_seed(recipe.seed)
    work.mkdir(parents=True, exist_ok=True)
    trainer = SFTTrainer(
        _base(model, recipe),
        _arguments(recipe, work, len(rows)),
        train_dataset=Dataset.from_list([to_example(row) for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=_lora(recipe),
        callbacks=[_steps(note)],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work)))
    return trainer.model


def _base(model: Path, recipe: Recipe) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return AutoModelForCausalLM.from_pretrained(
        model, dtype=dtype, quantization_config=nf4 if recipe.method == "qlora" else None
    )


def _lora(recipe: Recipe) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _arguments(recipe: Recipe, work: Path, rows: int) -> Any:
    import torch
    from trl import SFTConfig

    gpu = torch.cuda.is_available()
    epochs = recipe.epochs or 1.0
    steps = max(1, round(epochs * -(-rows // recipe.batch)))
    return SFTConfig(
        output_dir=str(work),
        num_train_epochs=epochs,
        per_device_train_batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=5,
        seed=recipe.seed,
        max_length=recipe.max_length,
        logging_steps=1,
        train_sampling_strategy="group_by_length",  # less padding, fewer seconds a step
        use_cpu=not gpu,
        bf16=gpu,
        gradient_checkpointing=gpu,
        save_steps=max(1, steps // CHECKPOINTS),
        save_total_limit=2,
        disable_tqdm=True,
        report_to="none",
        dataloader_num_workers=0,
    )


def _steps(note: Note) -> Any:
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            note(state.global_step, state.max_steps, (logs or {}).get("loss"))

    return Steps()
