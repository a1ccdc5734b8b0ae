"""Train one LoRA adapter on the CPU and write it with its manifest.

Launch: python -m deploy.examples.acme.train --model MODEL --alias support --out OUT
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploy.examples.acme.artifact import save_adapter, save_manifest
from trainer.rows import Row, read_rows, to_example

DATA = Path(__file__).parent / "data" / "train.jsonl"
THREADS = 2  # more threads than cores make every step slower


def fit(model: Path, rows: list[Row], out: Path, settings: dict[str, Any]) -> Any:
    """Fine-tune on `rows` and return the PEFT model; nothing is written but logs."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, set_seed
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(THREADS)
    set_seed(settings["seed"])
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(
        model,
        dtype=torch.float32,  # bfloat16 is many times slower on a CPU
        quantization_config=nf4 if settings["method"] == "qlora" else None,
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    lora = LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    args = SFTConfig(
        output_dir=str(out),
        num_train_epochs=settings["epochs"],
        per_device_train_batch_size=settings["batch"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=5,
        seed=settings["seed"],
        max_length=512,
        logging_steps=10,
        train_sampling_strategy="group_by_length",  # less padding, fewer seconds a step
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        dataloader_num_workers=0,
    )
    data = Dataset.from_list([to_example(row) for row in rows])
    trainer = SFTTrainer(base, args, None, data, processing_class=tokenizer, peft_config=lora)
    trainer.train()
    return trainer.model


@click.command()
@click.option("--model", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True), default=DATA)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--alias", default="support")
@click.option("--limit", type=int, help="Train on the first rows only.")
@click.option("--method", type=click.Choice(["lora", "qlora"]), default="lora")
@click.option("--rank", default=4)
@click.option("--alpha", default=16)
@click.option("--epochs", default=2.0)
@click.option("--batch", default=8)
@click.option("--learning-rate", default=1e-3)
@click.option("--seed", default=7)
def main(
    model: Path, data: Path, out: Path, alias: str, limit: int | None, **settings: Any
) -> None:
    """Train one adapter from a JSONL file of rows."""
    rows = read_rows(data)
    used = min(len(rows), limit or len(rows))
    save_adapter(fit(model, rows[:used], out, settings), out)
    save_manifest(alias, model, out, rows, used, settings)


if __name__ == "__main__":
    main()
