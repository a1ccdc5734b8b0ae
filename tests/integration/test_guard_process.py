"""The real guard process with its default models, under the default policy."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from guardrails.client import JudgeClient
from guardrails.errors import GuardUnavailable
from guardrails.moderation import moderate
from guardrails.policy import GuardRule, Policy, default_policy
from guardrails.stream import InputGuard, OutputGuard
from guardrails.types import Passage
from tests.acceptance.live import wait_for

from .conftest import listens

DATA = Path(__file__).resolve().parents[1] / "data"
TOXIC = (DATA / "toxic_sentences.txt").read_text("utf-8").splitlines()
HARMLESS = (DATA / "harmless_sentences.txt").read_text("utf-8").splitlines()
BEFORE = "Thank you for your message. We looked into it at once. "


@pytest.fixture
async def judge(guard_socket: Path) -> AsyncIterator[JudgeClient]:
    client = JudgeClient(guard_socket, timeout=20)
    yield client
    await client.close()


async def streamed(judge: JudgeClient, chunks: list[str]) -> tuple[str, bool]:
    guard, out = OutputGuard(default_policy(), judge), []
    for chunk in chunks:
        release = await guard.push(0, "content", chunk)
        out += [piece.text for piece in release.pieces]
    release = await guard.finish(0, "content")
    out += [piece.text for piece in release.pieces]
    return "".join(out), release.blocked


def cut_at_random(text: str, seed: int) -> list[str]:
    dice, out, at = random.Random(seed), [], 0
    while at < len(text):
        size = dice.randint(1, 17)
        out.append(text[at : at + size])
        at += size
    return out


def test_there_are_enough_sentences() -> None:
    assert len(set(TOXIC)) == 20
    assert len(set(HARMLESS)) >= 40


@pytest.mark.parametrize("sentence", TOXIC)
async def test_nothing_of_a_toxic_sentence_goes_out(judge: JudgeClient, sentence: str) -> None:
    text = f"{BEFORE}{sentence} Have a nice day."
    assert await streamed(judge, list(text)) == (BEFORE, True)
    for seed in range(5):
        assert await streamed(judge, cut_at_random(text, seed)) == (BEFORE, True)
    release = await OutputGuard(default_policy(), judge).scan(0, "content", text)
    assert release.blocked
    assert "".join(piece.text for piece in release.pieces) == BEFORE


@pytest.mark.parametrize("sentence", TOXIC[:5])
async def test_nor_at_the_very_start_or_in_other_fields(judge: JudgeClient, sentence: str) -> None:
    assert await streamed(judge, list(sentence)) == ("", True)
    guard = OutputGuard(default_policy(), judge)
    assert (await guard.scan(0, "reasoning", sentence)).pieces == ()
    assert (await guard.scan(1, "arguments", f'{{"text": "{sentence}"}}')).pieces == ()


async def test_harmless_sentences_pass_as_they_are(judge: JudgeClient) -> None:
    for sentence in HARMLESS:
        assert await streamed(judge, cut_at_random(sentence, 1)) == (sentence, False)
    text = " ".join(HARMLESS)
    assert await streamed(judge, cut_at_random(text, 2)) == (text, False)


PERSONAL = [
    ("Write to jane.doe@example.com, please.", "Write to [EMAIL_ADDRESS], please."),
    ("Call +1 (415) 555-2671 now.", "Call [PHONE_NUMBER] now."),
    ("My number is 555-123-4567. Bye.", "My number is [PHONE_NUMBER]. Bye."),
    ("Berlin: +49 30 901820 works.", "Berlin: [PHONE_NUMBER] works."),
    ("Card 4111 1111 1111 1111 was used.", "Card [CREDIT_CARD] was used."),
    ("Pay to DE89 3704 0044 0532 0130 00 today.", "Pay to [IBAN_CODE] today."),
    ("My SSN is 536-22-1234. Thanks.", "My SSN is [US_SSN]. Thanks."),
    ("Order 4155552671 left on 2026-11-24 at 10:45.",) * 2,
    ("Version 10.0.19045 at 192.168.0.1 costs 1,234.50 euro.",) * 2,
]


@pytest.mark.parametrize(("text", "expected"), PERSONAL)
async def test_personal_data_is_replaced(judge: JudgeClient, text: str, expected: str) -> None:
    assert await streamed(judge, list(text)) == (expected, False)
    assert await streamed(judge, cut_at_random(text, 3)) == (expected, False)


async def test_input_is_flagged_and_moderation_answers(judge: JudgeClient) -> None:
    verdict = await InputGuard(default_policy(), judge, versions=judge.versions).check(TOXIC[:1])
    assert verdict.flagged
    assert verdict.blocked is None
    assert "alt-profanity-check" in verdict.audit[0].version
    rude, calm = await moderate(judge, [TOXIC[0], HARMLESS[0]])
    assert (rude.flagged, calm.flagged) == (True, False)


async def test_many_streams_at_once(judge: JudgeClient) -> None:
    texts = [f"{BEFORE}{sentence} Bye." for sentence in TOXIC * 5]
    results = await asyncio.gather(
        *(streamed(judge, cut_at_random(text, seed)) for seed, text in enumerate(texts))
    )
    assert set(results) == {(BEFORE, True)}


def start(socket: Path, *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "guardrails.process", "--socket", str(socket), *arguments]
    )
    try:
        assert wait_for(lambda: listens(socket) or process.poll() is not None, 200)
        assert process.poll() is None, "the guard process ended"
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process


# Makes a checkpoint of Detoxify's shape with random weights: a vocabulary of a few words.
CHECKPOINT = """
import pathlib, sys, torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer
folder = pathlib.Path(sys.argv[1])
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "you", "idiot"]
(folder / "vocab.txt").write_text("\\n".join(words))
BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
labels = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
config = BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1,
    num_attention_heads=2, intermediate_size=16, num_labels=len(labels))
