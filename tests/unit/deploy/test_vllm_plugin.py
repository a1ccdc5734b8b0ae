from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from types import ModuleType

import pytest

from deploy.config import Config
from deploy.worker import PLUGIN, environment

torch = pytest.importorskip("torch")


@pytest.fixture
def low_rank(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PLUGIN))
    return importlib.import_module("adapterloop_vllm.low_rank")


def test_vllm_finds_the_plugin_on_the_workers_path(tmp_path: Path) -> None:
    path = environment(Config(home=tmp_path), {"PYTHONPATH": "/mine"})["PYTHONPATH"]
    assert path == f"{PLUGIN}{os.pathsep}/mine"
    (found,) = importlib.metadata.distributions(name="adapterloop-vllm", path=[str(PLUGIN)])
    (entry,) = found.entry_points.select(group="vllm.general_plugins")
    assert entry.value == "adapterloop_vllm.plugin:register"
    assert (PLUGIN / "adapterloop_vllm" / "plugin.py").exists()


def test_every_token_gets_the_adapter_of_its_own_call_and_the_base_gets_none(
    low_rank: ModuleType,
) -> None:
    generator = torch.Generator().manual_seed(7)
    a = torch.randn(4, 1, 3, 10, generator=generator)
    b = torch.randn(4, 1, 6, 3, generator=generator)
    x = torch.randn(7, 10, generator=generator)
    # The last slot is in use, so a base token taken for index -1 of a list would show.
    slots = [3, -1, 0, 0, -1, 3, 1]
    y = torch.zeros(7, 8)
    for one in low_rank.group(torch.tensor(slots)):
        low_rank.add_low_rank(y, x, a, b, 0.5, one)
    for row, slot in enumerate(slots):
        expected = torch.zeros(8)
        if slot >= 0:
            expected[:6] = 0.5 * (b[slot, 0] @ (a[slot, 0] @ x[row]))
        torch.testing.assert_close(y[row], expected)


def test_a_step_of_one_adapter_is_one_product_and_a_step_of_the_base_none(
    low_rank: ModuleType,
) -> None:
    assert low_rank.group(torch.full((5,), 2)) == [(2, None)]
    assert low_rank.group(torch.full((5,), -1)) == []
