"""Adapters as llama-server reads them: the names, the order of rows, the scale, the refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from deploy.llamacpp.convert import Base, CannotConvert, convert

HEADS, KV_HEADS, DIM, RANK = 4, 2, 8, 2
HIDDEN = HEADS * DIM
PROJECTIONS = {"q_proj": HIDDEN, "k_proj": KV_HEADS * DIM, "v_proj": KV_HEADS * DIM}
NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v"}


def write_base(path: Path, family: str = "llama", heads: Any = HEADS) -> Path:
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(1)
    writer.add_head_count(heads)
    writer.add_head_count_kv(KV_HEADS)
    for name, rows in PROJECTIONS.items():
        writer.add_tensor(f"blk.0.{NAMES[name]}.weight", np.zeros((rows, HIDDEN), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Base.read(write_base(tmp_path / "base.gguf"))


def write_adapter(folder: Path, **config: Any) -> dict[str, np.ndarray]:
    folder.mkdir()
    random = np.random.default_rng(0)
    tensors = {}
    for name, rows in PROJECTIONS.items():
        prefix = f"base_model.model.model.layers.0.self_attn.{name}"
        a, b = (
            random.standard_normal(s).astype(np.float32) for s in ((RANK, HIDDEN), (rows, RANK))
        )
        tensors |= {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}
    save_file(tensors, folder / "adapter_model.safetensors")
    told = {"r": RANK, "lora_alpha": 4} | config
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return {name.split(".")[-3] + "." + name.split(".")[-2]: v for name, v in tensors.items()}


def read(path: Path) -> tuple[dict[str, np.ndarray], gguf.GGUFReader]:
    reader = gguf.GGUFReader(path)
    return {tensor.name: np.array(tensor.data) for tensor in reader.tensors}, reader


def rotated(x: np.ndarray, *, pairs: bool) -> np.ndarray:
    """One head's values turned by positions, as llama.cpp (pairs) or transformers (halves) does."""
    angles = np.arange(1, DIM // 2 + 1) / 7.0
    first, second = (x[0::2], x[1::2]) if pairs else (x[: DIM // 2], x[DIM // 2 :])
    return np.concatenate(
        [first * np.cos(angles) - second * np.sin(angles),
         first * np.sin(angles) + second * np.cos(angles)]
    )  # fmt: skip


@pytest.mark.parametrize(("projection", "heads"), [("q_proj", HEADS), ("k_proj", KV_HEADS)])
def test_rows_stand_so_that_llama_cpps_rotation_gives_what_transformers_gives(
    tmp_path: Path, base: Base, projection: str, heads: int
) -> None:
    told = write_adapter(tmp_path / "a")
    convert(tmp_path / "a", base, tmp_path / "a.gguf")
    made, _ = read(tmp_path / "a.gguf")
    x = np.random.default_rng(1).standard_normal(HIDDEN).astype(np.float32)
    ours = told[f"{projection}.lora_B"] @ (told[f"{projection}.lora_A"] @ x) * 2.0
    name = f"blk.0.{NAMES[projection]}.weight"
    theirs = made[f"{name}.lora_b"] @ (made[f"{name}.lora_a"] @ x)
    for head in range(heads):
        part = slice(head * DIM, (head + 1) * DIM)
        expected = rotated(ours[part], pairs=False)
        np.testing.assert_allclose(
            rotated(theirs[part], pairs=True), expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 4 / RANK),
        ({"use_rslora": True}, 4 / RANK**0.5),
        ({"alpha_pattern": {"v_proj": 1}}, 1 / RANK),
        ({"alpha_pattern": {"q_proj": 1}}, 4 / RANK),
    ],
)
def test_the_scale_is_in_the_factors(
    tmp_path: Path, base: Base, config: dict[str, Any], scale: float
) -> None:
    told = write_adapter(tmp_path / "a", **config)
    convert(tmp_path / "a", base, tmp_path / "a.gguf")
    made, reader = read(tmp_path / "a.gguf")
    np.testing.assert_allclose(
        made["blk.0.attn_v.weight.lora_b"], told["v_proj.lora_B"] * scale, rtol=1e-6
    )
    np.testing.assert_array_equal(made["blk.0.attn_v.weight.lora_a"], told["v_proj.lora_A"])
    fields = {key: reader.get_field(key) for key in ("adapter.lora.alpha", "general.type")}
    assert {key: f.contents() for key, f in fields.items() if f} == {
        "adapter.lora.alpha": 0.0,
        "general.type": "adapter",
    }


def test_half_precision_is_widened_exactly(tmp_path: Path, base: Base) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file
    from safetensors.torch import save_file as save

    write_adapter(tmp_path / "a")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    for dtype in (torch.bfloat16, torch.float16):
        half = {name: tensor.to(dtype) for name, tensor in load_file(weights).items()}
        save(half, weights)
        convert(tmp_path / "a", base, tmp_path / "a.gguf")
        made, _ = read(tmp_path / "a.gguf")
        [a] = [v for n, v in half.items() if "v_proj.lora_A" in n]
        np.testing.assert_array_equal(made["blk.0.attn_v.weight.lora_a"], a.float().numpy())


def test_another_family_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(CannotConvert, match=r"'qwen2'.*--worker vllm"):
        Base.read(write_base(tmp_path / "base.gguf", family="qwen2"))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"not a model, and long enough to be read as one")
    with pytest.raises(CannotConvert, match="no GGUF"):
        Base.read(tmp_path / "x.gguf")


def test_what_the_base_has_not_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    without = Base(1, HEADS, KV_HEADS, frozenset({"blk.0.attn_q.weight"}))
    write_adapter(tmp_path / "a")
    with pytest.raises(CannotConvert, match=r"k_proj.*no such weights"):
        convert(tmp_path / "a", without, tmp_path / "a.gguf")
    assert not list(tmp_path.glob("*a.gguf*"))


def test_no_reason_tells_where_files_lie(tmp_path: Path) -> None:
    """Callers read it."""
    for read in (
        lambda: Base.read(tmp_path / "base.gguf"),
        lambda: convert(tmp_path, Base(1, 1, 1, frozenset()), tmp_path / "out.gguf"),
    ):
        with pytest.raises(CannotConvert, match="No such file or directory") as told:
            read()
        assert str(tmp_path) not in str(told.value)