config.save_pretrained(folder)
model = BertForSequenceClassification(config)
torch.save({"state_dict": model.state_dict(), "config": {
    "dataset": {"args": {"classes": labels}},
    "arch": {"args": {"model_type": str(folder), "model_name": "BertForSequenceClassification",
        "tokenizer_name": "BertTokenizer", "num_classes": len(labels)}}}}, folder / "tiny.ckpt")
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    subprocess.run([sys.executable, "-c", CHECKPOINT, str(tmp_path)], check=True)
    return tmp_path / "tiny.ckpt"


async def test_detoxify_from_a_local_checkpoint_is_one_line(
    tmp_path: Path, checkpoint: Path
) -> None:
    config = tmp_path / "guard.yaml"
    config.write_text(f"toxicity: detoxify:{checkpoint}\npersonal_data: false\n")
    process = start(tmp_path / "g.sock", "--config", str(config))
    try:
        client = JudgeClient(tmp_path / "g.sock", timeout=20)
        found = await client.judge(["toxicity"], [Passage("hello"), Passage("you idiot")])
        assert {finding.label for finding in found[1]} == {
            "toxicity", "severe_toxicity", "obscene", "threat", "insult", "identity_attack",
        }  # fmt: skip
        assert "detoxify" in client.versions["toxicity"]
        await client.close()
    finally:
        process.terminate()
        assert process.wait(20) == 0


async def test_names_and_a_clean_end(tmp_path: Path) -> None:
    config = tmp_path / "guard.yaml"
    config.write_text("names: true\n")
    process = start(tmp_path / "g.sock", "--config", str(config))
    client = JudgeClient(tmp_path / "g.sock", timeout=20)
    try:
        rule = GuardRule(guard="names", stage="output", action="redact", labels=("PERSON",))
        guard = OutputGuard(Policy(guards=(rule,)), client)
        release = await guard.scan(0, "content", "The manager is Barack Obama and he is in today.")
        text = "".join(piece.text for piece in release.pieces)
        assert text == "The manager is [PERSON] and he is in today."
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not (tmp_path / "g.sock").exists()
    with pytest.raises(GuardUnavailable):
        await client.ping()
    await client.close()


def test_a_missing_checkpoint_is_told(tmp_path: Path) -> None:
    config = tmp_path / "guard.yaml"
    config.write_text("toxicity: detoxify:nowhere/model.ckpt\n")
    command = [sys.executable, "-m", "guardrails.process", "--socket", str(tmp_path / "g.sock")]
    done = subprocess.run(
        [*command, "--config", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "nowhere/model.ckpt" in done.stderr
