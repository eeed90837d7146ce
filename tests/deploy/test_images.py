"""The promises of the Dockerfile and of docker-compose.yml, without Docker. `python -m deploy.images.prove` runs the
stages' commands in a clean Debian; here runs what takes seconds.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from deploy.images import dockerfile
from deploy.images.dockerfile import Stage
from deploy.local import triton_server
from gateway.settings import Settings
from gateway.telemetry.prices import read_prices
from gateway.traffic.quotas.config import read_quotas

from .conftest import ROOT, Document, pods, tool

SERVED = ("triton", "gateway", "redis", "prometheus", "alertmanager", "grafana")


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    """The Dockerfile."""
    return dockerfile.read(ROOT / "Dockerfile")


def compose(*arguments: str) -> Document:
    """What `docker compose config` makes of the file: checked against its schema and merged, with no host variables."""
    command = [tool("docker-compose"), "--project-directory", str(ROOT), *arguments, "config"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={"HOME": "/nonexistent"})
    found: Document = yaml.safe_load(done.stdout)
    return found


def test_the_linter_has_nothing_to_say() -> None:
    """Hadolint, with every rule."""
    done = subprocess.run([tool("hadolint"), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_bases_are_pinned(stages: dict[str, Stage]) -> None:
    """Every image that is not a stage has a whole version."""
    bases = [stage.base for stage in stages.values() if stage.base not in stages]
    assert bases
    for base in bases:
        assert re.search(r":\d+\.\d+(\.\d+)?-", base), base


def test_images_run_as_nobody_of_note(stages: dict[str, Stage]) -> None:
    """Every image that is run ends as a user by number that is not root, starts its program directly so that it gets
    the signals, and the servers know when they are well.
    """
    for name in ("gateway", "triton", "build", "demo"):
        instructions = [each for stage in dockerfile.lineage(stages, name) for each in stage.instructions]
        users = [each.text for each in instructions if each.name == "USER"]
        assert re.fullmatch(r"1\d{4}:1\d{4}", users[-1])
        for each in instructions:
            if each.name in ("ENTRYPOINT", "CMD"):
                assert each.text.startswith("["), "exec form"
    for name in ("gateway", "triton"):
        assert [each for each in stages[name].instructions if each.name == "HEALTHCHECK"]


def test_packages_are_the_extras(stages: dict[str, Stage]) -> None:
    """An image installs what pyproject.toml declares for it, as wheels, in the versions of constraints.txt; and neither
    the gateway nor Triton gets torch or the other's packages.
    """
    wanted = {"gateway-packages": "gateway", "triton": "backend", "build": "build"}
    for name, extra in wanted.items():
        (run,) = [
            each.text for each in stages[name].instructions if "requirements.py" in each.text and each.name == "RUN"
        ]
        extras = run.partition("requirements.py ")[2].partition(" >")[0].split()
        assert extra in extras
        assert "--only-binary :all: -c constraints.txt" in run
        command = [sys.executable, str(ROOT / "deploy/images/requirements.py"), *extras]
        lines = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
        assert not [each for each in lines if each.startswith(("torch", "transformers", "nvidia-pytriton", "tidegate"))]
        assert ("fastapi==0.165.0" in lines) == (extra == "gateway")
        assert any(each.startswith("numpy") and ("<2" in each) == (extra == "backend") for each in lines)


def test_the_context_holds_what_is_copied_and_no_more(stages: dict[str, Stage]) -> None:
    """.dockerignore lets through every source of a COPY, and neither secrets, weights nor history."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    def enters(path: str) -> bool:
        found = True
        for rule in rules:
            pattern = rule.removeprefix("!")
            parts = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
            if any(fnmatch.fnmatch(each, pattern.removeprefix("**/")) for each in parts) or pattern == "*":
                found = rule.startswith("!")
        return found

    for stage in stages.values():
        for each in stage.instructions:
            if each.name == "COPY" and not each.text.startswith("--from"):
                for source in shlex.split(each.text)[:-1]:
                    assert (ROOT / source).exists(), source
                    assert enters(source), source
    for path in (".git/config", "secrets/jwt_key", "model_repository/generate/1/engine", ".env", "tests/conftest.py"):
        assert not enters(path), path


