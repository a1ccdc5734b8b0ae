"""Every bad adapter is refused with its own message, and leaves nothing behind."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.registry.artifacts import Rules, inspect
from gateway.registry.base_shapes import BaseModelShapes
from gateway.registry.errors import AdapterTooLarge, InvalidAdapter
from gateway.registry.storage import FolderStorage

from .adapter_files import (
    BASE,
    PREFIX,
    config,
    fingerprint,
    left_in,
    lora,
    safetensors,
    write_adapter,
    write_base,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def rules(tmp_path: Path) -> Rules:
    return Rules(BASE, 16, BaseModelShapes(write_base(tmp_path / "base")))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "source")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "storage"


def refusal(source: Path, rules: Rules, root: Path) -> str:
    """Give the message that a folder is refused with, and see that nothing of it is left."""
    with pytest.raises(InvalidAdapter) as caught, FolderStorage(root).receive(source) as draft:
        inspect(draft, rules)
    assert left_in(root) == []
    return caught.value.message


@pytest.mark.parametrize(
    "named",
    [
        BASE,
        BASE.upper(),
        f"HuggingFaceTB/{BASE}",
        f"/models/{BASE}/",
        f"C:\\models\\{BASE}",
        f"/cache/models--HuggingFaceTB--{BASE}/snapshots/0123abc",
    ],
)
def test_a_sound_adapter_is_kept(source: Path, rules: Rules, root: Path, named: str) -> None:
    write_adapter(
        source,
        said=config(base_model_name_or_path=named),
        manifest={"fingerprint": fingerprint(), "dataset": {"digest": "d"}, "rank": 99},
    )
    storage = FolderStorage(root)
    with storage.receive(source) as draft:
        facts = inspect(draft, rules)
        key, created = storage.keep(draft)
        assert key == f"adapters/{draft.sha256}"
    assert created
    assert facts.rank == 4
    assert facts.manifest["rank"] == 4, "what was measured goes over what was claimed"
    assert facts.manifest["target_modules"] == ["q_proj"]
    assert facts.manifest["dataset"] == {"digest": "d"}
    kept = Path(storage.locate(key))
    assert {path.name for path in kept.iterdir()} == {
        CONFIG,
        WEIGHTS,
        "manifest.json",
        "files.json",
    }
    assert kept.stat().st_mode & 0o777 == 0o755
    assert all(path.stat().st_mode & 0o777 == 0o444 for path in kept.iterdir())
    assert left_in(root)[0] == "adapters"
    with storage.receive(source) as again:
        assert storage.keep(again) == (key, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model_name_or_path": "meta/Llama"}, "base_model_name_or_path: the adapter was"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path: must name the base"),
        ({"base_model_name_or_path": "//"}, "base_model_name_or_path: must name the base"),
        ({"peft_type": "IA3"}, "peft_type: must be 'LORA'"),
        ({"bias": "all"}, "bias: biases cannot be served"),
        ({"use_dora": True}, "use_dora: DoRA cannot be served"),
        ({"lora_bias": True}, "lora_bias: LoRA biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: whole modules"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices: trained token"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: 'pissa_niter_4' changes"),
        ({"lora_alpha": "x"}, "lora_alpha: must be a number"),
        ({"lora_alpha": 0}, "lora_alpha: must be a number"),
        ({"target_modules": []}, "target_modules: must list"),
        ({"target_modules": [1]}, "target_modules: must list"),
        ({"r": 32}, "r: rank 32 is over 16"),
        ({"r": 0}, "r: must be a whole number"),
        ({"r": True}, "r: must be a whole number"),
        ({"rank_pattern": {"q_proj": 64}}, "rank_pattern.q_proj: rank 64 is over 16"),
        ({"rank_pattern": {"(": 4}}, "rank_pattern: '(' is no regular expression"),
        ({"rank_pattern": {"x" * 90 + "a": 64, "x" * 90 + "b": 4}}, "rank 64 is over 16"),
        ({"rank_pattern": {"a{9999999999}": 4}}, "rank_pattern: 'a{9999999999}' is no regular"),
        ({"rank_pattern": {"(q_proj+)+!": 4}}, "rank_pattern: '(q_proj+)+!' is too costly"),
        ({"alpha_pattern": {"(q_proj+)+!": 4}}, "alpha_pattern: '(q_proj+)+!' is too costly"),
        ({"alpha_pattern": {"q_proj": 0}}, "alpha_pattern.q_proj: must be a number above 0"),
        ({"alpha_pattern": {"q_proj": 10**400}}, "alpha_pattern.q_proj: must be a number above 0"),
        ({"alpha_pattern": {"(": 8}}, "alpha_pattern: '(' is no regular expression"),
        ({"alpha_pattern": [1]}, "alpha_pattern: must be an object"),
        ({"alpha_pattern": {"q_proj": 0.5}}, None),
        ({"rank_pattern": []}, None),
        ({"rank_pattern": [1]}, "rank_pattern: must be an object"),
        ({"r": 8}, f"{PREFIX}.lora_A.weight: has rank 4, adapter_config.json says 8"),
    ],
)
def test_config_faults(
    source: Path, rules: Rules, root: Path, changes: dict[str, Any], message: str | None
) -> None:
    write_adapter(source, said=config(**changes))
    if message is None:
        with FolderStorage(root).receive(source) as draft:
            inspect(draft, rules)
        return
    assert message in refusal(source, rules, root)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"r": NaN}', b'{"r": 1e999}']
)
def test_config_that_is_no_json(source: Path, rules: Rules, root: Path, content: bytes) -> None:
    (source / CONFIG).write_bytes(content)
    assert refusal(source, rules, root) == "adapter_config.json: is not valid JSON."


def test_config_that_is_no_object(source: Path, rules: Rules, root: Path) -> None:
    (source / CONFIG).write_bytes(b"[]")
    assert "must hold a JSON object" in refusal(source, rules, root)


A, B = f"{PREFIX}.lora_A.weight", f"{PREFIX}.lora_B.weight"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (b"", "adapter_model.safetensors: is corrupt: the file is too short"),
        (safetensors(lora())[:-1], "is corrupt: the tensors need 256 bytes, the file has 255"),
        (safetensors(lora())[:40], "is corrupt: the header length says"),
        (b"\x08\0\0\0\0\0\0\0garbage!", "is corrupt: the header is not JSON"),
        (b"PK\x03\x04 a zip", "is a pickle under a safetensors name"),
        (b"\x80\x04\x95 a pickle", "is a pickle under a safetensors name"),
        (safetensors({}), "holds no LoRA matrices"),
        (safetensors({A: ("F32", (4, 8))}), f"{B}: is missing"),
        (safetensors(lora(dtype="I64")), f"{A}: has dtype I64"),
        (safetensors({A: ("F32", (4, 8, 1))}), f"{A}: has shape [4, 8, 1]"),
        (safetensors(lora(wide=9)), f"{A}: has shape [4, 9], which does not fit the base model's"),
        (safetensors(lora(tall=9)), f"{B}: has shape [9, 4], which does not fit the base model's"),
        (
            safetensors({k.replace("q_proj", "w_proj"): v for k, v in lora().items()}),
            "the base model has no module 'model.layers.0.self_attn.w_proj'",
        ),
        (
            safetensors({**lora(), f"{PREFIX}.lora_magnitude_vector": ("F32", (8,))}),
            "lora_magnitude_vector: belongs to DoRA",
        ),
        (
            safetensors({**lora(), "base_model.model.model.embed_tokens.weight": ("F32", (9, 8))}),
            "embed_tokens.weight: whole modules and embeddings cannot be served",
        ),
        (
            safetensors({**lora(), "base_model.model.e.lora_embedding_A": ("F32", (4, 9))}),
            "whole modules and embeddings cannot be served",
        ),
        (safetensors({"weight": ("F32", (2, 2))}), "weight: is no LoRA matrix"),
    ],
)
def test_weight_faults(
    source: Path, rules: Rules, root: Path, weights: bytes, message: str
) -> None:
    (source / WEIGHTS).write_bytes(weights)
    assert message in refusal(source, rules, root)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ([], "manifest.json: must hold a JSON object"),
        ({"note": "\ud800"}, "manifest.json: is not valid JSON"),
        ({"fingerprint": 5}, "fingerprint: must be an object"),
        ({"fingerprint": fingerprint(prompts=[])}, "fingerprint.prompts: must be a list"),
        ({"fingerprint": fingerprint(prompts=[5])}, "each needs token_ids"),
        (
            {"fingerprint": fingerprint(prompts=[{"token_ids": [1, 2], "answer_start": 2}])},
            "each needs answer_start",
        ),
        ({"fingerprint": fingerprint(base_mean=[1.0])}, "base_mean: must have one number"),
        ({"fingerprint": fingerprint(adapter_mean=["x"] * 4)}, "adapter_mean: must hold finite"),
    ],
)
def test_manifest_faults(
    source: Path, rules: Rules, root: Path, manifest: Any, message: str
) -> None:
    write_adapter(source, manifest=manifest)
    assert message in refusal(source, rules, root)


def _symlink(source: Path) -> None:
    (source / WEIGHTS).rename(source / "elsewhere")
    (source / WEIGHTS).symlink_to(source / "elsewhere")


def _pipe(source: Path) -> None:
    (source / WEIGHTS).unlink()
    os.mkfifo(source / WEIGHTS)


def _folder(source: Path) -> None:
    (source / WEIGHTS).unlink()
    (source / WEIGHTS).mkdir()


def _torch(source: Path) -> None:
    (source / WEIGHTS).rename(source / "adapter_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda source: (source / CONFIG).unlink(), "The file adapter_config.json is missing."),
        (lambda source: (source / WEIGHTS).unlink(), "adapter_model.safetensors is missing."),
        (_symlink, "adapter_model.safetensors is a symbolic link"),
        (_pipe, "adapter_model.safetensors is not a regular file"),
        (_folder, "adapter_model.safetensors is not a regular file"),
        (_torch, "adapter_model.bin is a pickle"),
        (lambda source: (source / "extra.pt").touch(), "extra.pt is a pickle"),
    ],
)
def test_folder_faults(
    source: Path, rules: Rules, root: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(source)
    assert message in refusal(source, rules, root)


def test_what_trainers_leave_beside_is_not_taken(source: Path, rules: Rules, root: Path) -> None:
    plain = FolderStorage(root)
    with plain.receive(source) as draft:
        before = draft.sha256
    for name in ("training_args.bin", "tokenizer.json", "README.md"):
        (source / name).write_text("beside")
    with plain.receive(source) as draft:
        assert draft.sha256 == before
        assert sorted(path.name for path in draft.folder.iterdir()) == [CONFIG, WEIGHTS]


def test_a_missing_folder_and_a_file_in_its_place(tmp_path: Path, rules: Rules, root: Path) -> None:
    assert "cannot be read: No such file" in refusal(tmp_path / "nowhere", rules, root)
    (tmp_path / "file").touch()
    assert "is a file: name the folder" in refusal(tmp_path / "file", rules, root)


def test_too_large(source: Path, root: Path) -> None:
    size = sum(path.stat().st_size for path in source.iterdir())
    with FolderStorage(root, max_bytes=size).receive(source):
        pass
    storage = FolderStorage(root, max_bytes=size - 1)
    with pytest.raises(AdapterTooLarge, match=f"larger than {size - 1} bytes") as caught:
        storage.receive(source).__enter__()
    assert caught.value.status == 413
    assert left_in(root) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../adapter_config.json", "is not one of"),
        ("/etc/passwd", "is not one of"),
        ("sub/manifest.json", "is not one of"),
        ("", "is not one of"),
        ("adapter_model.bin", "is a pickle"),
    ],
)
def test_upload_names(source: Path, root: Path, name: str, message: str) -> None:
    files = {path.name: io.BytesIO(path.read_bytes()) for path in source.iterdir()}
    with pytest.raises(InvalidAdapter, match=message):
        FolderStorage(root).receive({**files, name: io.BytesIO(b"{}")}).__enter__()
    assert left_in(root) == []


def test_an_upload_and_a_folder_of_the_same_files_have_one_digest(source: Path, root: Path) -> None:
    files = {path.name: io.BytesIO(path.read_bytes()) for path in source.iterdir()}
    storage = FolderStorage(root)
    with storage.receive(source) as one, storage.receive(files) as other:
        assert one.sha256 == other.sha256


def test_sweeping_spares_what_is_being_received(source: Path, root: Path) -> None:
    storage = FolderStorage(root)
    with storage.receive(source) as draft:
        stale = root / ".incoming-adapter-stale"
        stale.mkdir()
        os.utime(stale, (1, 1))
        storage.sweep()
        assert draft.folder.exists()
        assert not stale.exists()


def test_ranks_by_pattern(source: Path, rules: Rules, root: Path) -> None:
    said = config(r=2, rank_pattern={"q_proj": 4})
    write_adapter(source, said=said)
    with FolderStorage(root).receive(source) as draft:
        assert inspect(draft, rules).rank == 4


@pytest.mark.parametrize("module", ["model.layers.0.mlp.packed", "lm_head"])
def test_modules_whose_shape_is_not_told_or_is_tied(
    source: Path, rules: Rules, root: Path, module: str
) -> None:
    tall = 100 if module == "lm_head" else 77
    tensors = {
        name.replace(PREFIX, f"base_model.model.{module}"): info
        for name, info in lora(tall=tall).items()
    }
    write_adapter(source, weights=safetensors(tensors))
    with FolderStorage(root).receive(source) as draft:
        inspect(draft, rules)


def test_without_the_base_at_hand_shapes_are_taken(source: Path, root: Path) -> None:
    write_adapter(source, weights=safetensors(lora(wide=99)))
    with FolderStorage(root).receive(source) as draft:
        assert inspect(draft, Rules(BASE, 16)).rank == 4


def test_a_base_that_is_no_safetensors_does_not_stand_in_the_way(
    source: Path, root: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"half")
    with FolderStorage(root).receive(source) as draft:
        inspect(draft, Rules(BASE, 16, BaseModelShapes(broken)))
