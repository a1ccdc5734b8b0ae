"""An adapter merged into its base is a version that a vLLM of its own is started with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from deploy.api import AdminApi
from deploy.compose import EXAMPLES
from deploy.progress import Progress
from deploy.upload import upload_adapter
from gateway.registry.receiving import CONFIG, MANIFEST, WEIGHTS

from .beside import base_model, known_as, worker_beside
from .live import Live, wait_for

ALIAS = "whole"
ADAPTER = EXAMPLES / "support-1"
ASK = [{"role": "user", "content": "My parcel has not arrived. What can I do?"}]


@pytest.fixture
def merged(live: Live, tmp_path: Path) -> Path:
    """The first shipped adapter, merged; its own fingerprint holds for it."""
    base, out = base_model(live), tmp_path / "merged"
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.gguf", "*.safetensors"))
    lora, config = load_file(ADAPTER / WEIGHTS), json.loads((ADAPTER / CONFIG).read_text())
    weights = load_file(base / "model.safetensors")
    for name, down in lora.items():
        if ".lora_A." in name:
            up = lora[name.replace(".lora_A.", ".lora_B.")].double()
            module = name.removeprefix("base_model.model.").replace(".lora_A.", ".")
            change = up @ down.double() * (config["lora_alpha"] / config["r"])
            weights[module] = (weights[module].double() + change).half()
    # In float32 it would be more than may be uploaded.
    half = {name: tensor.half() for name, tensor in weights.items()}
    save_file(half, out / "model.safetensors", {"format": "pt"})
    shutil.copy(ADAPTER / MANIFEST, out / MANIFEST)
    return out


def answer(live: Live, model: str) -> tuple[str, str]:
    """Who answers, and what."""
    with live.client() as client:
        said = client.chat.completions.create(
            model=model, messages=ASK, max_tokens=16, temperature=0
        )
    return said.model, said.choices[0].message.content or ""


def test_an_alias_moves_from_an_adapter_to_a_merged_model(
    live: Live, merged: Path, tmp_path: Path
) -> None:
    with live.admin() as admin:
        api = AdminApi(admin)
        upload_adapter(api, ALIAS, ADAPTER, Progress())
        told = upload_adapter(api, ALIAS, merged, Progress())
        name = f"{ALIAS}@2-{told['sha256'][:8]}"
        stored = tmp_path / "stored"
        stored.symlink_to(live.home / "storage" / "adapters" / told["sha256"])

        def promoted(number: int) -> bool:
            path = f"/admin/v1/adapters/{ALIAS}/promote"
            return admin.post(path, json={"version": number}).status_code == 200

        assert wait_for(lambda: promoted(1), 120, 1)
        assert name in live.adapter(ALIAS)["versions"][1]["waiting"]
        by_adapter = answer(live, ALIAS)
        assert by_adapter[0] == f"{ALIAS}@1"
        served = ("--served-model-name", name)
        with worker_beside(live, stored, *served) as url, known_as(live, "whole", url):
            assert wait_for(lambda: promoted(2), 120, 1), live.adapter(ALIAS)
            [_, version] = live.adapter(ALIAS)["versions"]
            [place] = version["placements"]
            assert (place["worker"], place["effect"]) == ("whole", "effective"), place
            assert wait_for(lambda: answer(live, ALIAS)[0] == f"{ALIAS}@2", 60)
            assert answer(live, ALIAS) == (f"{ALIAS}@2", by_adapter[1])
            assert answer(live, "base")[1] != by_adapter[1]
            assert admin.post(f"/admin/v1/adapters/{ALIAS}/rollback").status_code == 200
            assert wait_for(lambda: answer(live, ALIAS) == by_adapter, 60)
