"""vLLM calls `register` in each of its processes before the model is loaded."""

from __future__ import annotations

import logging

logger = logging.getLogger("vllm.adapterloop")


def register() -> None:
    """Let a CPU worker apply adapters by groups of tokens; other platforms keep their kernels."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    name = "adapterloop_vllm.wrapper.GroupedPunicaWrapper"
    type(current_platform).get_punica_wrapper = classmethod(lambda cls: name)
    logger.info("adapters are applied by groups of tokens")