def test_a_profile_picks_the_processor() -> None:
    """CPU by default, GPU by profile: one Triton either way, by one name, the same but for the GPU."""
    cpu, gpu = compose(), compose("--profile", "gpu")
    assert set(cpu["services"]) == set(SERVED)
    assert set(gpu["services"]) == {*SERVED, "triton-gpu"} - {"triton"}
    one, other = cpu["services"]["triton"], gpu["services"]["triton-gpu"]
    assert other["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    differ = ("profiles", "deploy")
    assert {key: one[key] for key in one if key not in differ} == {
        key: other[key] for key in other if key not in differ
    }


def test_every_service_is_confined() -> None:
    """A read-only image, no capability, no new privilege, bounds, a pinned version; ports on loopback."""
    whole = compose("--profile", "*")
    for name, service in whole["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
        assert service["pids_limit"]
        assert re.search(r":v?\d+\.\d+\.\d+(-alpine)?$", service["image"]), service["image"]
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1"


def test_who_shares_a_network_has_something_to_say() -> None:
    """Triton and Redis reach nothing outside and are not published. Redis is with the gateway only, Triton's gRPC and
    so its model control with the gateway and a rollout; Prometheus is with whom it asks, and who asks it is not.
    """
    whole = compose("--profile", "*")
    services = whole["services"]

    def members(network: str) -> set[str]:
        return {name for name, each in services.items() if network in (each.get("networks") or {})}

    for name in ("triton", "triton-gpu", "redis"):
        assert "ports" not in services[name]
        assert all(whole["networks"][each]["internal"] for each in services[name]["networks"])
    tritons = {"triton", "triton-gpu"}
    assert members("model") == {"gateway", "rollout", *tritons}
    assert members("state") == {"gateway", "redis"}
    assert members("metrics") == {"gateway", "prometheus", *tritons}
    assert members("watching") == {"prometheus", "grafana", "alertmanager"}
    assert members("outside") == {"gateway"}
    host, _ = services["gateway"]["environment"]["TIDEGATE_TRITON_URL"].split(":")
    for name in tritons:
        aliases = {network: each["aliases"] for network, each in services[name]["networks"].items()}
        assert [network for network, names in aliases.items() if host in names] == ["model"]
        assert f"--grpc-address={host}" in services[name]["command"]
        assert "--http-address=127.0.0.1" in services[name]["command"]


def test_files_that_settings_name_are_there() -> None:
    """What Compose's gateway reads is mounted from the repository and can be used; what it writes is on a volume that
    its user owns in the image.
    """
    gateway = compose()["services"]["gateway"]
    mounts = {each["target"]: each for each in gateway["volumes"]}
    settings = {
        name.removeprefix("TIDEGATE_").lower(): Path(value)
        for name, value in gateway["environment"].items()
        if name.endswith("_FILE") and not value.startswith("/run/secrets/")
    }
    assert set(settings) == {"policy_file", "quota_file", "price_file", "audit_file", "feedback_file"}
    for name in ("audit_file", "feedback_file"):
        assert mounts[str(settings[name].parent)]["type"] == "volume"
        assert f"--owner=10001 --group=10001 --mode=0700 {settings[name].parent}" in (ROOT / "Dockerfile").read_text()
    read = {
        name: Path(mounts[str(settings[name].parent)]["source"]) / settings[name].name
        for name in settings
        if mounts[str(settings[name].parent)]["type"] == "bind"
    }
    assert read["policy_file"].is_file()
    limits = read_quotas(read["quota_file"]).limits("anybody", "")
    assert all(limits.values()), "one tenant could take everything"
    assert Settings.model_fields["model"].default in read_prices(read["price_file"])


def test_secrets_are_files() -> None:
    """No variable of a service holds one, and what settings read from /run/secrets is a secret of the service."""
    whole = compose()
    assert all(Path(each["file"]).parent.name == "secrets" for each in whole["secrets"].values())
    for service in whole["services"].values():
        given = {each["source"] for each in service.get("secrets", [])}
        for name, value in (service.get("environment") or {}).items():
            if re.search("KEY|PASSWORD|REDIS_URL", name):
                assert value.startswith("/run/secrets/")
                assert value.rpartition("/")[2] in given


def test_every_service_is_watched() -> None:
    """By a check of its own or by its image's."""
    for name, service in compose()["services"].items():
        assert "healthcheck" in service or name in ("gateway", "triton")


def test_compose_settings_exist() -> None:
    """As in Kubernetes, a name that is no setting would be silence."""
    known = {f"TIDEGATE_{name.upper()}" for name in Settings.model_fields}
    assert set(compose()["services"]["gateway"]["environment"]) <= known


def test_a_container_has_time_to_leave() -> None:
    """Docker waits longer than the program's own grace."""
    services = compose()["services"]
    grace = int(services["gateway"]["environment"]["TIDEGATE_SHUTDOWN_GRACE_SECONDS"])
    assert _seconds(services["gateway"]["stop_grace_period"]) > grace
    assert _seconds(services["triton"]["stop_grace_period"]) > 120


def _seconds(text: str) -> int:
    minutes, _, rest = text.rpartition("m") if "m" in text else ("0", "", text)
    return 60 * int(minutes) + int(rest.removesuffix("s") or 0)


def test_prometheus_and_grafana_find_each_other() -> None:
    """What is scraped, alerted and drawn from is a service and a port of this file."""
    services = compose()["services"]
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = [
        target
        for job in (*prometheus["scrape_configs"], *prometheus["alerting"]["alertmanagers"])
        for static in job["static_configs"]
        for target in static["targets"]
    ]
    datasource = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    targets.append(datasource["datasources"][0]["url"].removeprefix("http://"))
    assert {f"gateway:{services['gateway']['environment']['TIDEGATE_METRICS_PORT']}", "triton:8002"} <= set(targets)
    assert {target.split(":")[0] for target in targets} <= {*services, "localhost"}
    provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/tidegate.yml").read_text())["providers"][
        0
    ]
    mounted = {each["target"]: each["source"] for each in services["grafana"]["volumes"]}
    assert Path(mounted[provider["options"]["path"]]) == ROOT / "deploy/grafana/dashboards"


def test_triton_is_started_the_same_everywhere(stages: dict[str, Stage], cpu: list[Document]) -> None:
    """The image's command is the Kubernetes arguments, and Compose's but for where it listens."""
    command = stages["triton"].last("CMD")
    assert command == pods(cpu)["triton"]["spec"]["containers"][0]["args"]
    in_compose = compose()["services"]["triton"]["command"]
    assert [each for each in in_compose if "-address=" not in each] == command


def test_triton_takes_its_arguments(stages: dict[str, Stage], tmp_path: Path) -> None:
    """A real Triton starts with Compose's command, which is the image's and addresses (on a repository without a model,
    ports of its own, and a name of this machine), is well by the image's own check, shows gRPC and HTTP on their own
    addresses and its metrics on all, and ends by itself when told to.
    """
    ports = _free_ports(3)
    command = triton_server.command(tmp_path, tmp_path / "run", triton_server.Ports(*ports))
    _, *arguments = [each.replace("triton-grpc", "localhost") for each in compose()["services"]["triton"]["command"]]
    assert set(stages["triton"].last("CMD")[1:]) < set(arguments)
    known = subprocess.run(
        [command[0], "--help"], env=triton_server.environment(), capture_output=True, text=True, check=False
    )
    for each in arguments:
        assert each.partition("=")[0] in known.stdout + known.stderr
    shipped = [each for each in arguments if not each.startswith(("--model-repository", "--load-model"))]
    names = {each.partition("=")[0] for each in shipped}
    whole = [*(each for each in command if each.partition("=")[0] not in names), *shipped]
    process = subprocess.Popen(
        [each for each in whole if each != "--load-model=*"],
        env=triton_server.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not _well(f"http://127.0.0.1:{ports[0]}/v2/health/ready"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        open_elsewhere = [_open("127.0.0.2", port) for port in ports]
        assert (_open("127.0.0.1", ports[1]), open_elsewhere) == (True, [False, False, True])
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def test_the_gateway_runs_on_its_packages_alone(stages: dict[str, Stage], tmp_path: Path) -> None:
    """The command of the stage that installs them, in a plain environment elsewhere; then the gateway answers."""
    (run,) = [each.text for each in stages["gateway-packages"].instructions if each.name == "RUN"]
    for name in ("pyproject.toml", "constraints.txt", "deploy/images/requirements.py"):
        shutil.copy(ROOT / name, tmp_path)
    home = tmp_path / "opt"
    script = run.replace("/opt/tidegate", str(home)).replace("&& pip ", f"&& {sys.executable} -m pip ")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["/bin/sh", "-ec", script], check=True, cwd=tmp_path, env=os.environ | {"PATH": path}, stdout=2)
    shutil.copytree(ROOT / "gateway", tmp_path / "app" / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    (port,) = _free_ports(1)
    settings = {
        "TIDEGATE_PORT": str(port),
        "TIDEGATE_JWT_KEY": "0123456789abcdef" * 4,
        "TIDEGATE_POLICY_FILE": str(ROOT / "deploy/policy/policy.yaml"),
        "PYTHONPATH": str(tmp_path / "app"),
    }
    assert not list((home / "bin").glob("pip*"))
    process = subprocess.Popen(
        [home / "bin" / "python", "-m", "gateway", "serve"], env=settings, cwd=tmp_path, stdout=2
    )
    try:
        deadline = time.monotonic() + 60
        while not _well(f"http://127.0.0.1:{port}/health/live"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.terminate()
        process.wait(timeout=15)


def _open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def _well(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_the_reader_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    """An instruction that the proof would pass over is an error, not silence."""
    path = tmp_path / "Dockerfile"
    path.write_text('FROM a:1 AS b\nSHELL ["x"]\n')
    with pytest.raises(ValueError, match="SHELL"):
        dockerfile.read(path)
    path.write_text("FROM a:1\n")
    with pytest.raises(ValueError, match="AS NAME"):
        dockerfile.read(path)


def test_the_reader_reads() -> None:
    """Continued lines are one, comments are none, exec forms are lists."""
    stages = dockerfile.read(ROOT / "Dockerfile")
    assert [stage.name for stage in dockerfile.lineage(stages, "demo")] == ["triton", "build", "demo"]
    assert stages["gateway"].last("ENTRYPOINT") == ["python", "-m", "gateway"]
    assert json.dumps(stages["triton"].last("CMD")).count("--") == 6
