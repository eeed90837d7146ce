"""``python -m build_engine``: what a script and a person see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from build_engine.__main__ import main

from .checkpoints import Shape, write_directory
from .test_publishing import ROOT, sha256


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A build of a small model."""
    source = write_directory(tmp_path / "source", Shape(layers=1))
    places = {"--source": source, "--repository": tmp_path / "models/repository", "--work-dir": tmp_path / "work"}
    return ["build", "--name", "tiny", *(str(each) for pair in places.items() for each in pair)]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "build_engine", *arguments]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_last_line_on_stdout_is_the_manifest(arguments: list[str], tmp_path: Path) -> None:
    """Progress goes to stderr; a script needs no parser for it. Built again, the line is the same."""
    first, second = run(*arguments), run(*arguments)
    assert (first.returncode, second.returncode) == (0, 0)
    on_disk = json.loads((tmp_path / "models/repository/tiny/1/manifest.json").read_text())
    assert json.loads(first.stdout.splitlines()[-1]) == on_disk == json.loads(second.stdout.splitlines()[-1])
    assert "emit" in first.stderr
    assert "tensors" in first.stderr
    assert second.stderr == ""


def test_quiet_is_quiet(arguments: list[str]) -> None:
    """Only the manifest remains."""
    ended = run(*arguments, "--quiet")
    assert (ended.returncode, ended.stderr, len(ended.stdout.splitlines())) == (0, "", 1)


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (("--source", "/nothing"), 2, "--source /nothing does not exist"),
        (("--name", "a/b"), 3, "--name 'a/b'"),
        (("--step-tokens", "0"), 3, "--step-tokens must be at least 1"),
        (("--context-length", "1000"), 3, "--context-length 1000 is beyond the model's 256"),
        (("--repository", "/proc/repository"), 4, "cannot write beside /proc/repository"),
    ],
)
def test_a_refusal_is_one_line_and_a_status(
    arguments: list[str], capsys: pytest.CaptureFixture[str], change: tuple[str, str], status: int, words: str
) -> None:
    """The line goes to stderr, stdout stays empty."""
    assert main([*arguments, "--quiet", *change]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {words}")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("change", [("--precision", "int3"), ("--target", "cuda"), ("--threads", "many")])
def test_a_choice_that_does_not_exist_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str], change: tuple[str, str]
) -> None:
    """With what there is to choose from."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *change])
    assert ended.value.code == 2
    assert change[1] in capsys.readouterr().err


GENERATION = ["--adapter x", "--adapter-base x", "--goldens x", "--context-length 9", "--slots 3", "--step-tokens 9"]
GENERATION += ["--kv-cache-tokens 9", "--max-sequences 9", "--priority-levels 1"]
CLASSIFICATION = ["--max-tokens 9", "--max-batch-size 9", "--preferred-batch-size 4", "--queue-delay-microseconds 5"]


@pytest.mark.parametrize(
    ("task", "flag"),
    [
        *(("text-classification", flag) for flag in GENERATION),
        *(("text-generation", flag) for flag in CLASSIFICATION),
    ],
)
def test_a_flag_of_another_task_is_refused_by_name(
    arguments: list[str], capsys: pytest.CaptureFixture[str], task: str, flag: str
) -> None:
    """Nothing that was asked for is left out in silence, whatever its value."""
    assert main([*arguments, "--quiet", "--task", task, *flag.split()]) == 3
    assert (
        capsys.readouterr().err == f"error: {flag.split(maxsplit=1)[0]} means nothing to --task {task}; leave it out\n"
    )


@pytest.mark.parametrize("task", ["text-generation", "text-classification"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-weight-only"])
def test_calibration_text_that_nothing_is_fitted_to_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str], task: str, precision: str
) -> None:
    """Only int8 has something to fit."""
    asked = ["--task", task, "--target", "onnxruntime", "--precision", precision]
    asked += ["--calibration", "c", "--held-out", "h"]
    assert main([*arguments, *asked]) == 3
    assert capsys.readouterr().err.startswith(f"error: --calibration is what int8 is fitted to; {precision}")


def test_a_cache_that_no_host_has_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Before an hour of work, with how much it is."""
    asked = ["--target", "onnxruntime", "--precision", "fp32", "--slots", "100000000"]
    assert main([*arguments, *asked]) == 3
    assert "--slots: 100000000 of 256 tokens take 6.6 TB in fp16" in capsys.readouterr().err


def test_force_reaches_the_build(arguments: list[str], tmp_path: Path) -> None:
    """A second version of the same."""
    for _ in range(2):
        assert main([*arguments, "--quiet", "--force"]) == 0
    assert (tmp_path / "models/repository/tiny/2/manifest.json").exists()


def test_inspect_shows_facts_and_a_changed_byte(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a person and as JSON; of a version, a model and a repository. Status 1 when a file differs."""
    main([*arguments, "--quiet", "--precision", "int8"])
    capsys.readouterr()
    repository = tmp_path / "models/repository"
    for path in (repository, repository / "tiny", repository / "tiny/1"):
        assert main(["inspect", str(path)]) == 0
        text = capsys.readouterr().out
        for fact in ("tiny: LlamaForCausalLM, 1 layers", "openvino, int8", "kv_cache_tokens 16384", "all as the man"):
            assert fact in text
        assert sha256(tmp_path / "source/model.safetensors")[:16] in text
    binary = repository / "tiny/1/engine/openvino.bin"
    content = bytearray(binary.read_bytes())
    content[len(content) // 2] ^= 1
    binary.write_bytes(content)
    assert main(["inspect", str(repository)]) == 1
    assert "PROBLEM    engine/openvino.bin has another content" in capsys.readouterr().out
    assert main(["inspect", str(repository), "--json"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["problems"] == ["engine/openvino.bin has another content"]


@pytest.mark.parametrize("path", ["nothing", "source", "source/config.json"])
def test_inspect_of_something_else_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    """A path that holds no version."""
    assert main(["inspect", str(tmp_path / path)]) == 2
    assert "is no model version, model or repository" in capsys.readouterr().err
