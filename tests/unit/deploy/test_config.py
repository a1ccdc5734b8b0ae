from __future__ import annotations

from pathlib import Path

import pytest

from deploy.compose import gateway_settings
from deploy.config import ConfigError, load, unknown_variables


def written(folder: Path, text: str) -> Path:
    path = folder / "adapterloop.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_need_no_file() -> None:
    config = load()
    assert (config.port, config.workers, config.model) == (8000, (), "")
    assert config.home == Path(".adapterloop").resolve()


def test_the_file_is_read_where_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "port: 9000\nlimits:\n  max_tokens: 64\n")
    monkeypatch.setenv("ADAPTERLOOP_CONFIG", str(path))
    assert (load().port, load().limits.max_tokens) == (9000, 64)


def test_variables_win_over_the_file_and_leave_its_siblings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "port: 9000\nlimits:\n  max_tokens: 64\n  max_n: 2\n")
    monkeypatch.setenv("ADAPTERLOOP_PORT", "9100")
    monkeypatch.setenv("ADAPTERLOOP_LIMITS__MAX_TOKENS", "128")
    config = load(path)
    assert (config.port, config.limits.max_tokens, config.limits.max_n) == (9100, 128, 2)


QWENS = "bases:\n- {name: qwen, model: org/Qwen-1}\n- {name: qwen, model: org/Qwen-2}\n"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("port: 8000\nhots: x\n", ":2: hots: no such setting"),
        ("port: none\n", ":1: port: "),
        ("limits:\n  max_n: 4\n  max_tokens: -1\n", ":3: limits.max_tokens: "),
        ("workers:\n  - name: a\n    url: http://a\n    kind: 7\n", ":4: workers."),
        ("workers:\n  - http://a\n  - b\n", ":3: workers.1.url: "),
        ("port: 1\nport: 2\n", ":2: port: given before, on line 1"),
        ("port: [1\n", ":2: "),
        ("- a\n", ":1: expected names and values"),
        ("local_worker:\n  speed: 3\n", ":2: local_worker.speed: no such setting"),
        (QWENS, ":3: bases.1.name: 'qwen' is the name of another base"),
        ("bases: [{name: base, model: a/b}]\n", ":1: bases.0.name: 'base' is the default base"),
        (
            "bases:\n- model: a/b\n  name: s\nrefresh: {aliases: [s]}\n",
            ":3: bases.0.name: 's' is an alias with versions",
        ),
        (
            "workers: [{name: w, url: http://a, kind: openai, models: {s@3: x}}]\n"
            "bases: [{name: s, model: a/b}]\n",
            ":2: bases.0.name: 's' is an alias with versions",
        ),
        (
            "bases: [{name: qwen, model: org/Qwen-1}]\n"
            "workers:\n- {name: w, url: http://a, base: qwen}\n"
            "- {name: v, url: http://b, base: qwen-awq}\n",
            ":4: workers.1.base: 'qwen-awq' is no base model here: say base or qwen, or add it",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, place: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    assert place in str(caught.value)


def test_a_base_may_be_named_where_no_version_is_meant(tmp_path: Path) -> None:
    text = (
        "bases: [{name: qwen, model: org/Qwen-1}, {name: other, model: org/Other}]\n"
        "workers: [{name: w, url: http://a, kind: openai, base: qwen, models: {qwen@0: x}}]\n"
        "feedback: {capture: {qwen: none}}\n"
    )
    assert [base.name for base in load(written(tmp_path, text)).bases] == ["qwen", "other"]


def test_a_clash_in_a_variable_is_named_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    base = '{"name": "qwen", "model": "org/Qwen-1"}'
    monkeypatch.setenv("ADAPTERLOOP_BASES", f"[{base}, {base}]")
    with pytest.raises(ConfigError, match=r"^ADAPTERLOOP_BASES: 'qwen' is the name of another"):
        load()


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, "port: 0\nnope: 1\n"))
    assert len(str(caught.value).splitlines()) == 2


def test_a_mistake_in_a_variable_is_named_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERLOOP_PORT", "eight")
    with pytest.raises(ConfigError, match=r"^ADAPTERLOOP_PORT: "):
        load()


def test_a_mistake_in_a_nested_variable_is_named_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERLOOP_LIMITS__MAX_N", "0")
    with pytest.raises(ConfigError, match=r"^ADAPTERLOOP_LIMITS__MAX_N: "):
        load()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: No such file"):
        load(tmp_path / "absent.yaml")


def test_an_empty_file_is_no_mistake(tmp_path: Path) -> None:
    assert load(written(tmp_path, "# nothing yet\n")).port == 8000


def test_workers_are_a_comma_separated_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERLOOP_WORKERS", "http://a:8001/v1/, http://b:8001")
    workers = load().workers
    assert [(w.name, w.url) for w in workers] == [
        ("worker-1", "http://a:8001"),
        ("worker-2", "http://b:8001"),
    ]


def test_a_worker_without_a_scheme_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERLOOP_WORKERS", "gpu-1:8001")
    with pytest.raises(ConfigError, match="ADAPTERLOOP_WORKERS"):
        load()


def test_relative_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTERLOOP_HOME", "here")
    assert load().home == tmp_path / "here"


def test_unknown_variables_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERLOOP_PROT", "8000")
    monkeypatch.setenv("ADAPTERLOOP_PORT", "8000")
    monkeypatch.setenv("ADAPTERLOOP_LIMITS__MAX_N", "1")
    monkeypatch.setenv("ADAPTERLOOP_ADMIN_KEY", "sk-from-keys-env")
    assert unknown_variables() == ["ADAPTERLOOP_PROT"]


def test_a_database_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERLOOP_DATABASE_URL", "postgresql://me:hidden@db/loop")
    assert "hidden" not in str(load().model_dump(mode="json"))


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("gs://bucket/x", "is neither a folder nor s3://bucket/prefix"),
        ("s3://", "is neither a folder nor s3://bucket/prefix"),
        ("s3://key:secret@bucket/x", "credentials and endpoint go into AWS_* variables"),
        ("7", "is neither a folder nor s3://bucket/prefix"),
    ],
)
def test_a_storage_that_is_none(tmp_path: Path, storage: str, message: str) -> None:
    path = written(tmp_path, f"port: 8000\nstorage: {storage}\n")
    with pytest.raises(ConfigError, match=":2: storage: ") as caught:
        load(path)
    assert message in str(caught.value)


def test_a_storage_is_a_folder_or_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(written(tmp_path, "storage: kept\n")).storage == str(tmp_path / "kept")
    assert load(written(tmp_path, "storage: s3://my-bucket/a/b/\n")).storage == "s3://my-bucket/a/b"


def test_a_bucket_needs_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"storage: .*pip install 'adapterloop\[s3\]'"):
        load(written(tmp_path, "storage: s3://bucket/x\n"))


@pytest.mark.parametrize(
    ("written_as", "share"), [("all", 1), ("off", 0), ("'off'", 0), ("0.25", 0.25)]
)
def test_the_share_of_calls_whose_confidence_is_measured(
    tmp_path: Path, written_as: str, share: float
) -> None:
    config = load(written(tmp_path, f"logprobs: {written_as}\n"))
    assert gateway_settings(config).logprobs == share


def test_more_than_all_calls_cannot_be_measured(tmp_path: Path) -> None:
    path = written(tmp_path, "port: 8000\nlogprobs: 2\n")
    with pytest.raises(ConfigError, match=":2: logprobs: "):
        load(path)
